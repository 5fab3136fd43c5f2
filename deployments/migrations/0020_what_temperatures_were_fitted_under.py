from django.db import migrations, models


class Migration(migrations.Migration):
    """Agents of before ran engines with the usual weights, nearly all of them."""

    dependencies = [("deployments", "0019_retirement")]

    operations = [
        migrations.AddField(
            model_name="engine",
            name="weights",
            field=models.CharField(
                db_default="fp32", help_text="in which the base model is computed", max_length=10
            ),
        ),
        migrations.AddField(
            model_name="deploymentversion",
            name="fitted_under",
            field=models.JSONField(help_text="weights and system prompts for which temperatures hold", null=True),
        ),
    ]
