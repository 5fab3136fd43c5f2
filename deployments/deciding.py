"""How sure a model is: its engine scores the allowed values, and the run's temperatures make probabilities of them.

Closed fields are scored by the rule of the evaluation (`experiments.scoring.choosing`). Where other fields stand before
one, the model first writes an answer, held to the schema, from which they are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deployments import engine_client, engine_scoring, inference
from deployments.inference import Caller, Target
from experiments.scoring.calibration import probabilities
from experiments.scoring.choosing import LABEL, ClosedFields, Spread, Walk

UNCALIBRATED: Final = 1.0
Message = Mapping[str, str]


@dataclass(frozen=True)
class Sureness:
    """The probability of every label; `is_calibrated`: at a temperature that was fitted for them, asked as here."""

    shares: Mapping[str, float]
    is_calibrated: bool = False


@dataclass
class Usage:
    """Tokens that were read and written for decisions."""

    read: int = 0
    cached: int = 0
    written: int = 0


class Decider:
    """Asks one model about one conversation how likely values are, and adds up what that took."""

    def __init__(
        self,
        target: Target,
        messages: Sequence[Message],
        caller: Caller,
        *,
        schema: Mapping[str, Any] | None = None,
        answer: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        """`schema`: of the answer, if it is not the target's own. `answer`: one that the model has written already."""
        self._target = target
        self._messages = list(messages)
        self._caller = caller
        own = ClosedFields(target.decision_schema or {})
        self._schema = target.decision_schema if schema is None else schema
        self.fields = own if schema is None else ClosedFields(schema)
        self._temperatures = target.temperatures if self.fields.are_as(own) else {}
        self._is_as_fitted = target.fitted.holds_for(target.engine.weights, self._messages)
        self._answer = answer
        self._walk: Walk | None = None
        self._of_labels: Sureness | None = None
        self.usage = usage or Usage()

    def expect(self, names: Iterable[str]) -> None:
        """Have the model write its answer at once if one of these fields cannot be scored without one."""
        needs_answer = any(name in self.fields.labels and self.fields.needs_answer(name) for name in names)
        if needs_answer and self._answer is None:
            self._answer, self._walk = self._write(), None

    def of_field(self, name: str) -> Sureness | None:
        """Return how likely each value of a closed field of the schema is; None if it has none of this name."""
        self.expect([name])
        self._walk = self._walk or Walk(self.fields, self._score_in_answer, self._answer or "")
        spread = self._walk.of(name)
        return None if spread is None else self._at_temperature(name, spread)

    def of_labels(self) -> Sureness | None:
        """Return how likely each label of a classification is as the whole answer; None if the model is none."""
        if self._of_labels is None and self._target.labels:
            labels = self._target.labels
            spread = dict(zip(labels, self._score(self._messages, labels), strict=True))
            self._of_labels = self._at_temperature(LABEL, spread)
        return self._of_labels

    def of_words(self, question: str, values: Sequence[str]) -> Sureness:
        """Return how likely each value is as the answer to a question that is put in words behind the text."""
        *earlier, last = self._messages
        if last["role"] == "user":
            messages = [*earlier, {**last, "content": f"{last['content']}\n{question}"}]
        else:
            messages = [*self._messages, {"role": "user", "content": question.strip()}]
        shares = probabilities(self._score(messages, values), UNCALIBRATED)
        return Sureness(dict(zip(values, shares, strict=True)))

    def _at_temperature(self, name: str, spread: Spread) -> Sureness:
        temperature = self._temperatures.get(name)
        shares = probabilities(list(spread.values()), temperature or UNCALIBRATED)
        # With other weights or another prompt it is the best guess there is, but only a guess.
        return Sureness(dict(zip(spread, shares, strict=True)), temperature is not None and self._is_as_fitted)

    def _score_in_answer(self, beginning: str, values: Sequence[str], ending: str) -> Sequence[float]:
        return self._score(self._messages, values, beginning=beginning, ending=ending)

    def _score(
        self, messages: Sequence[Message], values: Sequence[str], *, beginning: str = "", ending: str = ""
    ) -> list[float]:
        scored = engine_scoring.score_values(
            self._target.engine,
            {
                "model": self._target.engine_model,
                "messages": list(messages),
                "beginning": beginning,
                "values": list(values),
                "ending": ending,
                "cache_salt": inference.cache_salt(self._caller),
            },
            caller=self._caller.descriptor,
        )
        self.usage.read += scored.tokens
        self.usage.cached += scored.cached_tokens
        return scored.logprobs

    def _write(self) -> str:
        """Return the answer that the model writes to the conversation, held to the schema."""
        limit = {"max_tokens": self._target.max_tokens} if self._target.max_tokens is not None else {}
        answer = engine_client.chat(
            self._target.engine,
            {
                "model": self._target.engine_model,
                "messages": self._messages,
                "temperature": 0.0,
                **limit,
                "response_format": inference.held_to(self._schema),
                "cache_salt": inference.cache_salt(self._caller),
            },
            caller=self._caller.descriptor,
        )
        usage = answer.get("usage") or {}
        self.usage.read += int(usage.get("prompt_tokens") or 0)
        self.usage.cached += int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        self.usage.written += int(usage.get("completion_tokens") or 0)
        return text_of((answer.get("choices") or [{}])[0])


def text_of(choice: Mapping[str, Any]) -> str:
    """Return the text of one choice of a chat completion, '' if it has none."""
    return (choice.get("message") or {}).get("content") or ""
