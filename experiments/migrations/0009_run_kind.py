"""Trials: runs of a few steps that tell what a whole run takes, counted by themselves."""

from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('datasets_app', '0009_remote_fetch'),
        ('experiments', '0008_answers_of_others'),
        ('portal', '0013_kinds_of_secrets'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='run',
            name='run_number_unique_in_experiment',
        ),
        migrations.AddField(
            model_name='run',
            name='kind',
            field=models.CharField(choices=[('training', 'Training'), ('preflight', 'Trial')], default='training', max_length=12),
        ),
        migrations.AlterField(
            model_name='run',
            name='number',
            field=models.PositiveIntegerField(help_text='counted in the experiment, each kind by itself'),
        ),
        migrations.AddConstraint(
            model_name='run',
            constraint=models.UniqueConstraint(fields=('experiment', 'kind', 'number'), name='run_number_unique_in_experiment'),
        ),
    ]
