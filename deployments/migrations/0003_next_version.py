import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("deployments", "0002_row_security")]

    operations = [
        migrations.AddField(
            model_name="deployment",
            name="next_version",
            field=models.ForeignKey(
                editable=False,
                help_text="goes live when its adapter is loaded; until then the live version serves",
                null=True,
                on_delete=django.db.models.deletion.RESTRICT,
                related_name="next_in",
                to="deployments.deploymentversion",
            ),
        ),
        migrations.AlterField(
            model_name="placement",
            name="wanted_until",
            field=models.DateTimeField(help_text="kept until then even if no deployment needs it", null=True),
        ),
    ]
