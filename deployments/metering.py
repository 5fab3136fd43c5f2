"""Who asked, and what it took: one row for each request to a model, with counts and times.

Texts are kept beside it only for deployments whose team has switched that on (see `request_log`).
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import DataError, Error, IntegrityError, connection
from django.http import HttpRequest
from django.utils import timezone

from deployments import journal, ledger_rows
from deployments.journal import Journal, Place
from deployments.known_targets import Target
from deployments.ledger_rows import LedgerRow
from deployments.models import InferenceRecord, LedgerJournal, LoggedText
from deployments.request_log import Heard
from portal import quotas, usage
from portal.models import Quota, Team
from portal.quotas import Reservation, Settlement
from portal.rls import all_teams

logger = logging.getLogger(__name__)

MOST_WAITING = 100_000
# Rows of files that are gone are of no use; a while later, since a file is there before its row.
_PLACES_KEPT: Final = timedelta(days=1)
CLIENT_CLOSED_REQUEST = 499
Attempt = InferenceRecord.Attempt
# A team, token or version is gone by now, or a value does not fit: that concerns its own record only.
_FAULT_OF_A_RECORD = (IntegrityError, DataError)


@dataclass(frozen=True)
class Counted:
    """A request for the ledger, what of its reservation it really took, and its texts where the team keeps them."""

    record: LedgerRow
    settlement: Settlement | None = None
    text: LoggedText | None = None
    place: Place | None = None  # where it is written down


class Ledger:
    """Writes counted requests in batches, from a thread of its own: an answer never waits for the database's disk.

    While the database is away they wait. What a killed process had not written yet is in its journal, from which
    `take_up` counts it.
    """

    def __init__(self, *, flush_every_s: float = 0.25) -> None:
        self._flush_every_s = flush_every_s
        self._waiting: deque[Counted] = deque(maxlen=MOST_WAITING)
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._writer: threading.Thread | None = None
        self._journal = Journal()
        os.register_at_fork(after_in_child=self._forget)

    def add(self, record: LedgerRow, settlement: Settlement | None = None, text: LoggedText | None = None) -> None:
        """Have a record written soon; within a transaction it is written at once and belongs to it."""
        counted = Counted(record, settlement, text)
        if connection.in_atomic_block:
            _write([counted])
            return
        with self._lock:  # in the file as in the line: what is written of one, is written of those before it
            self._waiting.append(replace(counted, place=self._journal.add(_entry_of(counted))))
            if self._writer is None:
                self._writer = threading.Thread(target=self._write_forever, name="ledger", daemon=True)
                self._writer.start()
                atexit.register(self._flush_at_exit)

    def flush(self) -> None:
        """Write what waits; when this returns, nothing is half-written. If the database is away it goes on waiting."""
        with self._flushing:
            self._flush()

    def _flush(self) -> None:
        batch = deque(self._waiting.popleft() for _ in range(len(self._waiting)))
        if not batch:
            return
        try:
            try:
                _write(list(batch))
                batch.clear()
            except _FAULT_OF_A_RECORD:
                while batch:
                    _write_alone(batch[0])
                    batch.popleft()
        finally:
            self._waiting.extendleft(reversed(batch))  # whatever happened, what is not written waits
        with self._lock:
            if not self._waiting:
                self._journal.renew()

    def _flush_at_exit(self) -> None:
        try:
            self.flush()
            with self._lock:
                if not self._waiting:
                    self._journal.end()
        except Error:
            logger.error("%d requests could not be counted before the end", len(self._waiting))

    def _write_forever(self) -> None:
        while True:
            time.sleep(self._flush_every_s)
            try:
                self.flush()
                if not self._waiting:
                    connection.close()
            except Exception:  # counting goes on, whatever happened
                logger.exception("%d requests are not counted yet", len(self._waiting))
                connection.close()
                time.sleep(1)

    def _forget(self) -> None:
        """A forked child has no writer, and its parent writes what waited."""
        self._waiting.clear()
        self._journal.leave()
        self._lock, self._flushing = threading.Lock(), threading.Lock()
        self._writer = None


def _write(batch: list[Counted]) -> None:
    """Write records, add them to the usage of their days and settle what was set aside: all of it, or nothing."""
    with all_teams("counted requests of all teams, written together"):
        batch = _not_yet_written(batch)
        records = [counted.record for counted in batch]
        ledger_rows.insert(records)
        LoggedText.unscoped.bulk_create(list(_texts(batch)))
        usage.add_requests([_fact(record) for record in records])
        _note_places(counted.place for counted in batch)
        # Last, since whoever reserves waits for the rows that this locks.
        quotas.settle([counted.settlement for counted in batch if counted.settlement is not None])


def _texts(batch: Iterable[Counted]) -> Iterator[LoggedText]:
    for counted in batch:
        if counted.text is not None and counted.record.key is not None:
            counted.text.record_id = counted.record.key
            yield counted.text


def _not_yet_written(batch: list[Counted]) -> list[Counted]:
    """Return what the ledger does not have yet, and lock how far it is until the transaction ends.

    The answer to a COMMIT may be lost, and its process be killed while the database still carries it out: what looks
    unwritten then is waited for here.
    """
    names = sorted({counted.place.name for counted in batch if counted.place is not None})
    if not names:
        return batch
    LedgerJournal.objects.bulk_create([LedgerJournal(name=name, written=0) for name in names], ignore_conflicts=True)
    known = LedgerJournal.objects.select_for_update().filter(name__in=names)
    written = dict(known.values_list("name", "written"))
    return [one for one in batch if one.place is None or one.place.end > written[one.place.name]]


def _note_places(places: Iterable[Place | None]) -> None:
    """Remember up to where the journals are in the ledger; belongs into the transaction of the records."""
    ends = {place.name: place.end for place in places if place is not None}  # they come in the order of the file
    for name, end in ends.items():
        LedgerJournal.objects.filter(name=name).update(written=end, at=timezone.now())


def _fact(record: LedgerRow) -> usage.RequestFact:
    return usage.RequestFact(
        team_id=record.team_id,
        day=record.at.astimezone(UTC).date(),
        token_id=record.token_id,
        model=record.model,
        is_error=record.status >= 400 and record.status != CLIENT_CLOSED_REQUEST,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        is_replaced=record.attempt == Attempt.REPLACED,
    )


def _write_alone(counted: Counted) -> None:
    record = counted.record
    try:
        _write([counted])
    except _FAULT_OF_A_RECORD:
        record.version_id = record.token_id = record.key = None
        try:
            _write([replace(counted, text=None)])
        except _FAULT_OF_A_RECORD as error:  # its team is gone, or something in it cannot be stored
            logger.warning("request %s is not counted: %s", record.request_id, type(error).__name__)


ledger = Ledger()


# --- what killed processes left ----------------------------------------------------------------------------------

_RECORD: Final = tuple(name for name in ledger_rows.COLUMNS if name != "at")


def _entry_of(counted: Counted) -> dict[str, Any]:
    """Return a counted request as JSON; its texts are left out: they are only kept for those who want them."""
    entry: dict[str, Any] = {name: _plain(getattr(counted.record, name)) for name in _RECORD}
    entry["at"] = counted.record.at.isoformat()
    if (settlement := counted.settlement) is not None:
        held = settlement.reservation
        entry["reservation"] = str(held.id)
        entry["reserved"] = {kind.value: amount for kind, amount in held.amounts.items()}
        entry["starts"] = {kind.value: at.isoformat() for kind, at in held.starts.items()}
        entry["actual"] = {kind.value: amount for kind, amount in settlement.actual.items()}
    return entry


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


def _counted_of(entry: Mapping[str, Any], place: Place) -> Counted:
    # An entry of before has no attempt.
    known = {name: entry[name] for name in _RECORD if name != "attempt" or name in entry}
    record = LedgerRow(**known, at=datetime.fromisoformat(entry["at"]))
    record.team_id = UUID(str(record.team_id))
    if "reservation" not in entry:
        return Counted(record, place=place)
    reservation = Reservation(
        UUID(entry["reservation"]),
        record.team_id,
        {Quota(kind): amount for kind, amount in entry["reserved"].items()},
        {Quota(kind): datetime.fromisoformat(at) for kind, at in entry["starts"].items()},
        {},
    )
    actual = {Quota(kind): amount for kind, amount in entry["actual"].items()}
    return Counted(record, Settlement(reservation, actual), place=place)


def take_up() -> int:
    """Count what processes wrote down that were killed before it was in the ledger; return how many requests."""
    count = 0
    for found in journal.left():
        is_done = False
        try:
            row = LedgerJournal.objects.filter(name=found.path.name).first()
            for entry, place in found.entries(begin=row.written if row else 0):
                count += _taken_up(entry, place)
            is_done = True
        finally:
            found.drop(is_done=is_done)
    old = LedgerJournal.objects.filter(at__lt=timezone.now() - _PLACES_KEPT)
    old.exclude(name__in=[path.name for path in journal.paths()]).delete()
    return count


def _taken_up(entry: Mapping[str, Any], place: Place) -> bool:
    """Count what an entry says, unless it says nothing that can be counted."""
    try:
        _write_alone(_counted_of(entry, place))
    except (ValueError, TypeError, KeyError):
        logger.error("an entry of the journal %s cannot be read", place.name)
        return False
    return True


@dataclass(frozen=True)
class Caller:
    """Who asks, for the count, and the connection on which they wait."""

    team: Team
    request_id: str
    token_id: UUID | None = None
    descriptor: int | None = None
    reservation: Reservation | None = None
    likely_prompt_tokens: int = 0  # for when the engine does not get to tell

    @classmethod
    def of(cls, request: HttpRequest, team: Team) -> Caller:
        """Return the caller behind a page or API request; gunicorn tells us the connection, other servers do not."""
        token = getattr(request, "auth", None)
        connection_of_caller = request.META.get("gunicorn.socket")
        return cls(
            team=team,
            request_id=getattr(request, "request_id", ""),
            token_id=token.pk if token is not None else None,
            descriptor=connection_of_caller.fileno() if connection_of_caller is not None else None,
        )


@dataclass
class RequestCount:
    """Counts and times of one request, written once."""

    target: Target
    caller: Caller
    streamed: bool
    started: float = field(default_factory=time.monotonic)
    first_token_ms: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    has_usage: bool = False
    heard: Heard | None = None  # only where the team keeps texts

    def note_usage(self, answer: Mapping[str, Any]) -> None:
        """Take over the engine's count of tokens."""
        usage = answer.get("usage") or {}
        self.has_usage = self.has_usage or bool(usage)
        self.prompt_tokens = int(usage.get("prompt_tokens") or 0)
        self.completion_tokens = int(usage.get("completion_tokens") or 0)

    def note_chunk(self, event: Mapping[str, Any]) -> None:
        """Note a streamed event: the time of the first text, and usage, counting chunks until the engine has told."""
        if event.get("usage"):
            self.note_usage(event)
        elif any(choice.get("text") or choice.get("delta", {}).get("content") for choice in event.get("choices", [])):
            self.completion_tokens += 1
            if self.first_token_ms is None:
                self.first_token_ms = self._elapsed_ms()

    def write(self, status: int, *, is_replaced: bool = False) -> None:
        """Put the request on the ledger; `is_replaced`: another version is asked now, as if this one never had been.

        An engine tells its usage at the end. Who hangs up before has had the prompt read all the same: it is estimated.
        """
        if not self.has_usage and status in (200, CLIENT_CLOSED_REQUEST):
            self.prompt_tokens = self.caller.likely_prompt_tokens
        record = self._record(status, is_replaced=is_replaced)
        ledger.add(record, self._settlement(record), self.heard.text_of(record) if self.heard is not None else None)

    def _record(self, status: int, *, is_replaced: bool) -> LedgerRow:
        instead = Attempt.INSTEAD if self.target.is_instead else Attempt.ONLY
        return LedgerRow(
            team_id=self.caller.team.pk,
            version_id=self.target.version_id,
            model=self.target.public_name[:120],
            token_id=self.caller.token_id,
            request_id=self.caller.request_id[:64],
            streamed=self.streamed,
            status=status,
            attempt=(Attempt.REPLACED if is_replaced else instead).value,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            first_token_ms=self.first_token_ms,
            duration_ms=self._elapsed_ms(),
        )

    def _settlement(self, record: LedgerRow) -> Settlement | None:
        """Return what of the reservation was used: a request that we could not answer, or asked again, costs none."""
        if self.caller.reservation is None:
            return None
        tokens = self.prompt_tokens + self.completion_tokens
        actual = {Quota.TOKENS_PER_MINUTE: tokens, Quota.TOKENS_PER_MONTH: tokens}
        if record.status >= 500 or record.attempt == Attempt.REPLACED:
            actual[Quota.REQUESTS_PER_MINUTE] = 0
        return Settlement(self.caller.reservation, actual)

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self.started) * 1000)
