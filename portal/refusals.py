"""Who was refused leaves a trace: members without the role, strangers, tokens without the scope, tokens that died."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from django.http import HttpRequest, HttpResponse

from portal import audit
from portal.access import policy_of
from portal.actors import Actor
from portal.client_address import client_address
from portal.models import ApiToken, Team, User

Handler = Callable[[HttpRequest], HttpResponse]


def note_refusals(get_response: Handler) -> Handler:
    """Note answers that refuse, once they are given."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        if response.status_code in (401, 403, 404):
            _note(request, response.status_code)
        return response

    return middleware


def _note(request: HttpRequest, status: int) -> None:
    match = request.resolver_match
    if match is None:
        return
    route = f"{request.method} {match.view_name}"[:120]
    token: ApiToken | None = getattr(request, "api_token", None)
    if token is not None:
        if action := {401: "token.refused", 403: "access.denied"}.get(status):
            actor = Actor(user=None, token=token, ip=client_address(request), request_id=_request_id(request))
            audit.denied(actor, action, route=route, team_id=token.team_id)
        return
    person = getattr(request, "user", None)  # an answer from before there was one
    if not isinstance(person, User):  # nobody signed in, or a program without a token
        return
    policy = policy_of(match.func)
    if policy is not None and policy.kind == "team":
        _note_on_team(request, status, route, match.kwargs.get("team", ""))
    elif policy is not None and policy.kind == "platform-admin" and not person.is_platform_admin:
        audit.denied(Actor.of(request), "access.console", route=route)


def _note_on_team(request: HttpRequest, status: int, route: str, slug: str) -> None:
    entered: Team | None = getattr(request, "team", None)
    if entered is not None or status == 403:
        if status == 403:
            audit.denied(Actor.of(request), "access.denied", route=route, team_id=_id_of(slug))
        return  # a member's 404 is a thing that does not exist
    if team_id := _id_of(slug):
        audit.denied(Actor.of(request), "access.stranger", route=route, team_id=team_id)


def _id_of(slug: str) -> UUID | None:
    return Team.objects.filter(slug=slug).values_list("pk", flat=True).first()


def _request_id(request: HttpRequest) -> str:
    return getattr(request, "request_id", "")
