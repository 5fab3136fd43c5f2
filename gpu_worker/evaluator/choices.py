"""Answers put together from allowed values: every value of each closed field of the schema gets a probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets_app.doctor.schema import SchemaTally
from datasets_app.fields import json_object, label_of
from datasets_app.rendering import ChatRenderer
from experiments.scoring.choosing import ClosedFields, Walk, likeliest
from gpu_worker.engine.decisions import decide, value_ids
from gpu_worker.engine.likelihood import Likelihoods
from gpu_worker.engine.sequence import AdapterRef


@dataclass(frozen=True)
class Choice:
    """What a model thinks of one closed field: the likeliest label, and the log probability of every label."""

    label: str
    logprobs: Mapping[str, float]


@dataclass(frozen=True)
class ChosenAnswer:
    """The answer of the likeliest allowed values, and how sure the model is of each closed field."""

    text: str
    choices: Mapping[str, Choice]


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
        self._fields = ClosedFields(schema)
        self.closed = self._fields.labels
        self.needs_answers = self._fields.need_answers
        self._adapter = adapter
        self._cache_salt = cache_salt

    def answer(self, prompt_ids: Sequence[int], other: str) -> ChosenAnswer:
        """Return the answer of the likeliest allowed values; what is not closed is taken from the answer `other`.

        Raises: ValueError if prompt and answer are too long for the model.
        """

        def score(beginning: str, values: Sequence[str], ending: str) -> Sequence[float]:
            ids = value_ids(self._renderer, values, beginning=beginning, ending=ending)
            return decide(self._scorer, prompt_ids, ids, self._adapter, cache_salt=self._cache_salt).logprobs

        chosen = Walk(self._fields, score, other).answer()
        choices = {name: Choice(likeliest(spread), spread) for name, spread in chosen.spreads.items()}
        return ChosenAnswer(chosen.text, choices)


def right_label(expected: str, name: str) -> str | None:
    """Return the label that the right answer gives to a field, None if it has no such field."""
    members = json_object(expected)
    return label_of(members[name]) if members is not None and name in members else None
