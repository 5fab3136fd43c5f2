"""Counts of all requests, for monitoring."""

import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('deployments', '0015_what_decisions_rest_on'),
    ]

    operations = [
        migrations.CreateModel(
            name='RequestTotals',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('counted', models.BigIntegerField(default=0, help_text='id of the last InferenceRecord that is in these sums')),
                ('seen', models.BigIntegerField(default=0, help_text='id of the newest one at that time')),
                ('seen_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('statuses', models.JSONField(default=dict, help_text='requests by kind of HTTP status, as 2xx')),
                ('prompt_tokens', models.BigIntegerField(default=0)),
                ('completion_tokens', models.BigIntegerField(default=0)),
                ('durations', models.JSONField(default=list, help_text='requests by the bounds of request_totals')),
                ('duration_ms', models.BigIntegerField(default=0)),
                ('first_tokens', models.JSONField(default=list)),
                ('first_token_ms', models.BigIntegerField(default=0)),
            ],
        ),
    ]
