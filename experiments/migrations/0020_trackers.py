"""Trackers: where figures of runs are copied to, and how far each run has got there."""

import django.db.models.deletion
import django.db.models.manager
import django.utils.timezone
import uuid
from django.conf import settings
from django.db import migrations, models

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):

    dependencies = [
        ('experiments', '0019_adapters_to_start_from'),
        ('portal', '0018_keys_of_trackers'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='TrackerSetting',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('address', models.CharField(max_length=500, verbose_name='address')),
                ('experiment', models.CharField(max_length=200, verbose_name='experiment')),
                ('secret', models.SlugField(blank=True, help_text='name of a TeamSecret', max_length=60, verbose_name='secret')),
                ('since', models.DateTimeField(default=django.utils.timezone.now, help_text='runs that started earlier are not copied')),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
                ('updated_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'abstract': False,
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        migrations.CreateModel(
            name='TrackedRun',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('status', models.CharField(choices=[('open', 'Being copied'), ('done', 'Copied'), ('failed', 'Given up')], default='open', max_length=8)),
                ('experiment_id', models.CharField(blank=True, help_text="the tracker's", max_length=64)),
                ('external_id', models.CharField(blank=True, help_text="the run's id at the tracker", max_length=64)),
                ('sent_point', models.BigIntegerField(default=0, help_text='id of the last MetricPoint that has arrived')),
                ('sent_step', models.PositiveIntegerField(default=0)),
                ('attempts', models.PositiveSmallIntegerField(default=0, help_text='since something last arrived')),
                ('next_try_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('problem', models.CharField(blank=True, help_text='why the last try failed', max_length=300)),
                ('sent_at', models.DateTimeField(null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('run', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='tracked', to='experiments.run')),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
                ('tracker', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='tracked', to='experiments.trackersetting')),
            ],
            options={
                'ordering': ['-created_at', '-id'],
                'abstract': False,
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        migrations.AddConstraint(
            model_name='trackersetting',
            constraint=models.UniqueConstraint(fields=('team',), name='one_tracker_per_team'),
        ),
        migrations.AddIndex(
            model_name='trackedrun',
            index=models.Index(condition=models.Q(('status', 'open')), fields=['next_try_at'], name='tracked_run_due'),
        ),
        EnableRowSecurity("experiments_trackersetting"),
        EnableRowSecurity("experiments_trackedrun"),
    ]
