"""Typed questions about a text, answered with probabilities: nothing is generated, allowed values are scored.

Where a deployment's schema has a closed field of the question's name, its values are scored where the model was taught
to write them, behind the fields before it. Every other question is put into words behind the text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from django.utils.translation import gettext as _

from datasets_app.doctor.schema import closed_fields
from datasets_app.fields import value_of
from deployments import admission, engine_client, inference
from deployments.inference import Caller, Target
from deployments.openai_api import parameters
from portal.errors import InvalidInput

Body = dict[str, Any]
MOST_QUESTIONS: Final = 400
MOST_CHOICES: Final = 255
YES, NO = "yes", "no"
_KNOWN: Final = frozenset(("model", "input", "questions", "user", "metadata", "store", "safety_identifier"))


@dataclass(frozen=True)
class Question:
    """What is asked: a name, words for the model, and the values that it may answer with, as labels."""

    kind: str
    name: str
    instructions: str
    labels: tuple[str, ...]
    values: tuple[Any, ...]
    descriptions: tuple[str, ...]

    @property
    def words(self) -> str:
        """The question as it is put behind the text."""
        lines = [self.instructions or _("What is “%(name)s”?") % {"name": self.name}]
        for label, description in zip(self.labels, self.descriptions, strict=True):
            lines.append(f"- {label}: {description}" if description else f"- {label}")
        return "\n".join(["", *lines, _("Answer with one of these and nothing else.")])


def decision_request(body: Any) -> Body:
    """Return a checked request: `model`, `messages` and `questions`. Raises: InvalidInput naming the parameter."""
    body = parameters.require_object(body)
    for name in body:
        if name not in _KNOWN:
            raise parameters.unsupported(name)
    model = parameters.required_text(body, "model", limit=200)
    given = body.get("input")
    if given is None:
        raise parameters.MissingParameter(_("Say what to decide on in 'input'."), param="input")
    messages = (
        [{"role": "user", "content": parameters.required_text(body, "input", limit=parameters.MAX_TEXT)}]
        if isinstance(given, str)
        else parameters.messages_of("input", given)
    )
    questions = body.get("questions")
    if not isinstance(questions, list) or not 1 <= len(questions) <= MOST_QUESTIONS:
        raise InvalidInput(_("'questions' has to be a list of 1 to 400 questions."), param="questions")
    read = [_question(f"questions[{place}]", one) for place, one in enumerate(questions)]
    names = [question.name for question in read]
    if len(set(names)) < len(names):
        raise InvalidInput(_("Two questions have the same name."), param="questions")
    return {"model": model, "messages": messages, "questions": read}


def _question(path: str, given: Any) -> Question:
    if not isinstance(given, dict):
        raise InvalidInput(_("A question has to be an object."), param=path)
    kind = given.get("type")
    options = {"choice": "choices", "score": "levels", "predicate": None}
    if not isinstance(kind, str) or kind not in options:
        raise InvalidInput(_("The type of a question is choice, predicate or score."), param=f"{path}.type")
    for name in given:
        if name not in ("type", "name", "instructions", options[kind]):
            raise parameters.unsupported(f"{path}.{name}")
    name = given.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 200:
        raise InvalidInput(_("A question has a name of 1 to 200 characters."), param=f"{path}.name")
    instructions = given.get("instructions") or ""
    if not isinstance(instructions, str) or len(instructions) > 20_000:
        raise InvalidInput(_("Instructions are a text of up to 20,000 characters."), param=f"{path}.instructions")
    if kind == "predicate":
        return Question(kind, name, instructions, (YES, NO), (True, False), ("", ""))
    field = "choices" if kind == "choice" else "levels"
    key = "value" if kind == "choice" else "label"
    return _with_options(Question(kind, name, instructions, (), (), ()), f"{path}.{field}", given.get(field), key)


def _with_options(question: Question, path: str, given: Any, key: str) -> Question:
    if not isinstance(given, list) or not 2 <= len(given) <= MOST_CHOICES:
        raise InvalidInput(_("There have to be 2 to 255 to choose from."), param=path)
    labels, values, descriptions = [], [], []
    for place, one in enumerate(given):
        value = one.get(key) if isinstance(one, dict) else None
        is_fine = isinstance(value, str) or (isinstance(value, bool) and key == "value")
        if not is_fine or value == "" or set(one) - {key, "description"}:
            raise InvalidInput(
                _("Each entry has '%(key)s' and may have 'description'.") % {"key": key}, param=f"{path}[{place}]"
            )
        label = json.dumps(value) if isinstance(value, bool) else parameters.text(f"{path}[{place}]", value)
        labels.append(label)
        values.append(value)
        descriptions.append(parameters.text(f"{path}[{place}].description", one.get("description") or ""))
    if len(set(labels)) < len(labels):
        raise InvalidInput(_("The same is offered twice."), param=path)
    return replace(question, labels=tuple(labels), values=tuple(values), descriptions=tuple(descriptions))


# --- asking ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """One request to score values: where they stand, and what they are."""

    messages: Sequence[Mapping[str, str]]
    beginning: str
    values: Sequence[str]
    ending: str = ""


def admit(target: Target, body: Body, caller: Caller) -> Caller:
    """Set aside what the questions may take. Raises: RateLimited, QuotaExceeded."""
    text = {"messages": body["messages"], "max_tokens": 1, "n": len(body["questions"])}
    return admission.admit(caller, inference.with_system_prompt(target, text))


def decide(target: Target, body: Body, caller: Caller) -> Body:
    """Return the answers with their probabilities, and count the request. Raises: PortalError."""
    asked = inference.with_system_prompt(target, body)
    with inference.counted(target, caller) as count:
        scorer = _Scorer(target, asked["messages"], caller)
        answers = [_answer(target, question, scorer) for question in body["questions"]]
        count.note_usage({"usage": {"prompt_tokens": scorer.tokens, "completion_tokens": 0}})
    return {
        "model": target.public_name,
        "answers": answers,
        "usage": {
            "input_tokens": scorer.tokens,
            "input_tokens_details": {"cached_tokens": scorer.cached_tokens},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": scorer.tokens,
        },
    }


class _Scorer:
    """Asks the engine how likely values are, and adds up what that took."""

    def __init__(self, target: Target, messages: Sequence[Mapping[str, str]], caller: Caller) -> None:
        self._target = target
        self._messages = messages
        self._caller = caller
        self._decided: dict[str, dict[str, float]] = {}
        self.tokens = self.cached_tokens = 0
        schema: Mapping[str, Any] = getattr(target, "response_schema", None) or {}
        self._names = list(schema.get("properties", {}))
        required = set(schema.get("required", ()))
        self._closed = {name: labels for name, labels in closed_fields(schema).items() if name in required}

    def of_field(self, name: str) -> dict[str, float] | None:
        """Return the probability of each label of a closed field of the schema; None if it is none.

        The fields before it are answered first, the likeliest way, as the model would write them.
        """
        before = self._names[: self._names.index(name) + 1] if name in self._names else []
        if not before or any(one not in self._closed for one in before):
            return None
        text = "{"
        for place, one in enumerate(before):
            key = json.dumps(one, ensure_ascii=False) + ": "
            is_last = place + 1 == len(self._names)
            if one not in self._decided:
                labels = self._closed[one]
                spelled = [json.dumps(value_of(label), ensure_ascii=False) for label in labels]
                # The quote of the next key is part of a value's last token in many vocabularies.
                asked = _Asked(self._messages, text + key, spelled, "}" if is_last else ', "')
                self._decided[one] = dict(zip(labels, self._probabilities(asked), strict=True))
            best = max(self._decided[one], key=self._decided[one].__getitem__)
            text += key + json.dumps(value_of(best), ensure_ascii=False) + ", "
        return self._decided[name]

    def of_words(self, question: Question) -> dict[str, float]:
        """Return the probability of each label of a question that is put into words behind the text."""
        *earlier, last = self._messages
        if last["role"] == "user":
            messages = [*earlier, {**last, "content": last["content"] + "\n" + question.words}]
        else:
            messages = [*self._messages, {"role": "user", "content": question.words.strip()}]
        return dict(zip(question.labels, self._probabilities(_Asked(messages, "", question.labels)), strict=True))

    def _probabilities(self, asked: _Asked) -> list[float]:
        scored = engine_client.score_values(
            self._target.engine,
            {
                "model": self._target.engine_model,
                "messages": list(asked.messages),
                "beginning": asked.beginning,
                "values": list(asked.values),
                "ending": asked.ending,
                "cache_salt": inference.cache_salt(self._caller),
            },
            caller=self._caller.descriptor,
        )
        self.tokens += scored.tokens
        self.cached_tokens += scored.cached_tokens
        return normalised([math.exp(one) for one in scored.logprobs])


def _answer(target: Target, question: Question, scorer: _Scorer) -> Body:
    found = scorer.of_field(question.name) if question.kind == "choice" else None
    if found is None or not set(question.labels) <= set(found):
        found = scorer.of_words(question)
    shares = normalised([found[label] for label in question.labels])
    if question.kind == "predicate":
        return {"type": "predicate", "name": question.name, "probability": shares[0]}
    best = max(range(len(shares)), key=shares.__getitem__)
    least = getattr(target, "thresholds", {}).get(question.name)
    if least is not None and shares[best] < least:
        return {"type": "refusal", "name": question.name}
    if question.kind == "choice":
        spread = [{"value": value, "probability": p} for value, p in zip(question.values, shares, strict=True)]
        chosen = {"choice": question.values[best], "confidence": shares[best], "probabilities": spread}
        return {"type": "choice", "name": question.name, **chosen}
    levels = [
        {"label": label, "value": place, "probability": p}
        for place, (label, p) in enumerate(zip(question.labels, shares, strict=True))
    ]
    # Levels stand in order, so the score is where on them the mass lies: 1.7 is between the second and the third.
    score = sum(place * p for place, p in enumerate(shares))
    return {
        "type": "score",
        "name": question.name,
        "score": score,
        "confidence": shares[best],
        "probabilities": levels,
    }


def normalised(shares: Sequence[float]) -> list[float]:
    """Return shares that sum to 1; equal ones if there is nothing to tell them apart by."""
    whole = math.fsum(shares)
    if not whole > 0 or not math.isfinite(whole):
        return [1 / len(shares)] * len(shares)
    return [share / whole for share in shares]
