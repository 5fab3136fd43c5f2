"""Runs hold several slots of a node, none of which another run holds: the database itself sees to it."""

import django.contrib.postgres.fields
from django.db import migrations, models

# One slot each is what the unique constraint knows; this one knows all slots of a run. A node is a range of one, since
# ranges can be excluded without an extension.
FORWARD = """
CREATE FUNCTION experiments_held_slots(first integer, more integer[]) RETURNS int4multirange
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT range_agg(int4range(slot, slot, '[]')) FROM unnest(array_append(more, first)) AS slot $$;
ALTER TABLE experiments_run ADD CONSTRAINT one_active_run_for_each_slot EXCLUDE USING gist (
    int8range(node_id, node_id, '[]') WITH &&, experiments_held_slots(slot::integer, more_slots::integer[]) WITH &&
) WHERE (status IN ('assigned', 'running') AND node_id IS NOT NULL AND slot IS NOT NULL);
"""
BACKWARD = """
ALTER TABLE experiments_run DROP CONSTRAINT one_active_run_for_each_slot;
DROP FUNCTION experiments_held_slots(integer, integer[]);
"""


class Migration(migrations.Migration):

    dependencies = [
        ('experiments', '0022_log_in_order'),
    ]

    operations = [
        migrations.AddField(
            model_name='run',
            name='gpus',
            field=models.PositiveSmallIntegerField(default=1, help_text='or slots, where nodes have no GPUs', verbose_name='GPUs'),
        ),
        migrations.AddField(
            model_name='run',
            name='more_slots',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.PositiveSmallIntegerField(), blank=True, default=list, help_text='besides `slot`, of a run on several GPUs', size=None),
        ),
        migrations.AddField(
            model_name='run',
            name='turn_came_at',
            field=models.DateTimeField(help_text='since when a node is kept free for it: it was its turn, but there was no room for it', null=True),
        ),
        migrations.RunSQL(FORWARD, BACKWARD),
    ]
