"""Limits, what was used and is set aside of them, alerts, and the usage ledger."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.manager
import uuid
from django.db import migrations, models

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):

    dependencies = [
        ('portal', '0006_verified_addresses'),
    ]

    operations = [
        migrations.CreateModel(
            name='PlatformLimit',
            fields=[
                ('kind', models.CharField(choices=[('gpu_seconds_per_month', 'GPU time a month'), ('concurrent_runs', 'Runs at the same time'), ('queued_runs', 'Waiting runs'), ('storage_bytes', 'Storage'), ('deployments', 'Deployments'), ('requests_per_minute', 'Requests a minute'), ('tokens_per_minute', 'Tokens a minute'), ('tokens_per_month', 'Tokens a month')], max_length=24, primary_key=True, serialize=False)),
                ('value', models.PositiveBigIntegerField(blank=True, null=True)),
            ],
            options={
                'ordering': ['kind'],
            },
        ),
        migrations.CreateModel(
            name='QuotaReservation',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('kinds', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=24), size=None)),
                ('starts', django.contrib.postgres.fields.ArrayField(base_field=models.DateTimeField(), size=None)),
                ('amounts', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), size=None)),
                ('expires_at', models.DateTimeField(db_index=True)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
            ],
            options={
                'abstract': False,
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        migrations.CreateModel(
            name='QuotaAlert',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('gpu_seconds_per_month', 'GPU time a month'), ('concurrent_runs', 'Runs at the same time'), ('queued_runs', 'Waiting runs'), ('storage_bytes', 'Storage'), ('deployments', 'Deployments'), ('requests_per_minute', 'Requests a minute'), ('tokens_per_minute', 'Tokens a minute'), ('tokens_per_month', 'Tokens a month')], max_length=24)),
                ('month', models.DateField(help_text='the first day of it')),
                ('percent', models.PositiveSmallIntegerField()),
                ('is_current', models.BooleanField(default=True, help_text='whether it is still so')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
            ],
            options={
                'ordering': ['kind', '-percent'],
                'abstract': False,
                'constraints': [models.UniqueConstraint(fields=('team', 'kind', 'month', 'percent'), name='one_alert_per_limit_and_month')],
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        migrations.CreateModel(
            name='QuotaWindow',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('gpu_seconds_per_month', 'GPU time a month'), ('concurrent_runs', 'Runs at the same time'), ('queued_runs', 'Waiting runs'), ('storage_bytes', 'Storage'), ('deployments', 'Deployments'), ('requests_per_minute', 'Requests a minute'), ('tokens_per_minute', 'Tokens a minute'), ('tokens_per_month', 'Tokens a month')], max_length=24)),
                ('starts_at', models.DateTimeField()),
                ('used', models.BigIntegerField(default=0)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
            ],
            options={
                'abstract': False,
                'constraints': [models.UniqueConstraint(fields=('team', 'kind', 'starts_at'), name='one_window_per_team_kind_and_start')],
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        migrations.CreateModel(
            name='TeamLimit',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(choices=[('gpu_seconds_per_month', 'GPU time a month'), ('concurrent_runs', 'Runs at the same time'), ('queued_runs', 'Waiting runs'), ('storage_bytes', 'Storage'), ('deployments', 'Deployments'), ('requests_per_minute', 'Requests a minute'), ('tokens_per_minute', 'Tokens a minute'), ('tokens_per_month', 'Tokens a month')], max_length=24)),
                ('value', models.PositiveBigIntegerField(blank=True, null=True)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
            ],
            options={
                'abstract': False,
                'constraints': [models.UniqueConstraint(fields=('team', 'kind'), name='one_limit_per_team_and_kind')],
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        migrations.CreateModel(
            name='UsageDay',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('day', models.DateField()),
                ('token_id', models.UUIDField(default=uuid.UUID('00000000-0000-0000-0000-000000000000'), help_text='zero: people on the pages, or no request at all')),
                ('model', models.CharField(blank=True, max_length=120)),
                ('requests', models.PositiveBigIntegerField(default=0)),
                ('errors', models.PositiveBigIntegerField(default=0)),
                ('prompt_tokens', models.PositiveBigIntegerField(default=0)),
                ('completion_tokens', models.PositiveBigIntegerField(default=0)),
                ('gpu_seconds', models.FloatField(default=0)),
                ('storage_bytes', models.PositiveBigIntegerField(default=0, help_text='as last measured on this day')),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
            ],
            options={
                'ordering': ['day'],
                'abstract': False,
                'constraints': [models.UniqueConstraint(fields=('team', 'day', 'token_id', 'model'), name='one_usage_row_per_day_and_use')],
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        EnableRowSecurity(
            'portal_teamlimit',
            'portal_quotawindow',
            'portal_quotareservation',
            'portal_quotaalert',
            'portal_usageday',
        ),
    ]
