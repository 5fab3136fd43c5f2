"""Holds answers under /v1 against the OpenAPI document, whoever asked for them."""

from __future__ import annotations

import functools
import json
from typing import Any

import jsonschema_rs

from deployments.openai_api.answer_shapes import ANSWERS, ref

OBJECTS = {
    "model": "Model",
    "file": "File",
    "batch": "Batch",
    "chat.completion": "ChatCompletion",
    "chat.completion.chunk": "ChatCompletionChunk",
    "text_completion": "Completion",
    "webhook_endpoint": "WebhookEndpoint",
    "webhook_endpoint.test": "WebhookEndpointTest",
    "fine_tuning.job": "FineTuningJob",
    "fine_tuning.job.event": "FineTuningEvent",
    "fine_tuning.job.checkpoint": "FineTuningCheckpoint",
}


@functools.cache
def _validator(component: str) -> Any:
    return jsonschema_rs.validator_for({**ref(component), "components": {"schemas": ANSWERS}})


def component_of(answer: dict[str, Any]) -> str:
    """Return the name of the component that an answer has to fit."""
    if "error" in answer and "object" not in answer:
        return "Error"
    if "answers" in answer:
        return "Decision"
    if "grader" in answer:
        return "GraderValidation"
    if "reward" in answer:
        return "GraderResult"
    if answer.get("deleted"):
        return "Deleted"
    if answer["object"] == "list":
        first = next(iter(answer["data"]), {"object": ""})
        if isinstance(first, str):
            return "WebhookEventTypeList"
        return f"{OBJECTS[first['object']]}List" if first["object"] else ""
    if "signing_secret" in answer:
        return "WebhookEndpointWithSecret"
    return OBJECTS[answer["object"]]


def hold_to_document(content_type: str, content: bytes) -> None:
    """Raise if an answer, or a frame of a streamed one, is not as the document says."""
    answers = []
    if content_type.startswith("application/json"):
        answers = [json.loads(content)]
    elif content_type.startswith("text/event-stream"):
        frames = [line[6:] for line in content.split(b"\n") if line.startswith(b"data: ")]
        answers = [json.loads(frame) for frame in frames if frame != b"[DONE]"]
    for answer in answers:
        if component := component_of(answer):
            _validator(component).validate(answer)
