"""Bring the requests that were counted before there was a usage ledger into it."""

from django.db import migrations

EARLIER = """
SELECT set_config('app.all_teams', 'on', true);
INSERT INTO portal_usageday AS known (team_id, day, token_id, model, requests, errors, prompt_tokens,
    completion_tokens, gpu_seconds, storage_bytes)
SELECT team_id, (at AT TIME ZONE 'UTC')::date, coalesce(token_id, '00000000-0000-0000-0000-000000000000'::uuid), model,
    count(*), count(*) FILTER (WHERE status >= 400 AND status <> 499), sum(prompt_tokens), sum(completion_tokens), 0, 0
FROM deployments_inferencerecord GROUP BY 1, 2, 3, 4
ON CONFLICT DO NOTHING;
SELECT set_config('app.all_teams', '', true);
"""


class Migration(migrations.Migration):
    dependencies = [("deployments", "0003_next_version"), ("portal", "0009_gpu_time_of_a_month")]

    operations = [migrations.RunSQL(EARLIER, migrations.RunSQL.noop)]
