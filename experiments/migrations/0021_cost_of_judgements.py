"""What judgements cost, and the limit of it."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('experiments', '0020_trackers'),
    ]

    operations = [
        migrations.AddField(
            model_name='judgement',
            name='answer_price',
            field=models.FloatField(default=0),
        ),
        migrations.AddField(
            model_name='judgement',
            name='is_capped',
            field=models.BooleanField(default=False, help_text='ended early, since another row might have cost too much'),
        ),
        migrations.AddField(
            model_name='judgement',
            name='most_cost',
            field=models.FloatField(null=True),
        ),
        migrations.AddField(
            model_name='judgement',
            name='prompt_price',
            field=models.FloatField(default=0),
        ),
        migrations.AddField(
            model_name='judgesetting',
            name='answer_price',
            field=models.FloatField(default=0, help_text='of a million tokens of replies'),
        ),
        migrations.AddField(
            model_name='judgesetting',
            name='most_cost',
            field=models.FloatField(blank=True, help_text='what one judgement may cost; none: no limit', null=True),
        ),
        migrations.AddField(
            model_name='judgesetting',
            name='prompt_price',
            field=models.FloatField(default=0, help_text='of a million tokens of questions'),
        ),
    ]
