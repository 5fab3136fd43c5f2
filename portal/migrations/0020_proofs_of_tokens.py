"""What proves a token's secret, found by its key id alone: all that is asked when a key is refused."""

from django.db import migrations

PROOF = """
CREATE FUNCTION portal_token_proof(the_key text) RETURNS TABLE (digest text, pepper_id text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.all_teams', 'on', true);
    RETURN QUERY SELECT token.digest::text, token.pepper_id::text FROM portal_apitoken token
    WHERE token.key_id = the_key;
    PERFORM set_config('app.all_teams', '', true);
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("portal", "0019_gpus_of_nodes")]

    operations = [migrations.RunSQL(PROOF, "DROP FUNCTION portal_token_proof(text)")]
