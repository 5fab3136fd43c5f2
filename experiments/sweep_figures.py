"""What a sweep found, value by value: a scatter of its runs and a table for each hyperparameter. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portal.display import numbers, shapes

# More values than this have no place of their own on the axis; numbers are drawn to scale then.
_MOST_PLACES = 8


@dataclass(frozen=True)
class Outcome:
    """One run of a sweep: its number, its values as words and as they are, and how well it did."""

    number: int
    values: Mapping[str, Any]
    words: Mapping[str, str]
    validation_loss: float | None
    exact_match: float | None
    is_best: bool


@dataclass(frozen=True)
class ValueLine:
    """All runs with one value: how many, and the best and the mean of what they reached, None where nobody knows."""

    value: str
    runs: int
    best_loss: float | None
    mean_loss: float | None
    best_exact_match: float | None
    mean_exact_match: float | None


@dataclass(frozen=True)
class ParameterFigures:
    """One swept hyperparameter: drawings (None without figures) and the same as a table, in the order of values."""

    label: str
    loss: shapes.Scatter | None
    exact_match: shapes.Scatter | None
    lines: tuple[ValueLine, ...]


def by_value(labels: Mapping[str, str], outcomes: Sequence[Outcome]) -> list[ParameterFigures]:
    """Return the figures of each hyperparameter by its name in `labels`; nothing until two runs have a figure."""
    known = [one for one in outcomes if one.validation_loss is not None or one.exact_match is not None]
    return [_figures(name, label, known) for name, label in labels.items()] if len(known) > 1 else []


def _figures(name: str, label: str, outcomes: Sequence[Outcome]) -> ParameterFigures:
    ordered = sorted(outcomes, key=lambda one: _rank(one.values.get(name)))
    groups: dict[str, list[Outcome]] = {}
    for one in ordered:
        groups.setdefault(one.words[name], []).append(one)
    return ParameterFigures(
        label=label,
        loss=_scatter(name, ordered, lambda one: one.validation_loss, numbers.significant),
        exact_match=_scatter(name, ordered, lambda one: one.exact_match, numbers.percent),
        lines=tuple(_line(value, alike) for value, alike in groups.items()),
    )


def _rank(value: object) -> tuple[int, float, str]:
    """Return what sorts numbers by size, before words by the alphabet."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return 0, float(value), ""
    return 1, 0.0, str(value)


def _line(value: str, alike: Sequence[Outcome]) -> ValueLine:
    losses = [one.validation_loss for one in alike if one.validation_loss is not None]
    matches = [one.exact_match for one in alike if one.exact_match is not None]
    return ValueLine(
        value=value,
        runs=len(alike),
        best_loss=min(losses, default=None),
        mean_loss=sum(losses) / len(losses) if losses else None,
        best_exact_match=max(matches, default=None),
        mean_exact_match=sum(matches) / len(matches) if matches else None,
    )


def _scatter(
    name: str,
    ordered: Sequence[Outcome],
    figure: Callable[[Outcome], float | None],
    write: Callable[[float | None], str],
) -> shapes.Scatter | None:
    drawn = [(one, reached) for one in ordered if (reached := figure(one)) is not None]
    values = [one.values.get(name) for one, _reached in drawn]
    words = list(dict.fromkeys(one.words[name] for one, _reached in drawn))
    to_scale = len(words) > _MOST_PLACES and all(_rank(value)[0] == 0 for value in values)
    return shapes.scatter(
        [
            {
                "x": value if to_scale else words.index(one.words[name]),
                "y": reached,
                "label": f"#{one.number}: {one.words[name]}, {write(reached)}",
                "is_marked": one.is_best,
            }
            for (one, reached), value in zip(drawn, values, strict=True)
        ],
        places=None if to_scale else words,
        write=write,
    )
