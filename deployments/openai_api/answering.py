"""One request to a model, from its checked body to its answer: the same for a caller who waits and for a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from django.utils.translation import gettext as _

from deployments import drawing, inference
from deployments.admission import Memory
from deployments.inference import Admitted, Caller, Target
from deployments.openai_api import confidence, decisions, parameters, questions
from portal.errors import InvalidInput
from portal.models import ApiToken, Team

Body = dict[str, Any]

CHAT, COMPLETIONS, DECISIONS = "/v1/chat/completions", "/v1/completions", "/v1/decisions"
ENDPOINTS: Final[Mapping[str, Callable[[Any], Body]]] = {
    CHAT: parameters.chat_request,
    COMPLETIONS: parameters.completion_request,
    DECISIONS: questions.decision_request,
}


def target_of(team: Team, token: ApiToken, model: str) -> Target:
    """Return what a model's name stands for, if this token may call it. Raises: as `inference.resolve`."""
    if not token.may_call(model):
        raise inference.model_not_found()
    return inference.resolve(team, model)


def asked_of(target: Target, body: Body) -> Body:
    """Return a request as this target can answer it.

    One that asks for the deployment's own schema becomes one that names none: it is added on the way.
    Raises: InvalidInput if the deployment has no schema, or no closed fields to be sure of.
    """
    if body.get("response_format") == {"type": "json_schema"}:
        if target.response_schema is None:
            raise InvalidInput(
                _("This model has no schema of its own. Send one in 'response_format.json_schema'."),
                param="response_format.json_schema",
                code="missing_required_parameter",
            )
        body = {name: value for name, value in body.items() if name != "response_format"}
    confidence.require_closed_fields(target, body)
    return body


def admit(target: Target, asked: Body, caller: Caller, *, memory: Memory | None = None) -> Admitted:
    """Set aside what a request that fits the target may take, with its confidence if that is wanted.

    Raises: as `admission.admit`.
    """
    besides = partial(confidence.most_read, target, asked) if asked.get("confidence") else None
    return inference.admit(target, asked, caller, memory=memory, besides=besides)


def complete(request: Admitted) -> Body:
    """Return the whole answer to a request, with its confidence if that is wanted. Raises: PortalError."""
    return inference.complete(request, then=confidence.adding(request) if request.body.get("confidence") else None)


def answer_whole(endpoint: str, sent: Any, *, token: ApiToken, caller: Caller) -> Body:
    """Return the whole answer to a request that nobody has looked at yet. Raises: PortalError."""
    body = ENDPOINTS[endpoint](sent)
    if body.get("stream"):
        raise InvalidInput(_("A batch has no streams."), param="stream")

    def ask(target: Target) -> Body:
        if endpoint == DECISIONS:
            return decisions.decide(target, body, decisions.admit(target, body, caller))
        return complete(admit(target, asked_of(target, body), caller))

    return drawing.answered(target_of(caller.team, token, body["model"]), sent, ask)
