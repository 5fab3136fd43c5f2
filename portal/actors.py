"""Who does something: a person, a program with a token, or the machine itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.utils.translation import gettext as _

from portal.client_address import client_address
from portal.errors import Forbidden

if TYPE_CHECKING:
    from django.http import HttpRequest

    from portal.models import ApiToken, User


@dataclass(frozen=True)
class Actor:
    """The doer of an action, as every service and the audit trail know it."""

    user: User | None
    token: ApiToken | None = None
    ip: str | None = None
    request_id: str = ""
    machine: str = ""
    impersonator: User | None = None

    @classmethod
    def of(cls, request: HttpRequest) -> Actor:
        """Return the actor behind a page or API request."""
        token = getattr(request, "auth", None)
        user = token.person if token is not None else request.user
        return cls(
            user=user if user is not None and user.is_authenticated else None,  # type: ignore[arg-type]
            token=token,
            ip=client_address(request),
            request_id=getattr(request, "request_id", ""),
            impersonator=getattr(request, "impersonator", None) if token is None else None,
        )

    @classmethod
    def system(cls, machine: str) -> Actor:
        """Return the actor for what a machine does on its own, such as 'sweep'."""
        return cls(user=None, machine=machine)

    def require_self(self) -> None:
        """Refuse what would outlast an impersonation, such as a new credential. Raises: Forbidden."""
        if self.impersonator is not None:
            raise Forbidden(
                _("This cannot be done while you see the portal as somebody else. End that first."),
                code="impersonating",
            )

    @property
    def label(self) -> str:
        """Return the words by which the audit trail names this actor."""
        if self.token is not None:
            account = self.token.service_account
            return f"{account} (token {self.token.name})" if account is not None else f"token {self.token.name}"
        if self.impersonator is not None and self.user is not None:
            return f"{self.impersonator.email} as {self.user.email}"
        return self.user.email if self.user is not None else self.machine
