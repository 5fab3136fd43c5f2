"""The second tenant wall: PostgreSQL row-level security, forced, for every table with a `team_id`.

A transaction says whose rows it may see: `team_scope(team)` for one team, `all_teams("reason")` for machines.
Outside of both, every team-owned table looks empty. Settings are local to the transaction, so poolers are safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import UUID
from weakref import WeakSet

from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, ProgrammingError, connection, migrations, transaction
from psycopg.errors import DuplicatePreparedStatement, InvalidSqlStatementName

# NULLIF: after a transaction that set it, an unset value comes back as '' and not as NULL.
# (SELECT …) makes PostgreSQL read the setting once per query and not once per row.
_CONDITION = (
    "(team_id = (SELECT NULLIF(current_setting('app.team_id', true), '')::uuid)"
    " OR (SELECT current_setting('app.all_teams', true) = 'on'))"
)


class EnableRowSecurity(migrations.RunSQL):
    """Migration operation: raise the second wall around the named tables."""

    def __init__(self, *tables: str) -> None:
        super().__init__([_enable(table) for table in tables], [_disable(table) for table in tables])
        self.tables = tables

    def deconstruct(self) -> tuple[str, list[str], dict[str, object]]:
        return (self.__class__.__qualname__, list(self.tables), {})


def _enable(table: str) -> str:
    return (
        f'ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY; ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY;'
        f'CREATE POLICY team_wall ON "{table}" USING {_CONDITION} WITH CHECK {_CONDITION};'
    )


def _disable(table: str) -> str:
    return (
        f'DROP POLICY IF EXISTS team_wall ON "{table}"; ALTER TABLE "{table}" NO FORCE ROW LEVEL SECURITY;'
        f'ALTER TABLE "{table}" DISABLE ROW LEVEL SECURITY;'
    )


def team_scope(team_id: UUID) -> AbstractContextManager[None]:
    """Open a transaction in which only this team's rows exist."""
    return _scope(str(team_id), everything=False)


def all_teams(reason: str) -> AbstractContextManager[None]:
    """Open a transaction for a machine that works for all teams; the reason is for the reader who greps for it."""
    if not reason:
        raise ValueError("say why all teams' rows are needed")
    return _scope("", everything=True)


@contextmanager
def _scope(team_id: str, *, everything: bool) -> Iterator[None]:
    nested = connection.in_atomic_block
    with transaction.atomic():
        outer = _read() if nested else ("", "")
        _write(team_id, "on" if everything else "")
        yield
        # Releasing a savepoint keeps SET LOCAL, so the outer values are put back; rolling back to it restores them.
        if nested and not connection.needs_rollback:
            _write(*outer)


def fetch_in_team(team_id: UUID, statement: str, parameters: Sequence[Any], *, lasting: bool = True) -> list[Any]:
    """Run one statement in the team's row scope and return its rows, all in one round trip to the database.

    Without `lasting` the answer does not wait for the disk: a crash of the database server may lose the last moment.
    """
    return _fetch(str(team_id), "", statement, parameters, lasting=lasting)


def fetch_in_all_teams(reason: str, statement: str, parameters: Sequence[Any], *, lasting: bool = True) -> list[Any]:
    """Run one statement for a machine that works for all teams, in one round trip; the reason is for the reader."""
    if not reason:
        raise ValueError("say why all teams' rows are needed")
    return _fetch("", "on", statement, parameters, lasting=lasting)


class Prepared:
    """A statement that is planned once for each connection, for what every request asks. `$1` is its one text.

    Behind a pooler that gives each transaction another connection it is sent and planned as any other.
    """

    def __init__(self, name: str, statement: str) -> None:
        self._name, self._statement = name, statement
        self._known: WeakSet[Any] = WeakSet()

    def fetch_in_all_teams(self, reason: str, text: str) -> list[Any]:
        """Run it for a machine that works for all teams, in one round trip; the reason is for the reader."""
        connection.ensure_connection()
        if connection.in_atomic_block:  # a failed EXECUTE would end the transaction
            return fetch_in_all_teams(reason, self._statement.replace("$1", "%s"), [text])
        is_known = connection.connection in self._known
        first = [] if is_known else [f"PREPARE {self._name} (text) AS {self._statement}"]
        self._known.add(connection.connection)
        try:
            return _fetch("", "on", f"EXECUTE {self._name} (%s)", [text], first=first)
        except (ProgrammingError, OperationalError) as error:
            if not isinstance(error.__cause__, InvalidSqlStatementName | DuplicatePreparedStatement):
                raise
            return fetch_in_all_teams(reason, self._statement.replace("$1", "%s"), [text])


# Several statements in one message are one transaction, so what is set for the transaction ends with it. Within
# a transaction that is open already, the outer values are put aside and put back.
_SET = "SELECT set_config('app.team_id', %s, true), set_config('app.all_teams', %s, true)"
_PUT_ASIDE = """SELECT set_config('app.outer_team_id', coalesce(current_setting('app.team_id', true), ''), true),
    set_config('app.outer_all_teams', coalesce(current_setting('app.all_teams', true), ''), true)"""
_PUT_BACK = """SELECT set_config('app.team_id', current_setting('app.outer_team_id'), true),
    set_config('app.all_teams', current_setting('app.outer_all_teams'), true)"""
_WITHOUT_WAITING = "SELECT set_config('synchronous_commit', 'off', true)"


def _fetch(
    team_id: str,
    everything: str,
    statement: str,
    parameters: Sequence[Any],
    *,
    lasting: bool = True,
    first: Sequence[str] = (),
) -> list[Any]:
    if connection.in_atomic_block:
        before, after = [_PUT_ASIDE, _SET, *first], [_PUT_BACK]
    else:
        before, after = [*([] if lasting else [_WITHOUT_WAITING]), _SET, *first], []
    with connection.cursor() as cursor:
        cursor.execute("; ".join([*before, statement, *after]), [team_id, everything, *parameters])
        for _result in before:
            cursor.nextset()
        # Not `description`, which makes an object of every column.
        return list(cursor.fetchall()) if cursor.rownumber is not None else []


def _read() -> tuple[str, str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('app.team_id', true), current_setting('app.all_teams', true)")
        team_id, everything = cursor.fetchone()
    return team_id or "", everything or ""


def _write(team_id: str, everything: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('app.team_id', %s, true), set_config('app.all_teams', %s, true)", [team_id, everything]
        )


def refuse_privileged_role() -> None:
    """Raise ImproperlyConfigured if the database role would see through row-level security."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolname, rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
        role, privileged = cursor.fetchone()
    if privileged:
        raise ImproperlyConfigured(
            f"The database role {role!r} ignores row-level security, so teams would not be kept apart. "
            "Use a role with NOSUPERUSER NOBYPASSRLS in DATABASE_URL."
        )
