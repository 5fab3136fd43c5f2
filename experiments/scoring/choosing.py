"""Answers put together from allowed values: every value of each closed field of a schema gets a probability. Pure.

The evaluation, `/v1/decisions` and the confidence of answers all follow this one rule, so that a temperature fitted for
the first fits the others. A field's probabilities are those of its values, whatever the closed fields before it say:
the likeliest of those are followed, each as far as it is likely. What is not closed is taken from an answer that the
model has written.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from datasets_app.doctor.schema import closed_fields
from datasets_app.fields import json_object, value_of

Score = Callable[[str, Sequence[str], str], Sequence[float]]
"""(what stands before a value in the answer, the values, what stands behind) → natural log probability of each value,
given that it is one of them."""

Spread = Mapping[str, float]
"""The natural log probability of every label."""

LABEL: Final = "label"
"""The name under which thresholds and temperatures of a classification are kept, whose answer is the label alone."""

# An answer that begins less likely than the best one by this factor is not followed; nor is a fourth one.
BEAMS: Final = 3
_FOLLOWED_NATS: Final = 3.0
_LEAST_SHARE: Final = 1e-12


@dataclass(frozen=True)
class ChosenAnswer:
    """The answer of each field's likeliest value, and the probabilities of every closed field's values."""

    text: str
    spreads: Mapping[str, Spread]


@dataclass(frozen=True)
class _Beam:
    """An answer as far as it has come, up to where the next key begins; `logprob` is that of the likeliest one less."""

    text: str
    logprob: float = 0.0


class ClosedFields:
    """The fields of a schema that are answered from a few values and stand in every answer, in the schema's order."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.names = list(schema.get("properties", {}))
        self._required = frozenset(schema.get("required", ()))
        known = {name: tuple(dict.fromkeys(labels)) for name, labels in closed_fields(schema).items()}
        self.labels = {name: labels for name, labels in known.items() if labels and name in self._required}

    def are_as(self, others: ClosedFields) -> bool:
        """Return whether temperatures that fit others fit these: the same fields in the same order, the same values."""
        ours, theirs = ([(name, frozenset(one.labels.get(name, ()))) for name in one.names] for one in (self, others))
        return ours == theirs

    def needs_answer(self, name: str) -> bool:
        """Return whether a field can be scored only with an answer at hand: others stand before it, or may behind."""
        place = self.names.index(name)
        if any(one not in self.labels for one in self.names[:place]):
            return True
        behind = self.names[place + 1 :]
        return bool(behind) and not self._required.intersection(behind)

    @property
    def need_answers(self) -> bool:
        """Whether any of them can be scored only with an answer at hand."""
        return any(map(self.needs_answer, self.labels))

    def most_followed(self, names: Collection[str]) -> dict[str, int]:
        """Return the fields that are scored for these, in order, each with how many answers lead to it at most."""
        ways, found = 1, {}
        for name in self.names[: 1 + max((self.names.index(name) for name in names), default=-1)]:
            values = len(self.labels.get(name, ())) or 1
            if values > 1:
                found[name] = ways
            ways = min(BEAMS, ways * values)
        return found

    def is_last(self, name: str, given: Mapping[str, object]) -> bool:
        """Return whether the answer ends with a field; `given`: the fields of an answer at hand."""
        behind = self.names[self.names.index(name) + 1 :]
        return not any(one in self._required or one in given for one in behind)


class Walk:
    """One answer, walked through field by field; a closed field is scored when it is first asked for."""

    def __init__(self, fields: ClosedFields, score: Score, other: str = "") -> None:
        """`other`: an answer from which everything is taken that is not closed."""
        self._fields = fields
        self._score = score
        self._given = json_object(other) or {}
        self._names = [name for name in fields.names if name in fields.labels or name in self._given]
        self._ahead = deque(self._names)
        self._beams = [_Beam("{")]
        self._spreads: dict[str, Spread] = {}

    def of(self, name: str) -> Spread | None:
        """Return how likely each value of a field is, by its label; None if it is no closed field.

        Raises: what the score raises.
        """
        while name not in self._spreads and name in self._ahead:
            self._step(self._ahead.popleft())
        return self._spreads.get(name)

    def answer(self) -> ChosenAnswer:
        """Return the whole answer. Raises: what the score raises."""
        spreads = {name: spread for name in self._names if (spread := self.of(name)) is not None}
        chosen = {name: value_of(likeliest(spread)) for name, spread in spreads.items()}
        return ChosenAnswer(_text({name: chosen.get(name, self._given.get(name)) for name in self._names}), spreads)

    def _step(self, name: str) -> None:
        key = json.dumps(name, ensure_ascii=False) + ": "
        labels = self._fields.labels.get(name)
        if labels is None:
            value = json.dumps(self._given[name], ensure_ascii=False)
            self._beams = [_Beam(f"{beam.text}{key}{value}, ", beam.logprob) for beam in self._beams]
            return
        values = [json.dumps(value_of(label), ensure_ascii=False) for label in labels]
        # The quote of the next key is part of a value's last token in many vocabularies.
        ending = "}" if self._fields.is_last(name, self._given) else ', "'
        longer: list[_Beam] = []
        masses = dict.fromkeys(labels, 0.0)
        for beam in self._beams:
            logprobs = self._score(beam.text + key, values, ending) if len(values) > 1 else (0.0,)
            for label, value, logprob in zip(labels, values, logprobs, strict=True):
                longer.append(_Beam(f"{beam.text}{key}{value}, ", beam.logprob + logprob))
                masses[label] += math.exp(beam.logprob + logprob)
        whole = math.fsum(masses.values())
        self._spreads[name] = {label: math.log(max(mass / whole, _LEAST_SHARE)) for label, mass in masses.items()}
        best = max(beam.logprob for beam in longer)
        followed = [beam for beam in longer if beam.logprob >= best - _FOLLOWED_NATS]
        chosen = sorted(followed, key=lambda beam: -beam.logprob)[:BEAMS]
        # Only their ratio counts, and behind hundreds of fields all of them would be too small for a number.
        self._beams = [_Beam(beam.text, beam.logprob - best) for beam in chosen]


def likeliest(spread: Spread) -> str:
    """Return the likeliest label; of equals the first."""
    return max(spread, key=spread.__getitem__)


def _text(members: Mapping[str, object]) -> str:
    return json.dumps(members, ensure_ascii=False)
