"""Keys of trackers are a kind of secret."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('portal', '0017_quicker_limits'),
    ]

    operations = [
        migrations.AlterField(
            model_name='teamsecret',
            name='kind',
            field=models.CharField(choices=[('hub_token', 'Token of the Hugging Face hub'), ('storage_key', 'Key of a bucket (ACCESS_KEY_ID:SECRET_ACCESS_KEY)'), ('azure_key', 'Azure storage (shared access signature or account key)'), ('kaggle_token', 'Kaggle (user:key)'), ('connector', 'Connector credential'), ('endpoint_key', 'Key of a model endpoint (OpenAI-compatible)'), ('tracker_key', 'Key of an experiment tracker (token, or name:password)'), ('webhook', 'Signing secret of a webhook endpoint')], max_length=20, verbose_name='kind'),
        ),
    ]
