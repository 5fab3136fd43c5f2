"""The figures of a report as drawings: labels by split, lengths in tokens, languages, the schema as a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _

from datasets_app.doctor.balance import shown
from datasets_app.doctor.report import Report
from datasets_app.models import Split
from portal.display.numbers import percent, thousands

LABELS_SHOWN: Final = 12
VALUES_SHOWN: Final = 8


@dataclass(frozen=True)
class Balance:
    """How often each label of a field occurs: bars of shares in training, thin ones of those in the held-out rows."""

    field: str
    bars: tuple[dict[str, Any], ...]
    more: tuple[dict[str, Any], ...]
    has_held_out: bool


@dataclass(frozen=True)
class SchemaLine:
    """One field of the schema in words."""

    name: str
    type: str
    values: tuple[str, ...]
    more: int
    is_required: bool
    is_nullable: bool
    description: str


def balances(report: Report) -> tuple[Balance, ...]:
    """Return the labels of every closed field."""
    return tuple(_balance(field, counted) for field, counted in report.balance.items())


def _balance(field: str, counted: Mapping[str, Any]) -> Balance:
    splits = [split for split in Split if split.value in counted]
    totals = {split: sum(counted[split.value]) for split in splits}
    held_out = [split for split in splits if split != Split.TRAIN]
    held_total = sum(totals[split] for split in held_out)
    bars = []
    for place, label in enumerate(counted["labels"]):
        held = sum(counted[split.value][place] for split in held_out)
        trained = counted[Split.TRAIN.value][place] if Split.TRAIN in splits else 0
        bars.append(
            {
                "label": shown(label),
                "value": trained / (totals.get(Split.TRAIN) or 1),
                "compared": held / held_total if held_total else None,
                "note": " · ".join(thousands(counted[split.value][place]) for split in splits),
            }
        )
    return Balance(field, tuple(bars[:LABELS_SHOWN]), tuple(bars[LABELS_SHOWN:]), bool(held_total))


def length_bars(tokens: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the histogram of the rows' lengths, without the empty bars at its ends."""
    edges, counts = tokens["histogram"]["edges"], tokens["histogram"]["counts"]
    labels = [thousands(edge) for edge in edges] + [f"> {thousands(edges[-1])}"]
    filled = [place for place, count in enumerate(counts) if count]
    if not filled:
        return []
    first, last = filled[0], filled[-1]
    return [{"label": labels[place], "value": counts[place]} for place in range(first, last + 1)]


def length_steps(tokens: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each edge of the histogram's bars how many rows are longer, for the slider below it."""
    edges, counts = tokens["histogram"]["edges"], tokens["histogram"]["counts"]
    total, filled = sum(counts), [place for place, count in enumerate(counts) if count]
    steps, left = [], total
    for place, edge in enumerate(edges):
        left -= counts[place]
        if filled and filled[0] <= place <= filled[-1]:
            share = left / total if total else 0
            steps.append({"limit": edge, "text": _cut_sentence(edge, left, share)})
    return steps


def _cut_sentence(limit: int, rows: int, share: float) -> str:
    if not rows:
        return _("At %(limit)s tokens no row is cut.") % {"limit": thousands(limit)}
    return _("At %(limit)s tokens %(share)s of the rows are cut: %(rows)s.") % {
        "limit": thousands(limit),
        "share": percent(share),
        "rows": thousands(rows),
    }


def language_bars(languages: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the share of each language, the most frequent first."""
    names = {"unknown": _("too short to tell"), "other": _("others")}
    return [
        {"label": names.get(code, code), "value": share / 100} for code, share in languages.get("percent", {}).items()
    ]


def schema_lines(schema: Mapping[str, Any] | None) -> tuple[SchemaLine, ...]:
    """Return the fields of a schema in their order."""
    return tuple(_schema_lines(schema or {}, ""))


def _schema_lines(schema: Mapping[str, Any], prefix: str) -> Iterator[SchemaLine]:
    for name, one in schema.get("properties", {}).items():
        types = _types(one)
        values = [_value(value) for value in one.get("enum", ())]
        yield SchemaLine(
            name=prefix + name,
            type=", ".join(_TYPES[kind]() for kind in types if kind != "null") + _format(one),
            values=tuple(values[:VALUES_SHOWN]),
            more=max(len(values) - VALUES_SHOWN, 0),
            is_required=name in schema.get("required", ()),
            is_nullable="null" in types,
            description=one.get("description", ""),
        )
        yield from _schema_lines(one, f"{prefix}{name}.")


def _types(schema: Mapping[str, Any]) -> Sequence[str]:
    types = schema.get("type", ())
    return [types] if isinstance(types, str) else types


def _format(schema: Mapping[str, Any]) -> str:
    return f" ({schema['format']})" if "format" in schema else ""


def _value(value: object) -> str:
    return value if isinstance(value, str) else "null" if value is None else str(value).lower()


_TYPES: Final = {
    "string": lambda: _("text"),
    "integer": lambda: _("whole number"),
    "number": lambda: _("number"),
    "boolean": lambda: _("yes or no"),
    "object": lambda: _("object"),
    "array": lambda: _("list"),
    "null": lambda: _("nothing"),
}
