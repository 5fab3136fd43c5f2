"""The addresses under /v1 at which models answer: chat completions, legacy completions and decisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

from django.http import HttpResponseBase
from django.utils.translation import gettext as _
from rest_framework.request import Request

from deployments import drawing, inference, known_targets
from deployments.admission import Memory, NotAsRemembered
from deployments.inference import Caller, Target
from deployments.openai_api import answering, decisions, parameters, questions, repeats
from deployments.openai_api.base import OpenAIView, event_stream, json_answer
from deployments.openai_api.document import operation
from portal import tokens
from portal.errors import InvalidInput
from portal.models import Team

Body = dict[str, Any]
Answer = TypeVar("Answer", bound=HttpResponseBase)
VERSION_HEADER = "x-model-version"


class ModelView(OpenAIView):
    """A view that asks a model. What it remembers of token and target is confirmed where the tokens are reserved.

    Memory says yes at best: an answer that says no before anything was confirmed is thrown away, and the request is
    looked at once more with everything looked up.
    """

    recalls_tokens = True

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().dispatch(request, *args, **kwargs)
        if self.is_unconfirmed:
            request.recalled, request.must_look_up = None, True
            response = super().dispatch(request, *args, **kwargs)
        return response

    def answer(self, request: Request, body: Body) -> HttpResponseBase:
        """Answer a checked request, once if it has a key."""
        return _once(self, request, body, lambda: self._asked(request, body))

    def _asked(self, request: Request, body: Body) -> HttpResponseBase:
        """Resolve the model and ask it."""
        target, memory = self._target(body["model"])

        def ask(target: Target) -> HttpResponseBase:
            nonlocal memory
            asked = answering.asked_of(target, body)
            # Confirmed once: what changes while a canary fails must not refuse a request that was let in.
            known, memory = memory, None
            admitted = answering.admit(target, asked, _caller(request, self.team), memory=known)
            self.note_standings(admitted.caller.reservation)
            if asked.get("stream"):
                frames = inference.stream(admitted)
                return _named(event_stream(frames.begun() if target.is_canary else frames), target)
            return _named(json_answer(answering.complete(admitted)), target)

        return drawing.answered(target, request.data, ask)

    def _target(self, name: str) -> tuple[Target, Memory | None]:
        token = cast(tokens.Recalled | None, cast(Any, self.request).recalled)
        known = known_targets.recall(self.team, name) if token is not None and self.token.may_call(name) else None
        if token is not None and known is not None:
            return known.target, Memory(token, name, known)
        if token is not None and not tokens.confirm(token):
            raise NotAsRemembered()
        return answering.target_of(self.team, self.token, name), None


class ChatCompletions(ModelView):
    """POST /v1/chat/completions."""

    @operation(
        "createChatCompletion", "ChatCompletion", takes="ChatRequest", chunk="ChatCompletionChunk", tag="answers"
    )
    def post(self, request: Request) -> HttpResponseBase:
        """Answer a conversation, whole or streamed."""
        return self.answer(request, parameters.chat_request(request.data))


class Completions(ModelView):
    """POST /v1/completions, for clients that know no conversations."""

    @operation("createCompletion", "Completion", takes="CompletionRequest", chunk="Completion", tag="answers")
    def post(self, request: Request) -> HttpResponseBase:
        """Continue up to eight prompts, whole or streamed."""
        return self.answer(request, parameters.completion_request(request.data))


class Decisions(OpenAIView):
    """POST /v1/decisions."""

    @operation("createDecision", "Decision", takes="DecisionRequest", tag="answers")
    def post(self, request: Request) -> HttpResponseBase:
        """Answer typed questions about a text with probabilities."""
        body = questions.decision_request(request.data)

        def ask(target: Target) -> HttpResponseBase:
            caller = decisions.admit(target, body, _caller(request, self.team))
            self.note_standings(caller.reservation)
            return _named(json_answer(decisions.decide(target, body, caller)), target)

        def drawn() -> HttpResponseBase:
            return drawing.answered(answering.target_of(self.team, self.token, body["model"]), request.data, ask)

        return _once(self, request, body, drawn)


def _once(view: OpenAIView, request: Request, body: Body, answer: Callable[[], HttpResponseBase]) -> HttpResponseBase:
    """Return the answer; to a request with a key what it got before, if it came before.

    Raises: InvalidInput for a key with a stream; as `repeats.answered_once`.
    """
    if not repeats.has_key(request):
        return answer()
    if body.get("stream"):
        raise InvalidInput(
            _("An Idempotency-Key goes with whole answers only, not with 'stream': true."), param=repeats.HEADER
        )
    asked = cast(Any, request._request)
    recalled = cast(tokens.Recalled | None, getattr(asked, "recalled", None))
    if recalled is not None:
        if not tokens.confirm(recalled):  # what was kept is told to nobody who is only remembered
            raise NotAsRemembered()
        asked.recalled = None
    return repeats.answered_once(request, team=view.team, token=view.token, answer=answer)


def _caller(request: Request, team: Team) -> Caller:
    """Return who asks. With a key the answer is written to its end, though they hang up: they will ask for it again."""
    caller = Caller.of(request, team)
    return replace(caller, descriptor=None) if repeats.has_key(request) else caller


def _named(response: Answer, target: Target) -> Answer:
    """Return a response that says which version answered, by its pinned name."""
    if target.pinned_name:
        response.headers[VERSION_HEADER] = target.pinned_name
    return response
