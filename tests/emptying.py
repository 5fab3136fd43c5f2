"""Pytest plugin: after a transactional test, delete rows where there are any, instead of truncating every table.

TRUNCATE makes new files for each of the portal's tables and indexes, which takes a quarter of a second a test; DELETE
of the few rows that a test leaves takes some milliseconds.
"""

from __future__ import annotations

from django.db import connection
from django.test import TransactionTestCase

# Filled by the migrations themselves; tests only read them.
_KEPT = {"django_migrations", "django_content_type", "auth_permission"}
# A trigger forbids to delete single rows of it.
_APPEND_ONLY = "portal_auditevent"


def empty_used_tables() -> None:
    """Delete every row that tests can make, in one transaction: foreign keys are checked at its end."""
    from portal.rls import all_teams

    tables = sorted(set(connection.introspection.django_table_names(only_existing=True, include_views=False)) - _KEPT)
    with all_teams("tests clean up after themselves"), connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT FROM {name})" for name in tables))
        for (name,) in cursor.fetchall():
            cursor.execute(f"TRUNCATE {name}" if name == _APPEND_ONLY else f"DELETE FROM {name}")


def _fixture_teardown(self: TransactionTestCase) -> None:
    empty_used_tables()


TransactionTestCase._fixture_teardown = _fixture_teardown  # type: ignore[attr-defined]
