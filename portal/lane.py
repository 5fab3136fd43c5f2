"""One prepared statement on a few database connections of its own, for what every request to a model asks.

Django's way to a row costs many times what the row costs: a connection is fetched from the pool and tried, the
statement is put together, parsed and planned. Here it is planned once for each connection, and only its values go
there. Few connections, so that those who wait for the same row wait here and not in the database.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import psycopg
from django.conf import settings
from django.db import OperationalError, connection
from psycopg import errors, pq

from portal.readable import is_readable
from portal.rls import fetch_in_all_teams

CONNECTIONS = 2
PATIENCE_S = 10.0
# Prepared statements live in a connection, and a pooler may hand us another one for each transaction.
_UNKNOWN_STATEMENT = (b"26000", b"42P05")

Row = tuple[Any, ...]


class Lane:
    """A statement that stands by itself and sets its own row scope. Thread safe; a forked child starts anew.

    `statement` has `$1`, `$2`, … with their types. It is run on Django's own connection where that is not pooled, or
    holds a transaction that has to see it.
    """

    def __init__(self, statement: str, *, connections: int = CONNECTIONS) -> None:
        self._statement, self._connections = statement.encode(), connections
        # Of the text, since a pooler's connection may still know a statement of an earlier release.
        self._name = b"lane_" + hashlib.sha256(self._statement).hexdigest()[:16].encode()
        count = statement.count("$")
        self._plain = statement
        for number in range(count, 0, -1):
            self._plain = self._plain.replace(f"${number}", "%s")
        self._begin_anew()
        os.register_at_fork(after_in_child=self._begin_anew)

    def fetch(self, reason: str, values: Sequence[Any]) -> list[Row]:
        """Run it and return its rows; the reason is for the reader. Raises: django.db.Error."""
        if not settings.DATABASE_POOL or connection.in_atomic_block:
            return [tuple(row) for row in fetch_in_all_teams(reason, self._plain, values, lasting=False)]
        sent = [_written(value) for value in values]
        if not self._room.acquire(timeout=PATIENCE_S):
            raise OperationalError("no connection became free in time")
        try:
            with connection.wrap_database_errors:
                raw = self._take()
                try:
                    result = self._run(raw.pgconn, sent)
                except BaseException:
                    raw.close()
                    raise
                self._idle.append(raw)
        finally:
            self._room.release()
        return _rows(result)

    def _run(self, pgconn: pq.abc.PGconn, sent: list[bytes | None]) -> pq.abc.PGresult:
        result = pgconn.exec_prepared(self._name, cast(Any, sent))  # None is NULL; psycopg's types forget it
        if result.status != pq.ExecStatus.TUPLES_OK:
            if result.error_field(pq.DiagnosticField.SQLSTATE) in _UNKNOWN_STATEMENT:
                result = pgconn.exec_params(self._statement, cast(Any, sent))
            if result.status != pq.ExecStatus.TUPLES_OK:
                raise errors.error_from_result(result)
        return result

    def _take(self) -> psycopg.Connection[Any]:
        while self._idle:
            raw = self._idle.pop()
            if not _has_something_to_say(raw):
                return raw
            raw.close()
        raw = psycopg.connect(**connection.get_connection_params(), autocommit=True)
        raw.execute("SET TIME ZONE 'UTC'")
        raw.pgconn.prepare(self._name, self._statement)
        return raw

    def _begin_anew(self) -> None:
        self._idle: list[psycopg.Connection[Any]] = []
        self._room = threading.BoundedSemaphore(self._connections)


def _has_something_to_say(raw: psycopg.Connection[Any]) -> bool:
    """Whether a connection at rest has something to say: then the server has closed it, or is about to."""
    try:
        return is_readable(raw)
    except psycopg.OperationalError:  # closed already
        return True


def _written(value: Any) -> bytes | None:
    """Return a value as PostgreSQL reads it."""
    if value is None:
        return None
    if isinstance(value, list):
        return b"{" + b",".join(_element(one) for one in value) + b"}"
    if isinstance(value, timedelta):
        return b"%f seconds" % value.total_seconds()
    return str(value).encode()


def _element(value: Any) -> bytes:
    return b'"' + str(value).encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


_READERS: Mapping[int, Callable[[bytes], Any]] = {
    16: lambda text: text == b"t",
    20: int,
    25: bytes.decode,
    1184: lambda text: datetime.fromisoformat(text.decode()),
}


def _rows(result: pq.abc.PGresult) -> list[Row]:
    readers = [_READERS[result.ftype(column)] for column in range(result.nfields)]
    return [
        tuple(
            None if (text := result.get_value(row, column)) is None else read(text)
            for column, read in enumerate(readers)
        )
        for row in range(result.ntuples)
    ]
