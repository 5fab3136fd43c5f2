"""Where the lines of a log begin and end is found without reading them."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("experiments", "0021_cost_of_judgements")]

    operations = [
        migrations.AddIndex(
            model_name="runevent",
            index=models.Index(fields=["run", "id"], include=["team"], name="run_events_in_order"),
        ),
    ]
