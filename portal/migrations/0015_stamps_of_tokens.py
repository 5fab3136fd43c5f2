"""A token's stamp, and reservations that undo nothing in the usual case that everything fits.

The stamp names the rows that decide whether a token is valid, in the versions that they have now: whoever has seen
them with this stamp knows that none of them has changed since.
"""

from importlib import import_module

from django.db import migrations

STAMP = """
CREATE FUNCTION portal_token_stamp(the_key text) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    stamp text;
BEGIN
    SELECT format(
        '%s%s %s%s %s%s %s%s %s%s', token.ctid, token.xmin, team.ctid, team.xmin, person.ctid, person.xmin,
        account.ctid, account.xmin, member.ctid, member.xmin
    ) INTO stamp
    FROM portal_apitoken token
    JOIN portal_team team ON team.id = token.team_id
    JOIN portal_user person ON person.id = token.created_by_id
    LEFT JOIN portal_serviceaccount account ON account.id = token.service_account_id
    LEFT JOIN portal_membership member ON member.team_id = token.team_id AND member.user_id = token.created_by_id
    WHERE token.key_id = the_key;
    RETURN stamp;
END $$;
"""
# As before, but the windows that are there already are tried first, one after the other in the order of the alphabet;
# only if one is missing or full, what was taken of the others is given back, and all is done the long way.
RESERVE = """
CREATE OR REPLACE FUNCTION portal_reserve(
    the_team uuid, reservation uuid, kinds text[], amounts bigint[], moment timestamptz, keep interval
) RETURNS TABLE (kind text, starts_at timestamptz, most bigint, used bigint, moment_taken timestamptz, refused boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    taken_at timestamptz := coalesce(moment, clock_timestamp());
    starts timestamptz[] := '{}';
    limits bigint[] := '{}';
    sums bigint[] := '{}';
    refused_kind text := '';
    position int;
    taken int := 0;
    new_sum bigint;
BEGIN
    FOR position IN 1 .. array_length(kinds, 1) LOOP
        starts := starts || portal_window(kinds[position], taken_at);
        limits := limits || portal_limit(the_team, kinds[position]);
    END LOOP;
    FOR position IN 1 .. array_length(kinds, 1) LOOP
        UPDATE portal_quotawindow SET used = used + amounts[position]
        WHERE team_id = the_team AND kind = kinds[position] AND starts_at = starts[position]
            AND (limits[position] IS NULL OR amounts[position] = 0 OR used + amounts[position] <= limits[position])
        RETURNING used INTO new_sum;
        EXIT WHEN NOT FOUND;
        taken := position;
        sums := sums || new_sum;
    END LOOP;
    IF taken = array_length(kinds, 1) THEN
        IF reservation IS NOT NULL THEN
            INSERT INTO portal_quotareservation (id, team_id, kinds, starts, amounts, expires_at)
            VALUES (reservation, the_team, kinds, starts, amounts, now() + keep);
        END IF;
        FOR position IN 1 .. array_length(kinds, 1) LOOP
            RETURN QUERY SELECT
                kinds[position], starts[position], limits[position], sums[position], taken_at, false;
        END LOOP;
        RETURN;
    END IF;
    FOR position IN 1 .. taken LOOP
        UPDATE portal_quotawindow SET used = used - amounts[position]
        WHERE team_id = the_team AND kind = kinds[position] AND starts_at = starts[position];
    END LOOP;
    sums := '{}';
    BEGIN
        FOR position IN 1 .. array_length(kinds, 1) LOOP
            INSERT INTO portal_quotawindow AS counted (id, team_id, kind, starts_at, used)
            SELECT gen_random_uuid(), the_team, kinds[position], starts[position], amounts[position]
            WHERE limits[position] IS NULL OR amounts[position] = 0 OR amounts[position] <= limits[position]
            ON CONFLICT (team_id, kind, starts_at) DO UPDATE SET used = counted.used + excluded.used
            WHERE limits[position] IS NULL OR amounts[position] = 0
                OR counted.used + excluded.used <= limits[position]
            RETURNING counted.used INTO new_sum;
            IF NOT FOUND THEN
                RAISE EXCEPTION USING ERRCODE = 'TQ001', MESSAGE = kinds[position];
            END IF;
            sums := sums || new_sum;
        END LOOP;
        IF reservation IS NOT NULL THEN
            INSERT INTO portal_quotareservation (id, team_id, kinds, starts, amounts, expires_at)
            VALUES (reservation, the_team, kinds, starts, amounts, now() + keep);
        END IF;
    EXCEPTION WHEN SQLSTATE 'TQ001' THEN
        refused_kind := SQLERRM;
        SELECT array_agg(coalesce(counted.used, 0) ORDER BY wanted.position) INTO sums
        FROM unnest(kinds, starts) WITH ORDINALITY AS wanted (kind, starts_at, position)
        LEFT JOIN portal_quotawindow counted
            ON counted.team_id = the_team AND counted.kind = wanted.kind AND counted.starts_at = wanted.starts_at;
    END;
    RETURN QUERY SELECT row.kind, row.starts_at, row.most, row.used, taken_at, row.kind = refused_kind
        FROM unnest(kinds, starts, limits, sums) AS row (kind, starts_at, most, used);
END $$;
"""
_EARLIER = import_module("portal.migrations.0012_nothing_always_fits").RESERVE


class Migration(migrations.Migration):
    dependencies = [("portal", "0014_keys_of_endpoints")]

    operations = [
        migrations.RunSQL(STAMP, "DROP FUNCTION portal_token_stamp(text)"),
        migrations.RunSQL(RESERVE, _EARLIER.replace("/*nothing*/", "OR amounts[position] = 0")),
    ]
