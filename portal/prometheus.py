"""What the operator's monitoring reads at /metrics, in Prometheus' text format: each room reports its own figures.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@dataclass(frozen=True)
class Sample:
    """One number. `suffix` is what its name has behind that of its family, as `_bucket`."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True)
class Family:
    """Numbers of one name. `kind`: gauge, counter, histogram, or untyped."""

    name: str
    kind: str
    help: str
    samples: Sequence[Sample]

    def lines(self) -> Iterable[str]:
        """Yield the family's lines."""
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a metric")
        told = self.help.replace("\\", r"\\").replace("\n", r"\n")
        yield f"# HELP {self.name} {told}"
        yield f"# TYPE {self.name} {self.kind}"
        for sample in self.samples:
            yield f"{self.name}{sample.suffix}{labelled(sample.labels)} {number(sample.value)}"


def gauge(name: str, help: str, values: Mapping[Any, float] | float, labels: Sequence[str] = ()) -> Family:
    """Return a family of numbers that go up and down: one, or {values of the labels: number} with a tuple for each."""
    return _family(name, "gauge", help, values, labels)


def counter(name: str, help: str, values: Mapping[Any, float] | float, labels: Sequence[str] = ()) -> Family:
    """Return a family of numbers that only grow, except that they may begin again; its name ends in `_total`."""
    return _family(name, "counter", help, values, labels)


def histogram(name: str, help: str, bounds: Sequence[float], counts: Sequence[int], total: float) -> Family:
    """Return a histogram. `counts`: for each bound those above the one before, and those above all, last."""
    samples, cumulative = [], 0
    for bound, count in zip((*bounds, math.inf), counts, strict=True):
        cumulative += count
        samples.append(Sample(cumulative, {"le": number(bound)}, "_bucket"))
    samples += [Sample(total, suffix="_sum"), Sample(cumulative, suffix="_count")]
    return Family(name, "histogram", help, samples)


def _family(name: str, kind: str, help: str, values: Mapping[Any, float] | float, labels: Sequence[str]) -> Family:
    if not isinstance(values, Mapping):
        return Family(name, kind, help, [Sample(values)])
    samples = [Sample(value, dict(zip(labels, key, strict=True))) for key, value in sorted(values.items())]
    return Family(name, kind, help, samples)


def labelled(labels: Mapping[str, str]) -> str:
    """Return labels between braces, nothing if there are none."""
    if not labels:
        return ""
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def number(value: float) -> str:
    """Return a number as Prometheus reads it."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


_reporters: list[Callable[[], Iterable[Family]]] = []
_relays: list[Callable[[], Iterable[str]]] = []


def report_by(reporter: Callable[[], Iterable[Family]]) -> None:
    """Have `reporter` asked at each reading, in the row scope of all teams. Call it in `ready()`."""
    if reporter not in _reporters:
        _reporters.append(reporter)


def relay_by(relay: Callable[[], Iterable[str]]) -> None:
    """Have `relay` asked for lines from elsewhere at each reading, outside of any transaction. Call it in `ready()`."""
    if relay not in _relays:
        _relays.append(relay)


def reported() -> list[str]:
    """Return the lines of all rooms, read in the caller's row scope."""
    return [line for reporter in _reporters for family in reporter() for line in family.lines()]


def relayed() -> list[str]:
    """Return the lines that come from elsewhere. Hold no transaction while they are waited for."""
    return [line for relay in _relays for line in relay()]
