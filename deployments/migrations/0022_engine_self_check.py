from django.db import migrations, models


class Migration(migrations.Migration):
    """Engines of before have said nothing of their answers; they do with their next health check."""

    dependencies = [("deployments", "0021_attempts")]

    operations = [
        migrations.AddField(
            model_name="engine",
            name="self_check",
            field=models.CharField(
                blank=True,
                choices=[
                    ("passed", "Answers as transformers does"),
                    ("unchecked", "Not compared with transformers: there was no reference"),
                    ("failed", "Served by transformers itself, slowly: the fast decoder answered differently"),
                    ("none", "No comparison was asked for"),
                ],
                db_default="",
                help_text="what the engine says of its own answers",
                max_length=12,
            ),
        ),
    ]
