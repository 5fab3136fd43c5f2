"""What the processes of a run reported of it, in the words of its page of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _

from experiments.hyperparameter_words import fields_in_words
from experiments.plan_words import told_by
from experiments.storable import storable_number
from portal.display.numbers import duration, filesize, percent, thousands

if TYPE_CHECKING:
    from experiments.models import Run


def reported_words(run: Run) -> list[tuple[str, str]]:
    """Return what trainer and evaluator told of a run, as (label, words); what they did not tell is left out."""
    facts = {name: fields for name, fields in run.facts.items() if isinstance(fields, dict)}
    told = [
        *_begun(facts.get("started", {})),
        *_ended(facts.get("finished", {})),
        *_measured(facts.get("evaluated", {})),
    ]
    return [(label, words) for label, words in told if words]


def _begun(started: Mapping[str, Any]) -> list[tuple[str, str]]:
    processes, resumed = _number(started, "processes"), _number(started, "resumed_from_step")
    return [
        (_("Way"), told_by(started)),
        (_("Device"), {"cpu": _("processor"), "cuda": _("GPU")}.get(_text(started, "device"), "")),
        (_("Number format"), _format(_text(started, "precision"))),
        (_("Attention"), _text(started, "attention")),
        (_("Processes"), thousands(processes) if processes is not None and processes > 1 else ""),
        (_("Rows learned from"), _count(started, "rows")),
        (_("Rows cut short"), _count(started, "truncated_rows")),
        (_("Tokens per epoch"), _count(started, "tokens_per_epoch")),
        (_("Of these learned"), _count(started, "label_tokens_per_epoch")),
        (_("Trained parameters"), _count(started, "trainable_parameters")),
        (_("Went on from step"), thousands(resumed) if resumed else ""),
    ]


def _ended(finished: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds, checks, peak = (_number(finished, name) for name in ("seconds", "validation_seconds", "peak_memory_bytes"))
    share = percent(checks / seconds) if seconds and checks is not None else ""
    return [
        (_("Time of training"), "" if seconds is None else duration(seconds)),
        (_("Of this validation checks"), share),
        (_("Most memory"), "" if peak is None else filesize(peak)),
    ]


def _measured(evaluated: Mapping[str, Any]) -> list[tuple[str, str]]:
    seconds = _number(evaluated, "seconds")
    return [
        (_("Rows in the quality report"), _count(evaluated, "rows")),
        (_("Time of the quality report"), "" if seconds is None else duration(seconds)),
    ]


def _format(precision: str) -> str:
    """Return the number format as the form calls it."""
    choices = next(info.choices for info in fields_in_words() if info.name == "precision")
    return dict(choices).get(precision, "")


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    return storable_number(fields.get(name))


def _count(fields: Mapping[str, Any], name: str) -> str:
    number = _number(fields, name)
    return "" if number is None else thousands(number)
