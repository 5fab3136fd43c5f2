"""Judges: language models elsewhere that rate answers, and what they said."""

import django.core.validators
import django.db.models.deletion
import django.db.models.manager
import uuid
from django.conf import settings
from django.db import migrations, models

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):

    dependencies = [
        ('experiments', '0015_rules_of_sweeps'),
        ('portal', '0014_keys_of_endpoints'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Judgement',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('status', models.CharField(choices=[('queued', 'Queued'), ('running', 'Running'), ('ready', 'Ready'), ('failed', 'Failed')], default='queued', max_length=12)),
                ('address', models.CharField(max_length=500)),
                ('model', models.CharField(max_length=200)),
                ('secret', models.CharField(blank=True, max_length=60)),
                ('rubric', models.TextField()),
                ('rows', models.PositiveSmallIntegerField(help_text='held-out rows that are rated')),
                ('done', models.PositiveSmallIntegerField(default=0)),
                ('figures', models.JSONField(default=dict, help_text='experiments.llm_judge.rubric.figures_of()')),
                ('ratings', models.JSONField(default=list, help_text='row, score and reason per subject; score null where missing')),
                ('prompt_tokens', models.PositiveBigIntegerField(default=0)),
                ('answer_tokens', models.PositiveBigIntegerField(default=0)),
                ('error', models.CharField(blank=True, max_length=500)),
                ('attempts', models.PositiveSmallIntegerField(default=0)),
                ('heartbeat_at', models.DateTimeField(null=True)),
                ('claim', models.UUIDField(help_text='of the worker at it; one with another claim must stop', null=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('ended_at', models.DateTimeField(null=True)),
                ('created_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('evaluation', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='judgements', to='experiments.evaluation')),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
            ],
            options={
                'ordering': ['-created_at'],
                'abstract': False,
                'constraints': [models.UniqueConstraint(condition=models.Q(('status__in', ['queued', 'running'])), fields=('evaluation',), name='one_open_judgement_per_evaluation')],
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        migrations.CreateModel(
            name='JudgeSetting',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('address', models.URLField(max_length=500, verbose_name='address')),
                ('model', models.CharField(max_length=200, verbose_name='model')),
                ('secret', models.SlugField(blank=True, help_text='name of a TeamSecret', max_length=60, verbose_name='secret')),
                ('rubric', models.TextField(default='5: says all that the reference says, nothing wrong, fit to be sent as it is.\n4: right, with a small gap or a clumsy phrase.\n3: the core is right, something that matters is missing or wrong.\n2: mostly wrong or hardly of use.\n1: wrong, empty, or off the point.', max_length=4000, verbose_name='rubric')),
                ('rows', models.PositiveSmallIntegerField(default=50, validators=[django.core.validators.MinValueValidator(1), django.core.validators.MaxValueValidator(200)], verbose_name='rows')),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
                ('updated_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'abstract': False,
                'constraints': [models.UniqueConstraint(fields=('team',), name='one_judge_per_team')],
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        EnableRowSecurity("experiments_judgement"),
        EnableRowSecurity("experiments_judgesetting"),
    ]
