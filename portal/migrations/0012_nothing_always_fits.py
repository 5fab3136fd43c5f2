"""Who asks for nothing of a limit is let in, however much of it is used: asking for the list of models takes no tokens."""

from django.db import migrations

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
    new_sum bigint;
BEGIN
    FOR position IN 1 .. array_length(kinds, 1) LOOP
        starts := starts || portal_window(kinds[position], taken_at);
        limits := limits || portal_limit(the_team, kinds[position]);
    END LOOP;
    BEGIN
        FOR position IN 1 .. array_length(kinds, 1) LOOP
            INSERT INTO portal_quotawindow AS counted (id, team_id, kind, starts_at, used)
            SELECT gen_random_uuid(), the_team, kinds[position], starts[position], amounts[position]
            WHERE limits[position] IS NULL /*nothing*/ OR amounts[position] <= limits[position]
            ON CONFLICT (team_id, kind, starts_at) DO UPDATE SET used = counted.used + excluded.used
            WHERE limits[position] IS NULL /*nothing*/
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


class Migration(migrations.Migration):
    dependencies = [("portal", "0011_usage_of_all_teams_by_day")]

    operations = [migrations.RunSQL(RESERVE.replace("/*nothing*/", "OR amounts[position] = 0"), RESERVE)]
