"""The addresses under /v1 at which models answer: chat completions, legacy completions and decisions."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import inference
from deployments.inference import Caller
from deployments.openai_api import answering, decisions, parameters
from deployments.openai_api.base import OpenAIView, event_stream
from deployments.openai_api.document import operation

Body = dict[str, Any]


class ChatCompletions(OpenAIView):
    """POST /v1/chat/completions."""

    @operation(
        "createChatCompletion", "ChatCompletion", takes="ChatRequest", chunk="ChatCompletionChunk", tag="answers"
    )
    def post(self, request: Request) -> HttpResponseBase:
        """Answer a conversation, whole or streamed."""
        return answer(self, request, parameters.chat_request(request.data))


class Completions(OpenAIView):
    """POST /v1/completions, for clients that know no conversations."""

    @operation("createCompletion", "Completion", takes="CompletionRequest", chunk="Completion", tag="answers")
    def post(self, request: Request) -> HttpResponseBase:
        """Continue one prompt, whole or streamed."""
        return answer(self, request, parameters.completion_request(request.data))


class Decisions(OpenAIView):
    """POST /v1/decisions."""

    @operation("createDecision", "Decision", takes="DecisionRequest", tag="answers")
    def post(self, request: Request) -> Response:
        """Answer typed questions about a text with probabilities."""
        body = decisions.decision_request(request.data)
        target = answering.target_of(self.team, self.token, body["model"])
        caller = decisions.admit(target, body, Caller.of(request, self.team))
        self.note_standings(caller.reservation)
        return Response(decisions.decide(target, body, caller))


def answer(view: OpenAIView, request: Request, body: Body) -> HttpResponseBase:
    """Resolve the model and answer a checked request."""
    target = answering.target_of(view.team, view.token, body["model"])
    body = answering.with_stored_schema(target, body)
    caller = inference.admit(target, body, Caller.of(request, view.team))
    view.note_standings(caller.reservation)
    if body.get("stream"):
        return event_stream(inference.stream(target, body, caller))
    return Response(inference.complete(target, body, caller))
