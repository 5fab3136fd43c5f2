import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    """The table has its row security already: a canary is columns of a deployment."""

    dependencies = [("deployments", "0012_webhooks")]

    operations = [
        migrations.AddField(
            model_name="deployment",
            name="canary_version",
            field=models.ForeignKey(
                editable=False,
                help_text="answers a share of the requests to the plain name beside the live version",
                null=True,
                on_delete=django.db.models.deletion.RESTRICT,
                related_name="canary_in",
                to="deployments.deploymentversion",
            ),
        ),
        migrations.AddField(
            model_name="deployment",
            name="canary_share",
            field=models.PositiveSmallIntegerField(help_text="in per cent of the requests", null=True),
        ),
        migrations.AddField(
            model_name="deployment",
            name="canary_since",
            field=models.DateTimeField(help_text="since when it answers", null=True),
        ),
        migrations.AddConstraint(
            model_name="deployment",
            constraint=models.CheckConstraint(
                condition=models.Q(canary_version=None, canary_share=None, canary_since=None)
                | models.Q(canary_version__isnull=False, canary_share__range=(1, 50), canary_since__isnull=False),
                name="canary_with_share_and_time_or_none",
            ),
        ),
    ]
