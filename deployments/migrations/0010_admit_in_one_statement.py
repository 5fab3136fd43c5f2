"""A request to a model is let in by one statement, if the process that asks remembers token and target rightly."""

from django.db import migrations

# No row: something has changed since it was remembered, and nothing was taken.
ADMIT = """
CREATE FUNCTION deployments_admit(
    the_key text, token_stamp text, the_name text, target_stamp text,
    the_team uuid, reservation uuid, kinds text[], amounts bigint[], moment timestamptz, keep interval
) RETURNS TABLE (kind text, starts_at timestamptz, most bigint, used bigint, moment_taken timestamptz, refused boolean)
LANGUAGE plpgsql AS $$
DECLARE
    stamp text;
BEGIN
    -- What is set aside must not wait for the disk while the team's rows are locked.
    PERFORM set_config('synchronous_commit', 'off', true), set_config('app.all_teams', 'on', true),
        set_config('app.team_id', '', true);
    IF portal_token_stamp(the_key) IS DISTINCT FROM token_stamp THEN
        RETURN;
    END IF;
    PERFORM set_config('app.all_teams', '', true), set_config('app.team_id', the_team::text, true);
    SELECT format('d%s%s', ctid, xmin) INTO stamp
    FROM deployments_deployment WHERE team_id = the_team AND name = the_name;
    IF NOT FOUND THEN
        SELECT format('b%s%s', ctid, xmin) INTO stamp FROM portal_basemodel WHERE slug = the_name;
    END IF;
    IF stamp IS DISTINCT FROM target_stamp THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT * FROM portal_reserve(the_team, reservation, kinds, amounts, moment, keep);
END $$;
"""


class Migration(migrations.Migration):
    dependencies = [("deployments", "0009_exports"), ("portal", "0015_stamps_of_tokens")]

    operations = [
        migrations.RunSQL(
            ADMIT,
            "DROP FUNCTION deployments_admit"
            "(text, text, text, text, uuid, uuid, text[], bigint[], timestamptz, interval)",
        ),
    ]
