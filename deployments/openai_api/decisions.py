"""Typed questions about a text, answered with probabilities: allowed values are scored.

Where a deployment's schema has a closed field of the question's name, its values are scored where the model was taught
to write them, behind the fields before it; what is offered to a classification are its labels. Both at the temperature
of the run's report. Every other question is put into words behind the text.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets_app.fields import label_of
from deployments import admission, inference, reading_bounds
from deployments.deciding import Decider
from deployments.inference import Caller, Target
from deployments.openai_api.questions import Question
from experiments.scoring.choosing import LABEL, ClosedFields

Body = dict[str, Any]


def admit(target: Target, body: Body, caller: Caller) -> Caller:
    """Set aside what the questions may take. Raises: RateLimited, QuotaExceeded."""
    prompt = admission.likely_prompt_tokens(inference.with_system_prompt(target, {"messages": body["messages"]}))
    most = _most_tokens(target, body["questions"], prompt)
    return admission.admit(caller, prompt=prompt, most=most)


def _most_tokens(target: Target, questions: Sequence[Question], prompt: int) -> int:
    """Return how many tokens may be read and written to answer questions."""
    fields, engine = ClosedFields(target.decision_schema or {}), target.engine
    of_field = _fields_asked(fields, questions)
    others = [one for one in questions if one.name not in of_field]
    in_words = [one for one in others if _offered(one, target.labels) is None]
    needs_answer = any(map(fields.needs_answer, of_field))
    written = admission.most_written({"max_tokens": target.max_tokens}) if needs_answer else 0
    most = prompt + written if needs_answer else 0
    most += reading_bounds.of_fields(engine, fields, of_field, prompt=prompt, written=written)
    if len(in_words) < len(others):  # their labels are scored once
        most += reading_bounds.of_values(engine, target.labels, before=prompt)
    for one in in_words:
        before = prompt + admission.likely_tokens(one.words)
        most += reading_bounds.of_values(engine, one.labels, before=before)
    return most


def decide(target: Target, body: Body, caller: Caller) -> Body:
    """Return the answers with their probabilities, and count the request. Raises: PortalError."""
    asked = inference.with_system_prompt(target, body)
    with inference.counted(target, caller) as count:
        decider = Decider(target, asked["messages"], caller)
        took = decider.usage
        try:
            decider.expect(_fields_asked(decider.fields, body["questions"]))
            answers = [_answer(target, question, decider) for question in body["questions"]]
        finally:
            count.note_usage({"usage": {"prompt_tokens": took.read, "completion_tokens": took.written}})
    return {
        "model": target.public_name,
        "answers": answers,
        "usage": {
            "input_tokens": took.read,
            # What was read is counted as read, once: nothing more is counted for keeping it.
            "input_tokens_details": {"cached_tokens": took.cached, "cache_write_tokens": 0},
            "output_tokens": took.written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": took.read + took.written,
        },
    }


@dataclass(frozen=True)
class _Decided:
    """The probability of each value that a question offers, which sum to 1, and under which name thresholds stand."""

    shares: list[float]
    is_calibrated: bool
    name: str


def _decided(target: Target, question: Question, decider: Decider) -> _Decided:
    """Decide a question as the model was taught to answer, if it was; else put it in words."""
    of_field = _offered(question, decider.fields.labels.get(question.name, ()))
    of_label = _offered(question, target.labels)
    if of_field is not None:
        sure, offered, name = decider.of_field(question.name), of_field, question.name
    elif of_label is not None:
        sure, offered, name = decider.of_labels(), of_label, LABEL
    else:
        sure, offered, name = decider.of_words(question.words, question.labels), list(question.labels), question.name
    assert sure is not None
    return _Decided(normalised([sure.shares[label] for label in offered]), sure.is_calibrated, name)


def _fields_asked(fields: ClosedFields, questions: Iterable[Question]) -> list[str]:
    """Return the fields from which questions are answered."""
    return [one.name for one in questions if _offered(one, fields.labels.get(one.name, ())) is not None]


def _offered(question: Question, known: Collection[str]) -> list[str] | None:
    """Return the label of each value that a question offers, None if one of them is not known."""
    found = []
    for value, label in zip(question.values, question.labels, strict=True):
        named = next((one for one in (label_of(value), label) if one in known), None)
        if named is None:
            return None
        found.append(named)
    return found if len(set(found)) == len(found) else None


def _answer(target: Target, question: Question, decider: Decider) -> Body:
    decided = _decided(target, question, decider)
    shares = decided.shares
    best = max(range(len(shares)), key=shares.__getitem__)
    least = target.thresholds.get(question.name, target.thresholds.get(decided.name))
    if least is not None and shares[best] < least:
        return {"type": "refusal", "name": question.name or None}
    answer: Body = {"type": question.kind, "name": question.name or None}
    calibrated = {"calibrated": decided.is_calibrated}
    if question.kind == "predicate":
        return {**answer, "probability": shares[0], **calibrated}
    if question.kind == "choice":
        spread = [{"value": value, "probability": p} for value, p in zip(question.values, shares, strict=True)]
        chosen = {"choice": question.values[best], "confidence": shares[best], "probabilities": spread}
        return {**answer, **chosen, **calibrated}
    levels = [
        {"label": label, "value": place, "probability": p}
        for place, (label, p) in enumerate(zip(question.labels, shares, strict=True))
    ]
    # Levels stand in order, so the score is where on them the mass lies: 1.7 is between the second and the third.
    score = sum(place * p for place, p in enumerate(shares))
    return {**answer, "score": score, "confidence": shares[best], "probabilities": levels, **calibrated}


def normalised(shares: Sequence[float]) -> list[float]:
    """Return shares that sum to 1; equal ones if there is nothing to tell them apart by."""
    whole = math.fsum(shares)
    if not whole > 0 or not math.isfinite(whole):
        return [1 / len(shares)] * len(shares)
    return [share / whole for share in shares]
