"""Answers put together from allowed values: every value of each closed field of the schema gets a probability."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets_app.doctor.schema import SchemaTally, closed_fields
from datasets_app.fields import json_object, label_of, value_of
from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.decisions import decide
from gpu_worker.engine.likelihood import Likelihoods
from gpu_worker.engine.sequence import AdapterRef

# An answer that begins less likely than the best one by this factor is not followed; nor is a fourth one.
BEAMS = 3
_FOLLOWED_NATS = 3.0


@dataclass(frozen=True)
class Choice:
    """What a model thinks of one closed field: the label it says, and the log probability of every label."""

    label: str
    logprobs: Mapping[str, float]


@dataclass(frozen=True)
class ChosenAnswer:
    """The likeliest answer of allowed values, and how sure the model is of each closed field."""

    text: str
    choices: Mapping[str, Choice]


@dataclass(frozen=True)
class _Beam:
    """An answer as far as it has come."""

    text: str
    logprob: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)


def infer_schema(answers: Sequence[str]) -> dict[str, Any] | None:
    """Return the schema that JSON answers follow, None if most answers are no JSON objects."""
    objects = [members for answer in answers if (members := json_object(answer)) is not None]
    if not objects or 2 * len(objects) < len(answers):
        return None
    tally = SchemaTally()
    for members in objects:
        tally.add(members)
    return tally.schema()


class Chooser:
    """Asks one model, by likelihood alone, which values it would give to the closed fields of a schema."""

    def __init__(
        self,
        scorer: Likelihoods,
        renderer: ChatRenderer,
        schema: Mapping[str, Any],
        adapter: AdapterRef | None,
        *,
        cache_salt: str,
    ) -> None:
        self._scorer = scorer
        self._renderer = renderer
        self._names = list(schema.get("properties", {}))
        required = set(schema.get("required", ()))
        self.closed = {name: labels for name, labels in closed_fields(schema).items() if name in required}
        self._adapter = adapter
        self._cache_salt = cache_salt

    def answer(self, prompt_ids: Sequence[int], other: str) -> ChosenAnswer:
        """Return the answer of the likeliest allowed values; what is not closed is taken from the answer `other`.

        Raises: ValueError if prompt and answer are too long for the model.
        """
        given = json_object(other) or {}
        names = [name for name in self._names if name in self.closed or name in given]
        beams, spread = [_Beam("{")], {}
        for place, name in enumerate(names):
            end = ", " if place + 1 < len(names) else "}"
            key = json.dumps(name, ensure_ascii=False) + ": "
            if name not in self.closed:
                value = json.dumps(given[name], ensure_ascii=False)
                beams = [_Beam(beam.text + key + value + end, beam.logprob, beam.labels) for beam in beams]
                continue
            followed = self._follow(prompt_ids, beams, name, key, end)
            spread[name] = _sums(followed, name, self.closed[name])
            best = max(beam.logprob for beam in followed)
            followed = [beam for beam in followed if beam.logprob >= best - _FOLLOWED_NATS]
            beams = sorted(followed, key=lambda beam: -beam.logprob)[:BEAMS]
        chosen = beams[0] if names else _Beam("{}")
        return ChosenAnswer(chosen.text, {name: Choice(chosen.labels[name], spread[name]) for name in spread})

    def _follow(self, prompt_ids: Sequence[int], beams: Sequence[_Beam], name: str, key: str, end: str) -> list[_Beam]:
        """Return every beam with every value of a field behind it."""
        # the quote of the next key is part of a value's last token in many vocabularies
        close = end + '"' if end == ", " else end
        longer: list[_Beam] = []
        for beam in beams:
            texts = [beam.text + key + json.dumps(value_of(label), ensure_ascii=False) for label in self.closed[name]]
            ids = [self._renderer.encode(text + close) for text in texts]
            decision = decide(self._scorer, prompt_ids, ids, self._adapter, cache_salt=self._cache_salt)
            longer += [
                _Beam(text + end, beam.logprob + logprob, {**beam.labels, name: label})
                for text, label, logprob in zip(texts, self.closed[name], decision.logprobs, strict=True)
            ]
        return longer


def _sums(beams: Sequence[_Beam], name: str, labels: Sequence[str]) -> dict[str, float]:
    """Return the log probability of each label of a field, whatever came before it."""
    masses = dict.fromkeys(labels, 0.0)
    for beam in beams:
        masses[beam.labels[name]] += math.exp(beam.logprob)
    whole = sum(masses.values())
    return {label: math.log(max(mass / whole, 1e-12)) for label, mass in masses.items()}


def right_label(expected: str, name: str) -> str | None:
    """Return the label that the right answer gives to a field, None if it has no such field."""
    members = json_object(expected)
    return label_of(members[name]) if members is not None and name in members else None
