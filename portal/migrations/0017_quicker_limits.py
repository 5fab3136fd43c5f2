"""What is looked up for every request is planned once for each connection, and reservations are written without a look
at the team's row: they live for minutes, and each of those looks would lock the row.
"""

from importlib import import_module

import django.db.models.deletion
from django.db import migrations, models

# In SQL its plan would be made anew in each transaction.
LIMIT = """
CREATE OR REPLACE FUNCTION portal_limit(the_team uuid, the_kind text) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    found_limit bigint;
BEGIN
    SELECT value INTO found_limit FROM portal_teamlimit WHERE team_id = the_team AND kind = the_kind;
    IF FOUND THEN
        RETURN found_limit;
    END IF;
    SELECT value INTO found_limit FROM portal_platformlimit WHERE kind = the_kind;
    IF FOUND THEN
        RETURN found_limit;
    END IF;
    RETURN CASE the_kind
        WHEN 'gpu_seconds_per_month' THEN 1800000
        WHEN 'concurrent_runs' THEN 2
        WHEN 'queued_runs' THEN 100
        WHEN 'storage_bytes' THEN 50000000000
        WHEN 'deployments' THEN 50
        WHEN 'requests_per_minute' THEN 6000
        WHEN 'tokens_per_minute' THEN 10000000
        WHEN 'tokens_per_month' THEN 5000000000
    END;
END $$;
"""
_EARLIER_LIMIT = import_module("portal.migrations.0008_quota_functions").LIMIT.replace(
    "CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"
)
_EARLIER = import_module("portal.migrations.0015_stamps_of_tokens").RESERVE
_ROWS = """            RETURN QUERY SELECT
                kinds[position], starts[position], limits[position], sums[position], taken_at, false;
"""
_ROW = """            kind := kinds[position];
            starts_at := starts[position];
            most := limits[position];
            used := sums[position];
            moment_taken := taken_at;
            refused := false;
            RETURN NEXT;
"""
RESERVE = _EARLIER.replace(_ROWS, _ROW)


class Migration(migrations.Migration):
    dependencies = [("portal", "0016_webhook_secrets")]

    operations = [
        migrations.RunSQL(LIMIT, _EARLIER_LIMIT),
        migrations.RunSQL(RESERVE, _EARLIER),
        migrations.AlterField(
            model_name="quotareservation",
            name="team",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="%(class)ss",
                to="portal.team",
            ),
        ),
    ]
