"""Raise the second tenant wall around the tables of this app."""

from django.db import migrations

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):
    dependencies = [("datasets_app", "0001_initial")]

    operations = [
        EnableRowSecurity(
            "datasets_app_dataset",
            "datasets_app_datasetversion",
            "datasets_app_sourcefile",
        )
    ]
