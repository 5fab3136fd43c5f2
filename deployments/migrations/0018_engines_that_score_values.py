from django.db import migrations, models


class Migration(migrations.Migration):
    """Engines of before are ours; their agents start them anew."""

    dependencies = [("deployments", "0017_same_rows_and_rise_of_times")]

    operations = [
        migrations.AddField(
            model_name="engine",
            name="scores_values",
            field=models.BooleanField(
                db_default=True, help_text="whether it has a route that says how likely values are"
            ),
        ),
    ]
