"""The base of every resource API: one team, found through the token."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, ClassVar, cast

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from portal.access import Policy
from portal.actors import Actor
from portal.models import ApiToken, Team
from portal.rls import team_scope


class TeamAPIView(APIView):
    """A DRF view whose handler runs inside the row scope of the token's team."""

    policy: ClassVar[Policy] = Policy("token")
    scopes: ClassVar[str | Mapping[str, str]] = {}
    opens_scope: ClassVar[bool] = True  # streams open short scopes themselves
    scope_is_open = False
    _stack: ExitStack

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as self._stack:
            return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if self.opens_scope:
            self._stack.enter_context(team_scope(self.team.pk))
            self.scope_is_open = True

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
