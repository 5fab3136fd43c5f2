from django.db import migrations, models


class Migration(migrations.Migration):
    """Which of earlier records the live version replaced is not known any more."""

    dependencies = [("deployments", "0020_what_temperatures_were_fitted_under")]

    operations = [
        migrations.AddField(
            model_name="inferencerecord",
            name="attempt",
            field=models.CharField(
                blank=True,
                choices=[
                    ("", "The only one"),
                    ("replaced", "The canary's, which the live version replaced"),
                    ("instead", "The live version's, instead of the canary"),
                ],
                db_default="",
                default="",
                max_length=8,
            ),
        ),
    ]
