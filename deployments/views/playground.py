"""The playground: talk to a deployment, a finished run or a base model, with or without JavaScript."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from deployments import inference, playground
from deployments.forms import AskForm
from deployments.inference import Caller
from deployments.models import Placement
from deployments.openai_api import parameters
from deployments.openai_api.base import event_stream
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.errors import InvalidInput, NotFound, PortalError, error_body
from portal.models import Team
from portal.rls import team_scope

View = Callable[..., HttpResponseBase]


def errors_as_json(view: View) -> View:
    """Answer errors as the error object that the chat's script reads."""

    @wraps(view)
    def answered(request: TeamRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except PortalError as error:
            body = error_body(error.message, kind=error.kind, code=error.code, param=error.param)
            return JsonResponse(body, status=error.status, headers=error.headers)

    return answered


@team_view(streams=True)
@require_http_methods(["GET", "HEAD", "POST"])
def page(request: TeamRequest) -> HttpResponse:
    """Show the chat; a POST is one question from a browser without JavaScript and shows the whole answer."""
    form = AskForm(request.POST) if request.method == "POST" else None
    turn = answer_form(request, form) if form is not None else {}
    with team_scope(request.team.pk):
        context = page_context(request, form.data.get("model", "") if form is not None else wanted_choice(request))
        if request.GET.get("sample"):
            turn = sampled(request, context["chosen"])
        return render(request, "deployments/playground.html", {**context, **turn})


def wanted_choice(request: TeamRequest) -> str:
    """Return the choice that the address names, '' for none."""
    if run := request.GET.get("run"):
        return f"{playground.RUN}:{run}"
    if deployment := request.GET.get("deployment"):
        return f"{playground.DEPLOYMENT}:{deployment}"
    return request.GET.get("model", "")


def page_context(request: TeamRequest, wanted: str) -> dict[str, Any]:
    """Return what the page shows for a choice; an older run that is not offered otherwise is offered here."""
    offered = playground.choices(request.team)
    values = [value for value, _label in offered]
    if wanted.startswith(f"{playground.RUN}:") and wanted not in values:
        try:
            offered.append((wanted, str(playground.run_of(request.team, wanted))))
        except NotFound:
            wanted = ""
    elif wanted not in values:
        wanted = ""
    chosen = wanted or (values[0] if values else "")
    system = playground.system_prompt(request.team, chosen) if chosen else ""
    has_models = any(not value.startswith(playground.BASE) for value, _label in offered)
    return {"models": offered, "chosen": chosen, "system": system, "has_models": has_models}


def answer_form(request: TeamRequest, form: AskForm) -> dict[str, Any]:
    """Return the conversation of one question: what was asked, and the answer or why there is none."""
    turn: dict[str, Any] = {"given": form.data, "asked": form.data.get("prompt", "")}
    turn["expected"] = form.data.get("expected", "")
    if not form.is_valid():
        return {**turn, "refused": _("Choose a model and write a message; numbers have to be in their range.")}
    try:
        body = parameters.chat_request(form.body())
        target = playground.resolve(request.team, body["model"])
        answer = inference.complete(inference.admit(target, body, Caller.of(request, request.team)))
    except PortalError as error:
        return {**turn, "refused": error.message}
    return {**turn, "answer": answer["choices"][0]["message"]["content"]}


def sampled(request: TeamRequest, chosen: str) -> dict[str, Any]:
    """Return a validation row by chance for the message box, or why there is none."""
    try:
        row = playground.sample(request.team, chosen, Actor.of(request))
    except NotFound as error:
        return {"refused": error.message}
    return {"prompt": row.prompt, "expected": row.expected}


@team_view(streams=True)
@require_POST
@errors_as_json
def chat(request: TeamRequest) -> HttpResponseBase:
    """Stream an answer to the chat's script as server-sent events."""
    body = parameters.chat_request(_json(request))
    target = playground.resolve(request.team, body["model"])
    admitted = inference.admit(target, body, Caller.of(request, request.team))
    if body.get("stream"):
        return event_stream(inference.stream(admitted))
    return JsonResponse(inference.complete(admitted))


@team_view()
@require_POST
def warm(request: TeamRequest) -> HttpResponse:
    """Have the chosen model loaded and say how far it is; who asks again hears nothing (204) until that changes."""
    value, asks_again = request.POST.get("model", ""), bool(request.POST.get("again"))
    context = _readiness(request.team, value)
    if context["is_loading"] and asks_again:
        return HttpResponse(status=204)
    if not asks_again and not context["error"]:
        context["system"] = playground.system_prompt(request.team, value)
    return render(request, "deployments/_readiness.html", context)


def _readiness(team: Team, value: str) -> dict[str, Any]:
    try:
        placement = playground.warm(team, value)
    except PortalError as error:
        return {"chosen": value, "is_loading": False, "error": error.message, "system": None}
    failed = placement is not None and placement.status == Placement.Status.FAILED
    loading = placement is not None and placement.status == Placement.Status.PENDING
    error_text = placement.error if placement is not None and failed else ""
    return {"chosen": value, "is_loading": loading, "error": error_text, "system": None}


@team_view()
@require_GET
@errors_as_json
def sample(request: TeamRequest) -> HttpResponseBase:
    """Give the chat's script a validation row by chance: what to ask and which answer is expected."""
    row = playground.sample(request.team, request.GET.get("model", ""), Actor.of(request))
    return JsonResponse(
        {"prompt": row.prompt, "expected": row.expected, "system": row.system, "messages": list(row.messages)}
    )


def _json(request: TeamRequest) -> Any:
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError):
        raise InvalidInput(_("The body of the request is not valid JSON."), code="invalid_json") from None
