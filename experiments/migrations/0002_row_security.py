"""Raise the second tenant wall around the tables of this app."""

from django.db import migrations

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):
    dependencies = [("experiments", "0001_initial")]

    operations = [
        EnableRowSecurity(
            "experiments_experiment",
            "experiments_run",
            "experiments_metricpoint",
            "experiments_runevent",
            "experiments_adapter",
            "experiments_evaluation",
            "experiments_evaluatedrow",
        )
    ]
