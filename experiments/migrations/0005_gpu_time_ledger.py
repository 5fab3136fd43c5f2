"""The database itself books what a run's GPU time grew by, to the day (UTC) on which it grew."""

from django.db import migrations

# Whoever charges a run, from wherever, cannot forget the ledger; and a run across midnight counts on both days.
FORWARD = """
CREATE FUNCTION experiments_book_gpu_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO portal_usageday AS known (team_id, day, token_id, model, requests, errors, prompt_tokens,
        completion_tokens, gpu_seconds, storage_bytes)
    VALUES (NEW.team_id, (now() AT TIME ZONE 'UTC')::date, '00000000-0000-0000-0000-000000000000', '', 0, 0, 0, 0,
        NEW.gpu_seconds - OLD.gpu_seconds, 0)
    ON CONFLICT (team_id, day, token_id, model) DO UPDATE SET gpu_seconds = known.gpu_seconds + excluded.gpu_seconds;
    RETURN NULL;
END $$;
CREATE TRIGGER run_gpu_time_is_booked AFTER UPDATE OF gpu_seconds ON experiments_run
    FOR EACH ROW WHEN (NEW.gpu_seconds > OLD.gpu_seconds) EXECUTE FUNCTION experiments_book_gpu_time();
"""
BACKWARD = "DROP TRIGGER run_gpu_time_is_booked ON experiments_run; DROP FUNCTION experiments_book_gpu_time();"
# What was used before there was a ledger: of runs, on the day on which they ended.
EARLIER = """
SELECT set_config('app.all_teams', 'on', true);
INSERT INTO portal_usageday (team_id, day, token_id, model, requests, errors, prompt_tokens, completion_tokens,
    gpu_seconds, storage_bytes)
SELECT team_id, (coalesce(ended_at, started_at, queued_at) AT TIME ZONE 'UTC')::date,
    '00000000-0000-0000-0000-000000000000'::uuid, '', 0, 0, 0, 0, sum(gpu_seconds), 0
FROM experiments_run WHERE gpu_seconds > 0 GROUP BY 1, 2
ON CONFLICT DO NOTHING;
SELECT set_config('app.all_teams', '', true);
"""


class Migration(migrations.Migration):
    dependencies = [("experiments", "0004_run_priority"), ("portal", "0009_gpu_time_of_a_month")]

    operations = [
        migrations.RunSQL(FORWARD, BACKWARD),
        migrations.RunSQL(EARLIER, migrations.RunSQL.noop),
    ]
