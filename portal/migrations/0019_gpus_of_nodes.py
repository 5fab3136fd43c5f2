"""Nodes say how many GPUs they have, and whether a run may hold several of their slots."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('portal', '0018_keys_of_trackers'),
    ]

    operations = [
        migrations.AddField(
            model_name='node',
            name='gpus',
            field=models.PositiveSmallIntegerField(default=0, help_text='0: it computes on its processors'),
        ),
        migrations.AddField(
            model_name='node',
            name='joins_slots',
            field=models.BooleanField(default=False, help_text='a run may hold several slots: its kernel gives the processes a network of their own'),
        ),
    ]
