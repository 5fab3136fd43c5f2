"""Runs that start from kept weights, and evaluations of them."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('experiments', '0018_cancelled_judgements'),
    ]

    operations = [
        migrations.AddField(
            model_name='run',
            name='start_adapter',
            field=models.ForeignKey(blank=True, help_text="of a training: the checkpoint of `continue_from` where it starts, null for that run's result; of an evaluation: what it measures", null=True, on_delete=django.db.models.deletion.RESTRICT, related_name='starts', to='experiments.adapter'),
        ),
        migrations.AlterField(
            model_name='run',
            name='kind',
            field=models.CharField(choices=[('training', 'Training'), ('preflight', 'Trial'), ('evaluation', 'Evaluation')], default='training', max_length=12),
        ),
    ]
