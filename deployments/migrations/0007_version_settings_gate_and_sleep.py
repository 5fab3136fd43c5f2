import uuid

import django.db.models.deletion
import django.db.models.manager
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import portal.ordered_json
from portal.rls import EnableRowSecurity

# What answered until now was never held back by a gate, so it may always come back.
ANSWERED = """
SELECT set_config('app.all_teams', 'on', true);
UPDATE deployments_deploymentversion version SET first_live_at = version.created_at
FROM deployments_deployment deployment
WHERE deployment.id = version.deployment_id AND deployment.next_version_id IS DISTINCT FROM version.id;
SELECT set_config('app.all_teams', '', true);
"""


class Migration(migrations.Migration):
    dependencies = [
        ("deployments", "0006_files_jobs_batches"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="deployment",
            name="sleep_after_minutes",
            field=models.PositiveIntegerField(help_text="without a request; empty: never", null=True),
        ),
        migrations.AddField(
            model_name="deployment",
            name="awake_until",
            field=models.DateTimeField(
                help_text="renewed by requests; counts where it may sleep at all", null=True
            ),
        ),
        migrations.AddField(
            model_name="deploymentversion",
            name="response_schema",
            field=portal.ordered_json.OrderedJSONField(
                help_text="JSON Schema of answers to requests that bring none", null=True
            ),
        ),
        migrations.AddField(
            model_name="deploymentversion",
            name="thresholds",
            field=models.JSONField(
                default=dict, help_text="least confidence by field; below it a decision abstains"
            ),
        ),
        migrations.AddField(
            model_name="deploymentversion",
            name="max_tokens",
            field=models.PositiveIntegerField(help_text="most tokens that an answer may have", null=True),
        ),
        migrations.AddField(
            model_name="deploymentversion",
            name="note",
            field=models.CharField(blank=True, default="", help_text="why it was made", max_length=300),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="deploymentversion",
            name="first_live_at",
            field=models.DateTimeField(help_text="when it first answered under the name", null=True),
        ),
        migrations.CreateModel(
            name="DeploymentEvent",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
                ("action", models.CharField(help_text="as in the audit trail", max_length=60)),
                ("version", models.PositiveIntegerField(null=True)),
                (
                    "before",
                    models.PositiveIntegerField(help_text="the version that answered until then", null=True),
                ),
                ("actor", models.CharField(help_text="who, for when there is no person", max_length=254)),
                ("reason", models.CharField(blank=True, max_length=300)),
                (
                    "deployment",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="events",
                        to="deployments.deployment",
                    ),
                ),
                (
                    "person",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "team",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="%(class)ss",
                        to="portal.team",
                    ),
                ),
            ],
            options={"ordering": ["-id"], "abstract": False},
            managers=[("unscoped", django.db.models.manager.Manager())],
        ),
        migrations.CreateModel(
            name="PromotionPolicy",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("is_on", models.BooleanField(default=True)),
                ("min_macro_f1", models.FloatField(null=True)),
                ("max_f1_drop", models.FloatField(default=0.02, null=True)),
                ("max_recall_drop", models.FloatField(default=0.1, null=True)),
                ("max_invalid_json", models.FloatField(default=0.0, null=True)),
                ("max_median_ms", models.PositiveIntegerField(null=True)),
                (
                    "team",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="%(class)ss",
                        to="portal.team",
                    ),
                ),
            ],
            options={
                "abstract": False,
                "constraints": [models.UniqueConstraint(fields=["team"], name="one_promotion_policy_per_team")],
            },
            managers=[("unscoped", django.db.models.manager.Manager())],
        ),
        EnableRowSecurity("deployments_deploymentevent", "deployments_promotionpolicy"),
        migrations.RunSQL(ANSWERED, migrations.RunSQL.noop),
    ]
