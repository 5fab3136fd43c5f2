"""A database with all tables that test databases are copied from, instead of migrating each of them for seconds.

It stays for the next run and is made anew when any migration has changed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.db import connection


def use_template(test_name: str) -> None:
    """Let Django copy the test database from the template, which is made first where it is missing or old."""
    test = connection.settings_dict.setdefault("TEST", {})
    name = f"{test_name}_template"
    with connection._nodb_cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtext(%s))", [name])  # until this connection ends
        if _found(cursor, name) != (wanted := fingerprint()):
            _make(test, name)
            cursor.execute(f"COMMENT ON DATABASE {connection.ops.quote_name(name)} IS '{wanted}'")
    test |= {"TEMPLATE": name, "MIGRATE": False}


def fingerprint() -> str:
    """Return a hash over the migrations of all apps."""
    digest = hashlib.sha256()
    for app in apps.get_app_configs():
        folder = Path(app.path) / "migrations"
        for file in sorted(folder.glob("*.py")):
            digest.update(f"{app.label}/{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _found(cursor, name: str) -> str | None:
    cursor.execute("SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s", [name])
    row = cursor.fetchone()
    return row[0] if row else None


def _make(test: dict, name: str) -> None:
    """Make and migrate the template as Django makes a test database, and leave it without connections."""
    usual, wanted = connection.settings_dict["NAME"], test.get("NAME")
    test["NAME"] = name
    try:
        connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    finally:
        connection.close()
        settings.DATABASES[connection.alias]["NAME"] = connection.settings_dict["NAME"] = usual
        test["NAME"] = wanted
