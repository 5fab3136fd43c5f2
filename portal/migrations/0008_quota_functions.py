"""Limits are looked up and amounts are set aside inside the database, in one statement each."""

from django.db import migrations

# What holds while neither a team nor the platform says otherwise.
LIMIT = """
CREATE FUNCTION portal_limit(the_team uuid, the_kind text) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN own.id IS NOT NULL THEN own.value
        WHEN preset.kind IS NOT NULL THEN preset.value
        ELSE CASE the_kind
            WHEN 'gpu_seconds_per_month' THEN 1800000
            WHEN 'concurrent_runs' THEN 2
            WHEN 'queued_runs' THEN 100
            WHEN 'storage_bytes' THEN 50000000000
            WHEN 'deployments' THEN 50
            WHEN 'requests_per_minute' THEN 6000
            WHEN 'tokens_per_minute' THEN 10000000
            WHEN 'tokens_per_month' THEN 5000000000
        END
    END
    FROM (SELECT 1) AS always
    LEFT JOIN portal_teamlimit own ON own.team_id = the_team AND own.kind = the_kind
    LEFT JOIN portal_platformlimit preset ON preset.kind = the_kind
$$;
"""
# The minute or month (of UTC) in which a moment lies.
WINDOW = """
CREATE FUNCTION portal_window(the_kind text, moment timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT date_trunc(CASE WHEN the_kind LIKE '%_per_minute' THEN 'minute' ELSE 'month' END, moment, 'UTC')
$$;
"""
# All amounts are taken, or none: what was taken before one is refused is undone by the block's own rollback. Callers
# name the kinds in the order of the alphabet, so that two of them never wait for each other.
RESERVE = """
CREATE FUNCTION portal_reserve(
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
            WHERE limits[position] IS NULL OR amounts[position] <= limits[position]
            ON CONFLICT (team_id, kind, starts_at) DO UPDATE SET used = counted.used + excluded.used
            WHERE limits[position] IS NULL OR counted.used + excluded.used <= limits[position]
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
    dependencies = [("portal", "0007_quotas_and_usage")]

    operations = [
        migrations.RunSQL(LIMIT, "DROP FUNCTION portal_limit(uuid, text)"),
        migrations.RunSQL(WINDOW, "DROP FUNCTION portal_window(text, timestamptz)"),
        migrations.RunSQL(
            RESERVE, "DROP FUNCTION portal_reserve(uuid, uuid, text[], bigint[], timestamptz, interval)"
        ),
    ]
