"""Keep the reports of the dataset doctor."""

import django.db.models.deletion
import django.db.models.manager
import uuid
from django.conf import settings
from django.db import migrations, models

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):

    dependencies = [
        ('datasets_app', '0005_containers'),
        ('portal', '0012_nothing_always_fits'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='DoctorReport',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('status', models.CharField(choices=[('queued', 'Queued'), ('running', 'Running'), ('ready', 'Ready'), ('failed', 'Failed'), ('cancelled', 'Cancelled')], default='queued', max_length=12)),
                ('options', models.JSONField(default=dict, help_text='datasets_app.doctor.options.Options.to_dict()')),
                ('progress', models.PositiveSmallIntegerField(default=0, help_text='per cent of the work that is done')),
                ('report', models.JSONField(default=dict, help_text='datasets_app.doctor.report.Report.to_dict()')),
                ('error', models.JSONField(default=dict, help_text='code and params of why it failed')),
                ('attempts', models.PositiveSmallIntegerField(default=0, help_text='counted before the work, against poison rows')),
                ('heartbeat_at', models.DateTimeField(null=True)),
                ('claim', models.UUIDField(help_text='of the worker at it; one with another claim must stop', null=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('ended_at', models.DateTimeField(null=True)),
                ('base_model', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='portal.basemodel')),
                ('created_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
                ('version', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='doctor_reports', to='datasets_app.datasetversion')),
            ],
            options={
                'ordering': ['-created_at'],
                'abstract': False,
                'constraints': [models.UniqueConstraint(condition=models.Q(('status__in', ['queued', 'running'])), fields=('version',), name='one_open_doctor_report_per_version')],
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        EnableRowSecurity('datasets_app_doctorreport'),
    ]
