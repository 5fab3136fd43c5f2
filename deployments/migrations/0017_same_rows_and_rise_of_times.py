from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("deployments", "0016_request_totals")]

    operations = [
        migrations.AddField(
            model_name="promotionpolicy", name="needs_same_rows", field=models.BooleanField(default=True)
        ),
        migrations.AddField(
            model_name="promotionpolicy", name="max_median_rise", field=models.FloatField(null=True)
        ),
    ]
