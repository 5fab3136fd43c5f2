"""Raise the second tenant wall around the tables of this app."""

from django.db import migrations

from portal.rls import EnableRowSecurity


class Migration(migrations.Migration):
    dependencies = [("portal", "0001_initial")]

    operations = [
        EnableRowSecurity(
            "portal_membership",
            "portal_apitoken",
        )
    ]
