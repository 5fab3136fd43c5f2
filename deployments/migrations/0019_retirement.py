from django.db import migrations, models


class Migration(migrations.Migration):
    """The table has its row security already; deployments of before have no end."""

    dependencies = [("deployments", "0018_engines_that_score_values")]

    operations = [
        migrations.AddField(
            model_name="deployment",
            name="retires_on",
            field=models.DateField(
                help_text="the last day, in UTC, on which it answers; empty: no end is set", null=True
            ),
        ),
    ]
