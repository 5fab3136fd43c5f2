"""Sweeps: runs that try several values belong together."""

import django.db.models.deletion
import django.db.models.manager
import uuid
from django.conf import settings
from django.db import migrations, models

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):

    dependencies = [
        ('experiments', '0012_sampled_answers'),
        ('portal', '0013_kinds_of_secrets'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Sweep',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('method', models.CharField(choices=[('grid', 'All combinations'), ('random', 'Drawn by chance')], default='grid', max_length=8)),
                ('values', models.JSONField(help_text='the values tried, by hyperparameter')),
                ('stops_losers', models.BooleanField(default=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('created_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('experiment', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='sweeps', to='experiments.experiment')),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
            ],
            options={
                'ordering': ['-created_at'],
                'abstract': False,
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        EnableRowSecurity("experiments_sweep"),
        migrations.AddField(
            model_name='run',
            name='sweep',
            field=models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='runs', to='experiments.sweep'),
        ),
    ]
