"""Which values a sweep tries, and which of its runs are losing. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any

from django.utils.translation import gettext as _

from experiments.hyperparameters import Hyperparameters, form_fields

MOST_RUNS = 50
# Losses of different ways to ask are no measure for each other.
NOT_COMPARABLE = ("problem_type",)
# At each rung of successive halving one of so many goes on; the last rung lies at half of the way.
_HALVED_BY = 2
# A run is compared from here on, after so many checks, with at least so many others that have come as far.
_JUDGED_FROM, _LEAST_CHECKS, _LEAST_OTHERS = 0.3, 2, 2

Course = Sequence[tuple[float, float]]  # (share of the run done, validation loss), by share


class BadSweep(ValueError):
    """What was asked for is no sweep; the text is a sentence for people."""


@dataclass(frozen=True)
class Range:
    """Any number between two, both included; drawn evenly, or by orders of magnitude if the ends lie far apart."""

    low: float
    high: float

    def draw(self, chance: random.Random, *, whole: bool) -> float | int:
        """Return a value."""
        if self.low > 0 and self.high / self.low >= 10:
            value = math.exp(chance.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = chance.uniform(self.low, self.high)
        return round(value) if whole else float(f"{value:.3g}")


Values = Mapping[str, Sequence[Any] | Range]


def read_values(text: str) -> dict[str, list[Any] | Range]:
    """Read one hyperparameter a line, as "learning_rate: 0.0005, 0.001" or "lora_r: 4..64". Raises: BadSweep."""
    known = {info.name: info for info in form_fields()}
    found: dict[str, list[Any] | Range] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, colon, listed = (part.strip() for part in line.partition(":"))
        if not colon or name not in known:
            sentence = _(
                "“%(line)s” does not begin with the name of a hyperparameter and a colon. Known are: %(names)s."
            )
            raise BadSweep(sentence % {"line": line[:60], "names": ", ".join(known)})
        if name in found:
            raise BadSweep(_("%(name)s stands there twice. Write all its values on one line.") % {"name": name})
        low, dots, high = listed.partition("..")
        found[name] = _range(name, low, high) if dots else [_typed(part.strip()) for part in listed.split(",")]
    if not found:
        raise BadSweep(_("Name at least one hyperparameter with the values to try."))
    return found


def checked_values(given: Mapping[str, Any]) -> dict[str, list[Any] | Range]:
    """Return values as JSON has them: lists by hyperparameter, a range as the text "4..64". Raises: BadSweep."""
    known = [info.name for info in form_fields()]
    found: dict[str, list[Any] | Range] = {}
    for name, listed in given.items():
        if name not in known:
            sentence = _("“%(name)s” is no hyperparameter. Known are: %(names)s.")
            raise BadSweep(sentence % {"name": name[:60], "names": ", ".join(known)})
        values = listed if isinstance(listed, list) else [listed]
        if not values:
            raise BadSweep(_("Name the values of %(name)s to try.") % {"name": name})
        if len(values) == 1 and isinstance(values[0], str) and ".." in values[0]:
            low, _dots, high = values[0].partition("..")
            found[name] = _range(name, low, high)
        else:
            found[name] = values
    if not found:
        raise BadSweep(_("Name at least one hyperparameter with the values to try."))
    return found


def _range(name: str, low: str, high: str) -> Range:
    try:
        ends = Range(float(low), float(high))
    except ValueError:
        ends = Range(1.0, 0.0)
    if not (math.isfinite(ends.low) and math.isfinite(ends.high) and ends.low < ends.high):
        raise BadSweep(_("The range of %(name)s needs two numbers, the lower one first.") % {"name": name})
    return ends


def _typed(word: str) -> Any:
    known = {"yes": True, "true": True, "no": False, "false": False, "none": None}
    if word.lower() in known:
        return known[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def combinations(values: Values, *, method: str, runs: int = 0, seed: int = 0) -> list[dict[str, Any]]:
    """Return the values of each run: all combinations (grid), or `runs` different ones drawn by chance (random).

    Raises: BadSweep if there are too many, too few, or a range in a grid.
    """
    if refused := [name for name in NOT_COMPARABLE if name in values]:
        raise BadSweep(_("%(name)s cannot be swept: its losses are no measure for each other.") % {"name": refused[0]})
    if method == "random":
        return _drawn(values, runs, seed)
    lists: list[Sequence[Any]] = []
    for name, listed in values.items():
        if isinstance(listed, Range):
            raise BadSweep(_("A grid needs single values for %(name)s; ranges are for random draws.") % {"name": name})
        lists.append(listed)
    _require_number(math.prod(map(len, lists)))
    return _without_doubles([dict(zip(values, one, strict=True)) for one in product(*lists)])


def _require_number(count: int) -> None:
    if not 2 <= count <= MOST_RUNS:
        raise BadSweep(
            _("This sweep would make %(count)d runs; it takes 2 to %(most)d. Change the number of values.")
            % {"count": count, "most": MOST_RUNS}
        )


def _drawn(values: Values, runs: int, seed: int) -> list[dict[str, Any]]:
    _require_number(runs)
    whole = {info.name for info in form_fields() if info.kind == "int"}
    chance = random.Random(seed)  # noqa: S311 -- no secret
    found: list[dict[str, Any]] = []
    for _attempt in range(runs * 50):
        one = {
            name: listed.draw(chance, whole=name in whole) if isinstance(listed, Range) else chance.choice(listed)
            for name, listed in values.items()
        }
        if one not in found:
            found.append(one)
        if len(found) == runs:
            return found
    raise BadSweep(
        _("There are only %(count)d different combinations. Take fewer runs or more values.") % {"count": len(found)}
    )


def _without_doubles(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    unique = [one for at, one in enumerate(found) if one not in found[:at]]
    _require_number(len(unique))
    return unique


def with_values(base: Hyperparameters, values: Mapping[str, Any]) -> Hyperparameters:
    """Return the base with some values changed. Raises: pydantic.ValidationError."""
    return Hyperparameters(**{**base.model_dump(), **values})


def rungs(runs: int) -> tuple[float, ...]:
    """Return at which shares of their way the runs of a sweep are judged by successive halving, first to last.

    So many that one run is left at the end: 8 runs are judged at 1/8, 1/4 and 1/2 of their way.
    """
    count = max(1, math.floor(math.log(max(runs, 2), _HALVED_BY) + 1e-9))
    return tuple(_HALVED_BY ** -float(count - rung) for rung in range(count))


def halving_share(runs: int) -> float:
    """Return which share of the work of all runs is done if half of those that reach a rung are stopped there."""
    left, done, before = float(runs), 0.0, 0.0
    for rung in rungs(runs):
        done += left * (rung - before)
        left, before = max(1.0, left / _HALVED_BY), rung
    return (done + left * (1 - before)) / runs


def is_halved_away(own: Course, others: Sequence[Course], *, runs: int) -> bool:
    """Tell whether a run is in the worse half of those that have come to one of the rungs it has reached.

    Runs come to a rung one after the other, as slots get free, so each is judged among those that were there before:
    asynchronous successive halving, Li et al. 2020, arXiv:1810.05934, section 3. Earlier rungs are looked at again,
    since others may have come there meanwhile. A loss is that of the first validation check at or after the rung.
    Equal losses are no reason to stop.
    """
    for rung in rungs(runs):
        loss = _loss_at(own, rung)
        rivals = [found for course in others if (found := _loss_at(course, rung)) is not None]
        going_on = math.ceil((len(rivals) + 1) / _HALVED_BY)
        if loss is None or len(rivals) < min(_LEAST_OTHERS, runs - 1):
            continue
        if sum(rival < loss for rival in rivals) >= going_on:
            return True
    return False


def _loss_at(course: Course, rung: float) -> float | None:
    return next((loss for share, loss in course if share >= rung - 1e-9), None)


def is_losing(own: Course, others: Sequence[Course]) -> bool:
    """Tell whether a run may be stopped: its best loss so far is worse than the median of the others' at this point.

    Runs of different lengths are compared at the same share of their way. The median stopping rule: Golovin et al.
    2017, Google Vizier, section 3.2.1.
    """
    if len(own) < _LEAST_CHECKS or own[-1][0] < _JUDGED_FROM:
        return False
    here = own[-1][0]
    reached = [course for course in others if course and course[0][0] <= here <= course[-1][0] + 1e-9]
    bests = [min(loss for share, loss in course if share <= here + 1e-9) for course in reached]
    if len(bests) < _LEAST_OTHERS:
        return False
    return min(loss for _share, loss in own) > median(bests)
