"""Tokens name their pepper, models, networks and successor, and may belong to service accounts."""

import uuid

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.manager
from django.conf import settings
from django.db import migrations, models

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):
    dependencies = [("portal", "0003_audit_is_append_only")]

    operations = [
        migrations.CreateModel(
            name="ServiceAccount",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("name", models.CharField(max_length=80, verbose_name="name")),
                ("is_active", models.BooleanField(default=True, verbose_name="active")),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("created_by", models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL)),
                ("team", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name="%(class)ss", to="portal.team")),
            ],
            options={
                "ordering": ["name"],
                "abstract": False,
                "constraints": [models.UniqueConstraint(fields=("team", "name"), name="service_account_name_unique_in_team")],
            },
            managers=[("unscoped", django.db.models.manager.Manager())],
        ),
        migrations.AddField(
            model_name="apitoken",
            name="pepper_id",
            field=models.CharField(default="1", help_text="which pepper the digest was made with", max_length=20),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="allowed_models",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=120), blank=True, default=list, help_text="names; empty: every model", size=None
            ),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="networks",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=43), blank=True, default=list, help_text="where it may come from; empty: everywhere", size=None
            ),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="replaced_by",
            field=models.OneToOneField(
                editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="replaces", to="portal.apitoken"
            ),
        ),
        migrations.AddField(
            model_name="apitoken",
            name="service_account",
            field=models.ForeignKey(
                blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name="tokens", to="portal.serviceaccount"
            ),
        ),
        EnableRowSecurity("portal_serviceaccount"),
    ]
