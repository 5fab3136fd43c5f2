"""Rows of the ledger on their way into the database; models would take longer than the rest of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db import connection
from django.utils import timezone


@dataclass(slots=True)
class LedgerRow:
    """One request, as it becomes an `InferenceRecord`; `key` is that of the record, once it is written."""

    team_id: UUID
    model: str
    request_id: str
    status: int
    duration_ms: int
    version_id: UUID | None = None
    token_id: UUID | None = None
    streamed: bool = False
    attempt: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    first_token_ms: int | None = None
    at: datetime = field(default_factory=timezone.now)
    key: int | None = None


COLUMNS: Final = {
    "team_id": "uuid", "version_id": "uuid", "model": "text", "token_id": "uuid", "request_id": "text",
    "at": "timestamptz", "streamed": "boolean", "status": "smallint", "attempt": "text",
    "prompt_tokens": "integer", "completion_tokens": "integer", "first_token_ms": "integer", "duration_ms": "integer",
}  # fmt: skip
_INSERT: Final = (
    f"INSERT INTO deployments_inferencerecord ({', '.join(COLUMNS)}) SELECT * FROM unnest("  # noqa: S608 -- our names
    f"{', '.join(f'%s::{kind}[]' for kind in COLUMNS.values())}) RETURNING id"
)


def insert(rows: Sequence[LedgerRow]) -> None:
    """Insert rows in one statement, and give them their keys. Call it in the scope of all teams. Raises: Error."""
    with connection.cursor() as cursor:
        cursor.execute(_INSERT, [[getattr(row, name) for row in rows] for name in COLUMNS])
        for row, (key,) in zip(rows, cursor.fetchall(), strict=True):
            row.key = key
