"""Add up a team's GPU time of a month inside the database, where the scheduler asks for it."""

from django.db import migrations

# Rows of requests name a model; GPU time is on the rows that name none.
FORWARD = """
CREATE FUNCTION portal_gpu_seconds(the_team uuid, moment timestamptz) RETURNS double precision LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(gpu_seconds), 0) FROM portal_usageday
    WHERE team_id = the_team AND model = '' AND token_id = '00000000-0000-0000-0000-000000000000'
        AND day >= (portal_window('gpu_seconds_per_month', moment) AT TIME ZONE 'UTC')::date
        AND day < ((portal_window('gpu_seconds_per_month', moment) AT TIME ZONE 'UTC') + interval '1 month')::date
$$;
"""


class Migration(migrations.Migration):
    dependencies = [("portal", "0008_quota_functions")]

    operations = [
        migrations.RunSQL(FORWARD, "DROP FUNCTION portal_gpu_seconds(uuid, timestamptz)"),
    ]
