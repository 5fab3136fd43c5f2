"""Sweeps know several rules by which losers are stopped: none, the median, successive halving."""

from django.db import migrations, models

# Rows of all teams are changed, past row-level security.
TAKE_OVER = """
SELECT set_config('app.all_teams', 'on', true);
UPDATE experiments_sweep SET rule = 'none' WHERE NOT stops_losers;
SELECT set_config('app.all_teams', '', true);
"""
GIVE_BACK = """
SELECT set_config('app.all_teams', 'on', true);
UPDATE experiments_sweep SET stops_losers = (rule <> 'none');
SELECT set_config('app.all_teams', '', true);
"""


class Migration(migrations.Migration):

    dependencies = [
        ('experiments', '0014_held_runs'),
    ]

    operations = [
        migrations.AddField(
            model_name='sweep',
            name='rule',
            field=models.CharField(choices=[('none', 'No run is stopped early'), ('median', 'Those worse than the median of the others'), ('halving', 'The worse half, again and again')], default='median', max_length=8),
        ),
        migrations.RunSQL(TAKE_OVER, GIVE_BACK),
        migrations.RemoveField(
            model_name='sweep',
            name='stops_losers',
        ),
    ]
