"""Requests with the same token to the same model are let in together, by one statement: most of what it costs is one."""

from importlib import import_module

from django.db import migrations

# No row: something has changed since it was remembered, and nothing was taken. `amounts` is the sum over all requests
# in the order of `kinds`; `each` has what every one of them takes, one after the other. All fit, or nothing is taken.
ADMIT = """
CREATE FUNCTION deployments_admit(
    the_key text, token_stamp text, the_name text, target_stamp text, the_team uuid, reservations uuid[],
    kinds text[], amounts bigint[], each bigint[], moment timestamptz, keep interval
) RETURNS TABLE (kind text, starts_at timestamptz, most bigint, used bigint, moment_taken timestamptz, refused boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    stamp text;
    starts timestamptz[] := '{}';
    do_fit boolean := true;
    width int := array_length(kinds, 1);
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
    FOR kind, starts_at, most, used, moment_taken, refused IN
        SELECT * FROM portal_reserve(the_team, NULL, kinds, amounts, moment, keep)
    LOOP
        starts := starts || starts_at;
        do_fit := do_fit AND NOT refused;
        RETURN NEXT;
    END LOOP;
    IF do_fit THEN
        INSERT INTO portal_quotareservation (id, team_id, kinds, starts, amounts, expires_at)
        SELECT one.id, the_team, kinds, starts, each[(one.position - 1) * width + 1 : one.position * width], now() + keep
        FROM unnest(reservations) WITH ORDINALITY AS one (id, position);
    END IF;
END $$;
"""
_DROP = (
    "DROP FUNCTION deployments_admit"
    "(text, text, text, text, uuid, uuid[], text[], bigint[], bigint[], timestamptz, interval)"
)
_EARLIER = import_module("deployments.migrations.0010_admit_in_one_statement")


class Migration(migrations.Migration):
    dependencies = [("deployments", "0013_canary"), ("portal", "0017_quicker_limits")]

    operations = [
        migrations.RunSQL(ADMIT, _DROP),
        migrations.RunSQL(
            "DROP FUNCTION deployments_admit"
            "(text, text, text, text, uuid, uuid, text[], bigint[], timestamptz, interval)",
            _EARLIER.ADMIT,
        ),
    ]
