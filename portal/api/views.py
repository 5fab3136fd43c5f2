"""The base of every resource API: one team, found through the token."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, ClassVar, cast

from django.conf import settings
from django.utils.translation import gettext as _
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from portal import chunked
from portal.access import Policy
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.models import ApiToken, Team
from portal.rls import team_scope


class TeamAPIView(APIView):
    """A DRF view whose handler runs inside the row scope of the token's team."""

    policy: ClassVar[Policy] = Policy("token")
    scopes: ClassVar[str | Mapping[str, str]] = {}
    opens_scope: ClassVar[bool] = True  # streams open short scopes themselves
    most_bytes: ClassVar[int | None] = None  # of a body; None: what the installation takes as an upload
    query_parameters: ClassVar[frozenset[str]] = frozenset()  # of GET; every other one is refused
    scope_is_open = False
    _stack: ExitStack

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as self._stack:
            return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self._refuse_unknown_parameters(request)
        chunked.take(
            request._request, most_bytes=self.most_bytes or settings.MAX_UPLOAD_BYTES + chunked.MULTIPART_SLACK_BYTES
        )
        if self.opens_scope:
            self._stack.enter_context(team_scope(self.team.pk))
            self.scope_is_open = True

    def _refuse_unknown_parameters(self, request: Request) -> None:
        """A misspelt filter must not quietly mean "everything"."""
        unknown = sorted(set(request.query_params) - (self.query_parameters if request.method == "GET" else set()))
        if not unknown:
            return
        known = ", ".join(sorted(self.query_parameters)) if request.method == "GET" else ""
        # The name is the caller's own text; it is shown short, and never its value: it may be a secret.
        message = _("There is no query parameter '%(name)s' here.") % {"name": unknown[0][:40]}
        hint = _("Known are: %(known)s.") % {"known": known} if known else _("Send none.")
        raise InvalidInput(f"{message} {hint}", param=unknown[0][:40], code="unknown_parameter")

    @property
    def token(self) -> ApiToken:
        """The token that the caller showed."""
        return cast(ApiToken, self.request.auth)

    @property
    def team(self) -> Team:
        """The caller's team."""
        return self.token.team

    @property
    def actor(self) -> Actor:
        """The caller, for services and the audit trail."""
        return Actor.of(self.request)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Render inside the scope: serializers read rows lazily."""
        response = super().finalize_response(request, response, *args, **kwargs)
        return response.render() if isinstance(response, Response) else response
