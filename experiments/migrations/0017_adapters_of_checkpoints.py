import django.db.models.deletion
from django.db import migrations, models

_RESULTS = """
SELECT set_config('app.all_teams', 'on', true);
UPDATE experiments_adapter SET result_of_id = run_id;
SET CONSTRAINTS ALL IMMEDIATE;
SELECT set_config('app.all_teams', '', true);
"""


class Migration(migrations.Migration):

    dependencies = [
        ("experiments", "0016_judges"),
    ]

    operations = [
        migrations.AlterField(
            model_name="adapter",
            name="run",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.RESTRICT, related_name="adapters", to="experiments.run"
            ),
        ),
        migrations.AddField(
            model_name="adapter",
            name="result_of",
            field=models.OneToOneField(
                help_text="the run again, unless it is the adapter of an earlier step",
                null=True,
                on_delete=django.db.models.deletion.RESTRICT,
                related_name="adapter",
                to="experiments.run",
            ),
        ),
        migrations.RunSQL(_RESULTS, migrations.RunSQL.noop),
        migrations.AddConstraint(
            model_name="adapter",
            constraint=models.UniqueConstraint(fields=("run", "step"), name="one_adapter_per_run_and_step"),
        ),
    ]
