from django.db import migrations, models

import portal.ordered_json


class Migration(migrations.Migration):
    dependencies = [("deployments", "0014_admit_together")]

    operations = [
        migrations.AddField(
            model_name="deploymentversion",
            name="decision_schema",
            field=portal.ordered_json.OrderedJSONField(
                help_text="JSON Schema whose closed fields decisions score", null=True
            ),
        ),
        migrations.AddField(
            model_name="deploymentversion",
            name="labels",
            field=models.JSONField(default=list, help_text="all answers of a classification, which decisions score"),
        ),
        migrations.AddField(
            model_name="deploymentversion",
            name="temperatures",
            field=models.JSONField(
                default=dict,
                help_text="by field, as the held-out report of its run has them; probabilities are taken at them",
            ),
        ),
    ]
