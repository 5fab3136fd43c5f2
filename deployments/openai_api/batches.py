"""Batches: a file of requests, answered when there is room, into a file of answers.

A batch is worked on in short slices, each a task of the queue that orders the next one, so batches of several teams
take turns and no worker is held for hours. Within a slice a few requests are answered at a time. What is done is known
by counts and by the lengths of the two files: a slice that dies is done again from there, at most a handful of
requests are asked twice, and no answer stands in the files twice.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from django.db import connection, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app.claims import ClaimLost, Claims
from deployments.metering import Caller
from deployments.openai_api import answering, batch_lines, files, parameters
from deployments.openai_api.models import ApiFile, BatchJob
from deployments.webhooks import outbox
from portal import audit
from portal.access import membership_of
from portal.actors import Actor
from portal.errors import Failed, IllegalTransition, InvalidInput, PortalError, RateLimited, Unavailable
from portal.models import ApiToken, Team
from portal.rls import all_teams, team_scope

logger = logging.getLogger(__name__)

PREFIX: Final = "batch_"
RUN: Final = "deployments.tasks.run_batch"
WINDOW: Final = timedelta(hours=24)
OUTPUT_KEPT_FOR: Final = timedelta(days=30)
# Requests of one batch that are at the engine at a time: people who wait come first.
PARALLEL: Final = 4
SLICE_S: Final = 20.0
STALLED_AFTER: Final = timedelta(seconds=90)
TRIES: Final = 3
PAUSE_S: Final = 1.0
MACHINE: Final = Actor.system("batch")
Status = BatchJob.Status
ENDED: Final = (Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED)
BATCHES: Final = Claims(BatchJob, open=BatchJob.OPEN, task=RUN, stalled_after=STALLED_AFTER, called="batches")
_KNOWN: Final = frozenset(("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"))


@dataclass(frozen=True)
class BatchOrder:
    """A checked request for a batch."""

    input_file_id: str
    endpoint: str
    metadata: Mapping[str, str]


def read_order(body: Any) -> BatchOrder:
    """Return the order that a body holds. Raises: InvalidInput naming the parameter."""
    body = parameters.require_object(body)
    for name in body:
        if name not in _KNOWN:
            raise parameters.unsupported(name)
    if body.get("output_expires_after") is not None:
        raise parameters.UnsupportedParameter(
            _("Answers are kept for 30 days; this cannot be changed."), param="output_expires_after"
        )
    endpoint = parameters.required_text(body, "endpoint", limit=100)
    if endpoint not in answering.ENDPOINTS:
        known = ", ".join(answering.ENDPOINTS)
        raise InvalidInput(_("'endpoint' has to be one of: %(known)s.") % {"known": known}, param="endpoint")
    if parameters.required_text(body, "completion_window", limit=10) != "24h":
        raise InvalidInput(_("'completion_window' has to be 24h."), param="completion_window")
    file_id = parameters.required_text(body, "input_file_id", limit=100)
    return BatchOrder(file_id, endpoint, parameters.metadata(body.get("metadata")))


@transaction.atomic
def create_batch(*, team: Team, actor: Actor, token: ApiToken, order: BatchOrder) -> BatchJob:
    """Take an order; the queue works on it. Call it in the team's row scope. Raises: InvalidInput, NotFound."""
    file = files.find_file(team, order.input_file_id, param="input_file_id")
    if file.purpose != ApiFile.Purpose.BATCH:
        raise InvalidInput(_("This file was not uploaded with the purpose 'batch'."), param="input_file_id")
    batch: BatchJob = team.batchjobs.create(
        endpoint=order.endpoint,
        input_file=file,
        input_file_id_shown=file.public_id,
        metadata=dict(order.metadata),
        token=token,
        created_by=actor.user,
        expires_at=timezone.now() + WINDOW,
    )
    audit.record(team, actor, "batch.created", batch, endpoint=order.endpoint)
    BATCHES.enqueue(batch.pk)
    return batch


@transaction.atomic
def cancel_batch(*, batch: BatchJob, actor: Actor) -> BatchJob:
    """Stop a batch; what is answered already becomes its output. Raises: IllegalTransition if it has ended."""
    locked: BatchJob = batch.team.batchjobs.select_for_update(of=("self",)).get(pk=batch.pk)
    if not locked.is_open or locked.status == Status.FINALIZING:
        raise IllegalTransition(
            _("This batch has already ended, so it cannot be cancelled."), code="batch_not_cancellable"
        )
    if locked.status != Status.CANCELLING:
        locked.status, locked.cancelling_at = Status.CANCELLING, timezone.now()
        locked.save(update_fields=["status", "cancelling_at"])
        audit.record(locked.team, actor, "batch.cancel_requested", locked)
        BATCHES.enqueue(locked.pk)
    return locked


# --- one slice of work -------------------------------------------------------------------------------------------


def work(batch_id: uuid.UUID) -> None:
    """Work on a batch for a moment, and order the next slice if it is not done. A doubled message does nothing."""
    batch = _claim(batch_id)
    if batch is None:
        return
    try:
        is_over = _Slice(batch).run()
    except ClaimLost:
        return
    with team_scope(batch.team_id):
        batch.team.batchjobs.filter(pk=batch.pk, claim=batch.claim).update(claim=None)
        if not is_over:
            BATCHES.enqueue(batch.pk)


def sweep() -> int:
    """Order slices of batches whose worker died or whose message was lost; return how many. Call it by the clock."""
    return BATCHES.requeue_stalled()


def answered(
    ask: Callable[[batch_lines.Entry], batch_lines.Result | None], window: Sequence[batch_lines.Entry]
) -> list[batch_lines.Result | None]:
    """Return what comes of several requests that are asked at the same time, in their order."""
    with ThreadPoolExecutor(len(window), thread_name_prefix="batch") as threads:
        return list(threads.map(ask, window))


def _claim(batch_id: uuid.UUID) -> BatchJob | None:
    with all_teams("a batch's id leads to its team"):
        if not BATCHES.unclaimed(batch_id).update(claim=uuid.uuid4(), heartbeat_at=timezone.now()):
            return None
        related = ("team", "created_by", "token__service_account", "token__created_by", "input_file__team")
        return BatchJob.unscoped.select_related(*related).get(pk=batch_id)


class _Slice:
    """A moment's work on a batch that we hold."""

    def __init__(self, batch: BatchJob) -> None:
        self.batch = batch
        self.until = time.monotonic() + SLICE_S
        batch.folder.mkdir(parents=True, exist_ok=True)
        self.output, self.errors = batch.folder / "output.jsonl", batch.folder / "errors.jsonl"

    def run(self) -> bool:
        """Return whether the batch is over. Raises: ClaimLost."""
        batch = self.batch
        if batch.status == Status.VALIDATING and not self._validate():
            return True
        if batch.status == Status.IN_PROGRESS and not self._answer():
            return False
        self._finish()
        return True

    def _validate(self) -> bool:
        """Read the whole file once; return whether it can be worked on, and end the batch if not."""
        batch = self.batch
        path = batch.input_file.path if batch.input_file else None
        total, problems = (
            batch_lines.check(path, batch.endpoint)
            if path
            else (0, [batch_lines.problem("file_missing", None, _("No file."))])
        )
        if problems or not total:
            problems = problems or [batch_lines.problem("empty_file", None, _("The file holds no requests."))]
            self._change(status=Status.FAILED, errors=problems, ended_at=timezone.now())
            audit_end(batch)
            return False
        self._change(status=Status.IN_PROGRESS, total=total, started_at=timezone.now())
        return True

    def _answer(self) -> bool:
        """Answer requests until the slice is over; return whether the batch needs no more of them."""
        batch = self.batch
        token = batch.token
        if batch.input_file is None or token is None or not self._may_go_on(token):
            self._change(errors=[batch_lines.problem("token_ended", None, _("The API token of this batch has ended."))])
            return True
        batch_lines.cut(self.output, batch.output_bytes)
        batch_lines.cut(self.errors, batch.error_bytes)
        done = batch.completed + batch.failed
        entries = itertools.islice(batch_lines.entries_of(batch.input_file.path), done, None)
        while window := list(itertools.islice(entries, PARALLEL)):
            if self._is_to_end():
                return True
            results = answered(partial(self._one, token=token), window)
            # What had to come back later is asked again in another slice, with all behind it.
            kept = [result for result in itertools.takewhile(lambda result: result is not None, results) if result]
            self._keep(kept)
            if len(kept) < len(window):
                time.sleep(PAUSE_S)
                return False
            if time.monotonic() > self.until:
                return batch.completed + batch.failed >= batch.total
        return True

    def _may_go_on(self, token: ApiToken) -> bool:
        """Whether the token could still be used: a batch does nothing that its owner could not do now."""
        if not token.is_usable or "inference" not in token.scopes:
            return False
        if token.service_account is not None:
            return token.service_account.is_active
        return token.created_by.is_active and membership_of(token.created_by, self.batch.team.slug) is not None

    def _is_to_end(self) -> bool:
        """Whether somebody cancelled the batch or its time is up; renews our claim. Raises: ClaimLost."""
        with team_scope(self.batch.team_id):
            mine = self.batch.team.batchjobs.filter(pk=self.batch.pk, claim=self.batch.claim)
            if not mine.update(heartbeat_at=timezone.now()):
                raise ClaimLost
            self.batch.status, self.batch.expires_at = mine.values_list("status", "expires_at").get()
        return self.batch.status == Status.CANCELLING or self.batch.expires_at <= timezone.now()

    def _one(self, entry: batch_lines.Entry, token: ApiToken) -> batch_lines.Result | None:
        """Answer one request; None if it has to be asked again later."""
        request_id = f"req_{uuid.uuid4().hex}"
        caller = Caller(team=self.batch.team, request_id=request_id, token_id=token.pk)
        try:
            return batch_lines.answer_line(entry, request_id, 200, self._asked(entry, token, caller))
        except RateLimited as error:
            if error.headers.get("x-should-retry") != "false":
                return None
            return batch_lines.refusal_line(entry, request_id, error)
        except PortalError as error:
            return batch_lines.refusal_line(entry, request_id, error)
        except Exception:
            logger.exception("a request of batch %s failed", self.batch.pk)
            return batch_lines.refusal_line(entry, request_id, Failed())
        finally:
            if not connection.in_atomic_block:
                connection.close()

    def _asked(self, entry: batch_lines.Entry, token: ApiToken, caller: Caller) -> dict[str, Any]:
        for attempt in range(1, TRIES + 1):
            try:
                return answering.answer_whole(self.batch.endpoint, entry.body, token=token, caller=caller)
            except Unavailable:
                if attempt == TRIES:
                    raise
                time.sleep(PAUSE_S * attempt)
        raise AssertionError("not reached")

    def _keep(self, results: list[batch_lines.Result]) -> None:
        good = [result.line for result in results if result.is_good]
        bad = [result.line for result in results if not result.is_good]
        self._change(
            completed=self.batch.completed + len(good),
            failed=self.batch.failed + len(bad),
            output_bytes=batch_lines.append(self.output, good),
            error_bytes=batch_lines.append(self.errors, bad),
        )

    def _finish(self) -> None:
        """Turn what was answered into files, and end the batch."""
        batch = self.batch
        ending = Status.COMPLETED
        if batch.status == Status.CANCELLING:
            ending = Status.CANCELLED
        elif batch.completed + batch.failed < batch.total:
            ending = Status.FAILED if batch.errors else Status.EXPIRED
        batch_lines.cut(self.output, batch.output_bytes)
        batch_lines.cut(self.errors, batch.error_bytes)
        actor = Actor(user=batch.created_by, machine="batch")
        made: dict[str, Any] = {}
        try:
            with team_scope(batch.team_id):
                for field, path in (("output_file", self.output), ("error_file", self.errors)):
                    if path.exists() and path.stat().st_size:
                        made[field] = _as_file(batch, actor, path, field)
                self._change(status=ending, ended_at=timezone.now(), finalizing_at=timezone.now(), claim=None, **made)
                audit_end(batch)
        except PortalError as error:  # no storage left: the answers stay where they are put together
            problem = batch_lines.problem(error.code, None, error.message)
            self._change(status=Status.FAILED, errors=[problem], ended_at=timezone.now())
            return
        for path in (self.output, self.errors):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            batch.folder.rmdir()

    def _change(self, **fields: Any) -> None:
        """Change the batch, if we still hold it and nobody cancelled it meanwhile. Raises: ClaimLost."""
        with team_scope(self.batch.team_id):
            rows = self.batch.team.batchjobs.filter(pk=self.batch.pk, claim=self.batch.claim)
            if "status" in fields and fields["status"] in BatchJob.OPEN:
                rows = rows.exclude(status=Status.CANCELLING)
            changed = rows.update(heartbeat_at=timezone.now(), **fields)
            if not changed and not self.batch.team.batchjobs.filter(pk=self.batch.pk, claim=self.batch.claim).exists():
                raise ClaimLost
            if changed and fields.get("status") in ENDED:
                outbox.emit(self.batch.team, f"batch.{fields['status']}", self.batch.public_id)
        for name, value in fields.items():
            setattr(self.batch, name, value)
        if not changed:
            self.batch.status = Status.CANCELLING


def audit_end(batch: BatchJob) -> None:
    """Note the end of a batch."""
    with team_scope(batch.team_id):
        audit.record(
            batch.team,
            MACHINE,
            "batch.ended",
            batch,
            outcome="failed" if batch.status == Status.FAILED else "done",
            status=str(batch.status),
            completed=batch.completed,
            failed=batch.failed,
        )


def _as_file(batch: BatchJob, actor: Actor, path: Path, field: str) -> ApiFile:
    name = f"{batch.public_id}_{'output' if field == 'output_file' else 'error'}.jsonl"
    purpose = ApiFile.Purpose.BATCH_OUTPUT
    with path.open("rb") as content:
        file = files.write(team=batch.team, actor=actor, purpose=purpose, name=name, parts=files.blocks(content))
    file.expires_at = timezone.now() + OUTPUT_KEPT_FOR
    file.save(update_fields=["expires_at"])
    return file


# --- in OpenAI's words -------------------------------------------------------------------------------------------


def as_object(batch: BatchJob) -> dict[str, Any]:
    """Return a batch as OpenAI's clients know it."""
    ended = {f"{status}_at": None for status in ("completed", "failed", "cancelled", "expired")}
    if batch.ended_at is not None:
        ended[f"{batch.status}_at"] = int(batch.ended_at.timestamp())  # type: ignore[assignment]
    errors = {"object": "list", "data": batch.errors} if batch.errors else None
    return {
        "id": batch.public_id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": batch.input_file_id_shown,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": f"file-{batch.output_file_id.hex}" if batch.output_file_id else None,
        "error_file_id": f"file-{batch.error_file_id.hex}" if batch.error_file_id else None,
        "created_at": int(batch.created_at.timestamp()),
        "in_progress_at": int(batch.started_at.timestamp()) if batch.started_at else None,
        "expires_at": int(batch.expires_at.timestamp()),
        "finalizing_at": int(batch.finalizing_at.timestamp()) if batch.finalizing_at else None,
        "cancelling_at": int(batch.cancelling_at.timestamp()) if batch.cancelling_at else None,
        **ended,
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata or None,
    }
