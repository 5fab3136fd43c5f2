"""People from before e-mail verification were made by an operator, who vouched for their addresses."""

from django.db import migrations


def vouch(apps, schema_editor):
    User, EmailAddress = apps.get_model("portal", "User"), apps.get_model("account", "EmailAddress")
    known = EmailAddress.objects.values("user_id")
    EmailAddress.objects.bulk_create(
        [
            EmailAddress(user=user, email=user.email.lower(), verified=True, primary=True)
            for user in User.objects.exclude(pk__in=known)
        ],
        batch_size=1000,
    )


class Migration(migrations.Migration):
    dependencies = [
        ("portal", "0005_console"),
        ("account", "0009_emailaddress_unique_primary_email"),
    ]

    operations = [migrations.RunPython(vouch, migrations.RunPython.noop)]
