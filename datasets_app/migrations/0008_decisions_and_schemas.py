"""Note decisions about personal data, keep the schemas of answers, and the order of keys in reports."""

import django.db.models.deletion
import django.db.models.manager
import portal.ordered_json
import uuid
from django.conf import settings
from django.db import migrations, models

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):

    dependencies = [
        ('datasets_app', '0007_resumable_uploads'),
        ('portal', '0012_nothing_always_fits'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterField(
            model_name='doctorreport',
            name='options',
            field=portal.ordered_json.OrderedJSONField(default=dict, help_text='datasets_app.doctor.options.Options.to_dict()'),
        ),
        migrations.AlterField(
            model_name='doctorreport',
            name='report',
            field=portal.ordered_json.OrderedJSONField(default=dict, help_text='datasets_app.doctor.report.Report.to_dict()'),
        ),
        migrations.CreateModel(
            name='AnswerSchema',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('number', models.PositiveIntegerField()),
                ('origin', models.CharField(choices=[('inferred', 'Inferred'), ('edited', 'Edited'), ('inherited', 'Taken from the parent version')], max_length=10)),
                ('schema', portal.ordered_json.OrderedJSONField(help_text='JSON Schema of the words in datasets_app.doctor.schema')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('created_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
                ('version', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='schemas', to='datasets_app.datasetversion')),
            ],
            options={
                'ordering': ['-number'],
                'abstract': False,
                'constraints': [models.UniqueConstraint(fields=('version', 'number'), name='schema_number_unique_in_version')],
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        migrations.CreateModel(
            name='PersonalDataDecision',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('kind', models.CharField(help_text='one of datasets_app.doctor.pii.KINDS', max_length=20)),
                ('choice', models.CharField(choices=[('keep', 'Keep'), ('mask', 'Mask'), ('drop', 'Leave the rows out')], max_length=4)),
                ('decided_at', models.DateTimeField(auto_now=True)),
                ('decided_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('made', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='datasets_app.datasetversion')),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
                ('version', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='personal_data_decisions', to='datasets_app.datasetversion')),
            ],
            options={
                'ordering': ['kind'],
                'abstract': False,
                'constraints': [models.UniqueConstraint(fields=('version', 'kind'), name='one_decision_per_kind')],
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        EnableRowSecurity('datasets_app_personaldatadecision', 'datasets_app_answerschema'),
    ]
