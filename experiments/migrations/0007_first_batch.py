"""Keep the first rows that a run learns from, token by token."""

import django.db.models.deletion
import django.db.models.manager
import uuid
from django.db import migrations, models

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):

    dependencies = [
        ('experiments', '0006_list_indexes'),
        ('portal', '0013_kinds_of_secrets'),
    ]

    operations = [
        migrations.CreateModel(
            name='FirstBatch',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('rows', models.JSONField(help_text='gpu_worker.trainer.first_batch: pieces [text, tokens], and counts')),
                ('run', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='first_batch', to='experiments.run')),
                ('team', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='%(class)ss', to='portal.team')),
            ],
            options={
                'abstract': False,
            },
            managers=[
                ('unscoped', django.db.models.manager.Manager()),
            ],
        ),
        EnableRowSecurity("experiments_firstbatch"),
    ]
