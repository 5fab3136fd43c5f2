import uuid

import django.db.models.deletion
import django.db.models.manager
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):
    dependencies = [
        ("deployments", "0007_version_settings_gate_and_sleep"),
        ("datasets_app", "0009_remote_fetch"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AddField(
            model_name="deployment",
            name="logs_text",
            field=models.BooleanField(default=False, help_text="whether what is asked and answered is kept"),
        ),
        migrations.AddField(
            model_name="deployment",
            name="log_days",
            field=models.PositiveSmallIntegerField(default=30, help_text="for how long"),
        ),
        migrations.CreateModel(
            name="LoggedText",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
                ("kept_until", models.DateTimeField(db_index=True)),
                ("messages", models.JSONField(help_text="as the model got them, with the version's system prompt")),
                ("answer", models.TextField(blank=True)),
                (
                    "correction",
                    models.TextField(blank=True, help_text="what a person says the answer should have been"),
                ),
                ("corrected_at", models.DateTimeField(null=True)),
                (
                    "corrected_by",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "deployment",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="texts",
                        to="deployments.deployment",
                    ),
                ),
                (
                    "record",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="text",
                        to="deployments.inferencerecord",
                    ),
                ),
                (
                    "taken_into",
                    models.ForeignKey(
                        help_text="the dataset version that has the correction as a row",
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="datasets_app.datasetversion",
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
            options={"ordering": ["-record_id"], "abstract": False},
            managers=[("unscoped", django.db.models.manager.Manager())],
        ),
        EnableRowSecurity("deployments_loggedtext"),
    ]
