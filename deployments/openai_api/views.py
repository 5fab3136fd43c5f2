"""The addresses under /v1: models, chat completions and legacy completions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import inference
from deployments.inference import Caller
from deployments.models import Deployment
from deployments.openai_api import parameters
from deployments.openai_api.base import OpenAIView, event_stream
from portal.models import BaseModel, Team
from portal.rls import team_scope

Body = dict[str, Any]


class ChatCompletions(OpenAIView):
    """POST /v1/chat/completions."""

    def post(self, request: Request) -> HttpResponseBase:
        """Answer a conversation, whole or streamed."""
        return answer(self, request, parameters.chat_request(request.data))


class Completions(OpenAIView):
    """POST /v1/completions, for clients that know no conversations."""

    def post(self, request: Request) -> HttpResponseBase:
        """Continue one prompt, whole or streamed."""
        return answer(self, request, parameters.completion_request(request.data))


class ModelList(OpenAIView):
    """GET /v1/models."""

    counts_at_once = True

    def get(self, request: Request) -> Response:
        """List what the team can call: its running deployments, and the base models."""
        with team_scope(self.team.pk):
            deployments = list(self.team.deployments.filter(is_running=True))
        models = [deployment_entry(deployment, self.team) for deployment in deployments]
        models += [base_model_entry(model) for model in BaseModel.objects.filter(is_allowed=True)]
        return Response({"object": "list", "data": [model for model in models if self.token.may_call(model["id"])]})


class ModelDetail(OpenAIView):
    """GET /v1/models/{id}."""

    counts_at_once = True

    def get(self, request: Request, model_id: str) -> Response:
        """Describe one model."""
        require_allowed(self, model_id)
        if not inference.is_writable(model_id):
            raise inference.model_not_found()
        with team_scope(self.team.pk):
            deployment = self.team.deployments.filter(name=model_id, is_running=True).first()
        if deployment is not None:
            return Response(deployment_entry(deployment, self.team))
        model = BaseModel.objects.filter(slug=model_id, is_allowed=True).first()
        if model is None:
            raise inference.model_not_found()
        return Response(base_model_entry(model))


def answer(view: OpenAIView, request: Request, body: Body) -> HttpResponseBase:
    """Resolve the model and answer a checked request."""
    require_allowed(view, body["model"])
    target = inference.resolve(view.team, body["model"])
    caller = inference.admit(target, body, Caller.of(request, view.team))
    view.note_standings(caller.reservation)
    if body.get("stream"):
        return event_stream(inference.stream(target, body, caller))
    return Response(inference.complete(target, body, caller))


def require_allowed(view: OpenAIView, model: str) -> None:
    """Raise the one error for models that are not there if the token may not call this model."""
    if not view.token.may_call(model):
        raise inference.model_not_found()


def deployment_entry(deployment: Deployment, team: Team) -> Body:
    """Return a deployment as a model."""
    return _entry(deployment.name, deployment.created_at, team.slug)


def base_model_entry(model: BaseModel) -> Body:
    """Return a base model as a model."""
    return _entry(model.slug, model.created_at, "tuneport")


def _entry(name: str, created_at: datetime, owner: str) -> Body:
    return {
        "id": name,
        "object": "model",
        "created": int(created_at.timestamp()),
        "owned_by": owner,
        "shutdown_date": None,
    }
