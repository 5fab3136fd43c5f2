"""Find one month of all teams without reading the others."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('portal', '0010_invitations_and_second_factors'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='usageday',
            index=models.Index(fields=['day', 'team'], name='usage_of_all_by_day'),
        ),
        migrations.AddIndex(
            model_name='usageday',
            index=models.Index(condition=models.Q(('model', '')), fields=['day', 'team'], name='usage_of_teams_by_day'),
        ),
    ]
