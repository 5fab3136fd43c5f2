"""Makes sense of what a run's child processes report: JSON lines in, one digest for the database out. Pure.

Child processes are trusted with the machine but not with the database: unknown events and fields are passed over, and
values that PostgreSQL would refuse (NaN, infinity, NUL) or that are too long are made harmless, so that no event can
stop those behind it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.utils.translation import gettext as _

from experiments.plan_words import told_by
from experiments.storable import storable_number, storable_text

LONGEST_MESSAGE = 2_000
MOST_FACTS = 40
MOST_SAMPLED_ROWS = 8
LONGEST_SAMPLED_TEXT = 600
MOST_SHOWN_ROWS = 8
MOST_SHOWN_PIECES = 600
MOST_SHOWN_TURNS = 8
LONGEST_PIECE = 200
LARGEST_INTEGER = 2**31 - 1  # what a PositiveIntegerField holds
METRICS = (
    "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_s", "memory_bytes", "validation_loss",
    "validation_exact_match", "validation_json_valid", "validation_macro_f1", "validation_sampled_rows",
    "validation_bound_exact_match",
    "padding_share", "cpu_share", "gpu_share",
)  # fmt: skip
# Events whose fields are kept as they are, in Run.facts under the event's name.
FACTS = ("started", "finished", "stopped", "evaluation_progress", "evaluated", "preflight")
OUTCOMES = ("finished", "stopped", "failed", "evaluated")
LEVELS = ("info", "warning", "error")

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One line of a run's log."""

    at: datetime
    level: str
    kind: str
    message: str


@dataclass
class Digest:
    """What several events together change about a run. None: no change."""

    points: dict[int, dict[str, float | None]] = field(default_factory=dict)
    measured_at: dict[int, datetime] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    first_batch: list[dict[str, Any]] | None = None
    samples: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    phase: str | None = None
    step: int | None = None
    total_steps: int | None = None
    eta_s: float | None = None
    checkpoint_step: int | None = None


def parse_line(line: bytes) -> Event | None:
    """Return the event of one line, or None for anything that is not one."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def digest(events: Iterable[Event]) -> Digest:
    """Put the changes of several events together, the later ones on top."""
    result = Digest()
    for event in events:
        name = event["event"]
        if name in FACTS:
            result.facts[name] = _plain_fields(event)
        if name in _READERS:
            _READERS[name](result, event)
    return result


def failure_of(event: Event) -> tuple[str, str]:
    """Return code and message of a `failed` event, fit for the database."""
    message = _text(event.get("message")) or _("The training failed without saying why.")
    return _text(event.get("code"))[:40] or "internal", message


def step_of(fields: Mapping[str, Any]) -> int:
    """Return the step that an event speaks of, 0 if it names none."""
    return _count(fields.get("step")) or 0


def _metric(result: Digest, event: Event) -> None:
    step = _count(event.get("step"))
    if step is None:
        return
    point = result.points.setdefault(step, {})
    point |= {name: storable_number(event[name]) for name in METRICS if name in event}
    result.measured_at[step] = _moment(event)
    result.step = step
    result.total_steps = _count(event.get("total_steps")) or result.total_steps
    result.eta_s = storable_number(event["eta_s"]) if "eta_s" in event else result.eta_s


def _started(result: Digest, event: Event) -> None:
    result.total_steps = _count(event.get("total_steps")) or result.total_steps
    resumed_from = _count(event.get("resumed_from_step"))
    result.step = resumed_from or 0
    _say(result, event, "plan", told_by(_plain_fields(event)))
    if resumed_from:
        _say(result, event, "resumed", _("The run goes on from step %(step)d.") % {"step": resumed_from})


def _phase(result: Digest, event: Event) -> None:
    result.phase = _text(event.get("phase"))[:20]
    sentences = {
        "loading": _("Loading the base model."),
        "tokenizing": _("Preparing the rows."),
        "training": _("Training."),
        "saving": _("Saving the adapter."),
        "evaluating": _("Asking the untuned and the tuned model the held-out rows."),
    }
    if result.phase in sentences:
        _say(result, event, "phase", sentences[result.phase])


def _checkpoint(result: Digest, event: Event) -> None:
    step = _count(event.get("step"))
    if step is not None:
        result.checkpoint_step = step
        _say(result, event, "checkpoint", _("Checkpoint at step %(step)d.") % {"step": step})


def _log(result: Digest, event: Event) -> None:
    level = event.get("level")
    _say(result, event, "log", _text(event.get("message")), level=level if level in LEVELS else "info")


def _first_batch(result: Digest, event: Event) -> None:
    rows = event.get("rows")
    shown = [_shown_row(row) for row in rows[:MOST_SHOWN_ROWS] if isinstance(row, dict)] if type(rows) is list else []
    result.first_batch = shown or None


def _shown_row(row: Event) -> dict[str, Any]:
    """Return a row of the first batch with nothing but pieces of text and counts."""
    counts = {name: _count(row.get(name)) or 0 for name in ("given_tokens", "learned_tokens")}
    more = row.get("more")
    turns = [_turn(turn) for turn in more[:MOST_SHOWN_TURNS] if isinstance(turn, dict)] if type(more) is list else []
    return {**_turn(row), "more": turns, **counts, "is_cut": row.get("is_cut") is True}


def _turn(value: Event) -> dict[str, Any]:
    return {name: _pieces(value.get(name)) for name in ("given", "learned")}


def _pieces(value: object) -> list[list[Any]]:
    found = value[:MOST_SHOWN_PIECES] if isinstance(value, list) else []
    pairs = (piece for piece in found if isinstance(piece, list) and len(piece) == 2)
    return [[_text(text)[:LONGEST_PIECE], _count(tokens) or 0] for text, tokens in pairs]


def _sample(result: Digest, event: Event) -> None:
    step, rows = _count(event.get("step")), event.get("rows")
    if step is None or not isinstance(rows, list):
        return
    shown = [_sampled(row) for row in rows[:MOST_SAMPLED_ROWS] if isinstance(row, dict)]
    if shown:
        result.samples[step] = shown


def _sampled(row: Event) -> dict[str, Any]:
    """Return a sampled answer with nothing but its texts and how right it is."""
    texts = {name: _text(row.get(name))[:LONGEST_SAMPLED_TEXT] for name in ("prompt", "expected", "answer")}
    fields = row.get("fields")
    bound = row.get("bound")
    within = {"bound": _text(bound)[:LONGEST_SAMPLED_TEXT], "bound_exact": row.get("bound_exact") is True}
    right = list(fields.items())[:MOST_FACTS] if isinstance(fields, dict) else []
    return {
        "row": _count(row.get("row")) or 0,
        **texts,
        "exact": row.get("exact") is True,
        "score": storable_number(row.get("score")),
        "fields": {_text(name)[:60]: is_right is True for name, is_right in right},
        **(within if isinstance(bound, str) else {}),
    }


_READERS = {
    "metric": _metric,
    "started": _started,
    "phase": _phase,
    "checkpoint": _checkpoint,
    "log": _log,
    "first_batch": _first_batch,
    "sample": _sample,
}


def _say(result: Digest, event: Event, kind: str, message: str, *, level: str = "info") -> None:
    if message:
        result.lines.append(Line(_moment(event), level, kind, message))


# --- values ------------------------------------------------------------------------------------------------------


def _plain_fields(event: Event) -> dict[str, Any]:
    """Return the scalar fields of an event besides its name and time."""
    names = [name for name in event if name not in ("event", "at")][:MOST_FACTS]
    fields = {_text(name)[:60]: event[name] for name in names}
    plain: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, str):
            plain[name] = _text(value)
        elif value is None or isinstance(value, bool):
            plain[name] = value
        elif isinstance(value, int | float):
            plain[name] = value if isinstance(value, int) and abs(value) < 2**63 else storable_number(value)
    return plain


def _text(value: object) -> str:
    """Return a text that PostgreSQL takes, cut to a sensible length; empty for anything that is no text."""
    if not isinstance(value, str):
        return ""
    return storable_text(value[:LONGEST_MESSAGE])


def _count(value: object) -> int | None:
    """Return a whole number that fits its column, or None."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= LARGEST_INTEGER else None


def _moment(event: Event) -> datetime:
    """Return the time of an event, or now if it has none that makes sense."""
    at = storable_number(event.get("at"))
    try:
        return datetime.fromtimestamp(at, UTC) if at is not None else datetime.now(UTC)
    except (OverflowError, OSError, ValueError):
        return datetime.now(UTC)
