"""How sure a model is of each closed field of an answer that it gave: `confidence` of a chat completion.

The values stand in the answer already; scored is how likely each was among all that the field may have, as in
decisions. A field below the deployment's threshold is marked, its value stays: answers keep to their schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from django.utils.translation import gettext as _

from datasets_app.fields import json_object, label_of
from deployments import admission, deciding, reading_bounds
from deployments.deciding import Decider, Sureness, Usage
from deployments.inference import Admitted, Target
from experiments.scoring.choosing import LABEL, ClosedFields
from portal.errors import InvalidInput

Body = dict[str, Any]
MOST_VALUES: Final = 1_000
"""Of a field of the request's own schema; engines score so many at once. One with more is taken for an open one."""


def require_closed_fields(target: Target, body: Body) -> None:
    """Refuse a wish for confidence where nothing in the answer is chosen from a few values. Raises: InvalidInput."""
    if body.get("confidence") and not _labels(target, body) and not ClosedFields(_schema(target, body)).labels:
        raise InvalidInput(
            _("This model has no closed fields to be sure of. Deploy it from a dataset with some, or send a schema."),
            param="confidence",
        )


def most_read(target: Target, body: Body, asked: Body, prompt: int) -> int:
    """Return how many tokens may be read to be sure of the answers; `asked`, `prompt`: as the engine gets it."""
    if labels := _labels(target, body):
        of_one = reading_bounds.of_values(target.engine, labels, before=prompt)
    else:
        fields, written = ClosedFields(_schema(target, body)), admission.most_written(asked)
        of_one = reading_bounds.of_fields(target.engine, fields, fields.labels, prompt=prompt, written=written)
    return of_one * int(asked.get("n") or 1)


def adding(request: Admitted) -> Callable[[Body], Body]:
    """Return what adds to a whole answer how sure the model is of it, and what that took to its usage."""
    target, body, caller, messages = request.target, request.body, request.caller, request.asked["messages"]

    def add(answer: Body) -> Body:
        usage = Usage()
        choices = []
        for choice in answer.get("choices", ()):
            text = deciding.text_of(choice)
            decider = Decider(target, messages, caller, schema=_brought(body), answer=text, usage=usage)
            choices.append({**choice, "confidence": list(_entries(target, body, text, decider))})
        return {**answer, "choices": choices, "usage": _with(answer.get("usage") or {}, usage)}

    return add


def _entries(target: Target, body: Body, text: str, decider: Decider) -> Iterator[Body]:
    if labels := _labels(target, body):
        said = text.strip()
        if said in labels and (sure := decider.of_labels()) is not None:
            yield _entry(target, LABEL, said, said, sure)
        return
    members = json_object(text) or {}
    for name in decider.fields.labels:
        label = label_of(members[name]) if name in members else None
        sure = decider.of_field(name) if label in decider.fields.labels[name] else None
        if sure is not None and label is not None:
            yield _entry(target, name, members[name], label, sure)


def _entry(target: Target, name: str, value: object, label: str, sure: Sureness) -> Body:
    confidence, least = sure.shares[label], target.thresholds.get(name)
    abstained = least is not None and confidence < least
    return {
        "name": name,
        "value": value,
        "confidence": confidence,
        "calibrated": sure.is_calibrated,
        "abstained": abstained,
    }


def _labels(target: Target, body: Body) -> frozenset[str]:
    """Return the labels that the answer is one of; none if the request brings a form of its own."""
    return frozenset() if body.get("response_format") else frozenset(target.labels)


def _brought(body: Body) -> Mapping[str, Any] | None:
    """Return the schema that a request brings, as far as fields are read from it; None if it names no form."""
    wanted = body.get("response_format")
    if not wanted:
        return None
    schema = (wanted.get("json_schema") or {}).get("schema") or {}
    properties, required = schema.get("properties"), schema.get("required")
    members = properties.items() if isinstance(properties, dict) else ()
    return {
        "properties": {name: one if _is_plain(one) else {} for name, one in members},
        "required": [name for name in required if isinstance(name, str)] if isinstance(required, list) else [],
    }


def _is_plain(field: Any) -> bool:
    values = field.get("enum", []) if isinstance(field, dict) else None
    return isinstance(values, list) and len(values) <= MOST_VALUES


def _schema(target: Target, body: Body) -> Mapping[str, Any]:
    brought = _brought(body)
    return (target.decision_schema or {}) if brought is None else brought


def _with(usage: Mapping[str, Any], more: Usage) -> Body:
    """Return a completion's usage with what was read to be sure of it."""
    prompt = int(usage.get("prompt_tokens") or 0) + more.read
    details = usage.get("prompt_tokens_details") or {}
    cached = int(details.get("cached_tokens") or 0) + more.cached
    total = prompt + int(usage.get("completion_tokens") or 0)
    read = {
        "prompt_tokens": prompt,
        "total_tokens": total,
        "prompt_tokens_details": {**details, "cached_tokens": cached},
    }
    return {**usage, **read}
