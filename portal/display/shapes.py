"""Series of numbers as coordinates for the SVG components. No HTML here; templates draw."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """A polyline in a ``width`` × ``height`` box: ``points`` for the line, ``area`` closed to the bottom."""

    width: int
    height: int
    points: str
    area: str
    last_x: str
    last_y: str


@dataclass(frozen=True)
class Bar:
    """One labelled bar; lengths are percentages (0–100) of the track, ``None`` where nothing is to be drawn."""

    label: str
    value: float | None
    length: str
    compared: float | None
    compared_length: str | None
    low: str | None
    high: str | None
    note: str
    url: str


@dataclass(frozen=True)
class Column:
    """One column of a histogram in a 100 × 100 box."""

    label: str
    value: float
    x: str
    y: str
    width: str
    height: str


@dataclass(frozen=True)
class Dot:
    """One dot of a scatter; its place in percent of the box."""

    x: str
    y: str
    label: str
    is_marked: bool


@dataclass(frozen=True)
class Scatter:
    """Dots over an axis of values. `levels` (highest first) and `ticks` (place in percent, words) name the axes."""

    dots: list[Dot]
    levels: list[str]
    ticks: list[tuple[str, str]]


def line(values: Sequence[float | None], *, width: int, height: int, margin: float = 2.5) -> Line | None:
    """Return the series scaled into the box, gaps (None, NaN) left out; None if fewer than two values are known."""
    known = [(index, float(value)) for index, value in enumerate(values) if value is not None and math.isfinite(value)]
    if len(known) < 2:
        return None
    lowest, highest = min(value for _, value in known), max(value for _, value in known)
    span, last = (highest - lowest) or 1.0, len(values) - 1
    drawn = []
    for index, value in known:
        x = margin + index / last * (width - 2 * margin)
        y = height - margin - (value - lowest) / span * (height - 2 * margin)
        drawn.append((_short(x), _short(y)))
    points = " ".join(f"{x},{y}" for x, y in drawn)
    area = f"{drawn[0][0]},{height} {points} {drawn[-1][0]},{height}"
    return Line(width, height, points, area, last_x=drawn[-1][0], last_y=drawn[-1][1])


def bars(items: Sequence[Mapping[str, Any]], *, maximum: float | None = None) -> list[Bar]:
    """Return bars for ``items``: mappings with label, value and maybe compared, low, high, note, url.

    Lengths are relative to ``maximum``, by default the largest number among the items.
    """
    numbers = [item.get(key) for item in items for key in ("value", "compared", "high")]
    scale = maximum or max((number for number in numbers if number is not None), default=0) or 1

    def length(number: float | None) -> str | None:
        return None if number is None else _short(min(max(number / scale, 0), 1) * 100)

    return [
        Bar(
            label=str(item["label"]),
            value=item.get("value"),
            length=length(item.get("value")) or "0",
            compared=item.get("compared"),
            compared_length=length(item.get("compared")),
            low=length(item.get("low")),
            high=length(item.get("high")),
            note=str(item.get("note", "")),
            url=str(item.get("url", "")),
        )
        for item in items
    ]


def columns(items: Sequence[Mapping[str, Any]], *, gap: float = 0.18) -> list[Column]:
    """Return histogram columns for ``items``: mappings with label and value; the highest fills the box."""
    highest = max((item["value"] for item in items), default=0) or 1
    slot = 100 / max(len(items), 1)
    drawn = []
    for index, item in enumerate(items):
        # A count that is not zero stays visible beside a much larger one.
        height = max(item["value"] / highest * 100, 1.5) if item["value"] else 0
        drawn.append(
            Column(
                label=str(item["label"]),
                value=item["value"],
                x=_short((index + gap / 2) * slot),
                y=_short(100 - height),
                width=_short(slot * (1 - gap)),
                height=_short(height),
            )
        )
    return drawn


def scatter(
    items: Sequence[Mapping[str, Any]],
    *,
    places: Sequence[str] | None,
    write: Callable[[float], str],
    margin: float = 8,
) -> Scatter | None:
    """Return dots for ``items``: mappings with x, y, label and is_marked; None if there are none.

    With ``places``, x is the number of one of them, and they stand side by side; without, x is drawn to scale, by
    orders of magnitude if the values lie far apart. ``write`` writes numbers.
    """
    if not items:
        return None
    xs, ys = [float(item["x"]) for item in items], [float(item["y"]) for item in items]
    lowest, highest = min(ys), max(ys)
    if places is None:
        by_magnitude = min(xs) > 0 and max(xs) / min(xs) >= 10
        scaled = [math.log(x) for x in xs] if by_magnitude else xs
        across = [_within(x, min(scaled), max(scaled), margin) for x in scaled]
        ticks = [(across[at], write(xs[at])) for at in (xs.index(min(xs)), xs.index(max(xs)))]
    else:
        across = [(x + 0.5) / len(places) * 100 for x in xs]
        ticks = [((at + 0.5) / len(places) * 100, words) for at, words in enumerate(places)]
    dots = [
        Dot(_short(x), _short(100 - _within(y, lowest, highest, margin)), str(item["label"]), bool(item["is_marked"]))
        for x, y, item in zip(across, ys, items, strict=True)
    ]
    levels = [write(highest), write((lowest + highest) / 2), write(lowest)] if highest > lowest else [write(lowest)]
    return Scatter(dots, levels, [(_short(x), words) for x, words in ticks])


def _within(value: float, lowest: float, highest: float, margin: float) -> float:
    """Return a value's place between the margins of 0 to 100; the middle if there is but one value."""
    return 50.0 if highest <= lowest else margin + (value - lowest) / (highest - lowest) * (100 - 2 * margin)


def heat(value: float | None, highest: float | None) -> int:
    """Return how strongly to colour a cell, 0 (empty) to 10 (highest)."""
    if not value or not highest or value <= 0:
        return 0
    return max(1, min(10, round(value / highest * 10)))


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")
