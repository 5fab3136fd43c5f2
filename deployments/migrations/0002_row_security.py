"""Raise the second tenant wall around the tables of this app."""

from django.db import migrations

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):
    dependencies = [("deployments", "0001_initial")]

    operations = [
        EnableRowSecurity(
            "deployments_placement",
            "deployments_deployment",
            "deployments_deploymentversion",
            "deployments_inferencerecord",
        )
    ]
