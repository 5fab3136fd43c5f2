"""Identity providers as operators write them down: a JSON list in TUNEPORT_OIDC."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

RoleName = Literal["viewer", "editor", "admin"]
_ORDER: tuple[RoleName, ...] = ("viewer", "editor", "admin")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def _safe_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("must begin with https://")
    return url.rstrip("/")


class Provider(BaseModel):
    """One identity provider, and which of its groups give which role in which team."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    name: str = Field(min_length=1, max_length=60)
    server_url: Annotated[str, AfterValidator(_safe_url)]
    client_id: str = Field(min_length=1)
    client_secret: str = Field(min_length=1, repr=False)
    scopes: list[str] = ["openid", "profile", "email"]
    # Claim with the person's groups; dots lead into nested claims, as in realm_access.roles.
    group_claim: str = "groups"
    # group → {address of the team: role}
    groups: Mapping[str, Mapping[str, RoleName]] = {}
    # Domains whose addresses count as confirmed although the provider does not send email_verified.
    verified_domains: list[str] = []
    # The provider demands a second factor itself, so that the portal need not.
    trust_mfa: bool = False
    # Signing out here also signs out there.
    logout: bool = False

    def roles_of(self, groups: Collection[str]) -> dict[str, RoleName]:
        """Return the highest role that these groups give, by the team's address."""
        roles: dict[str, RoleName] = {}
        for group in groups:
            for team, role in self.groups.get(group, {}).items():
                roles[team] = max(role, roles.get(team, role), key=_ORDER.index)
        return roles

    def groups_in(self, claims: Mapping[str, object]) -> list[str]:
        """Return the groups that the claims name; none if the claim is missing or no text."""
        found: object = claims
        for name in [self.group_claim] if self.group_claim in claims else self.group_claim.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        values = found if isinstance(found, list) else [found]
        return [value for value in values if isinstance(value, str)]

    def allauth_app(self) -> dict[str, object]:
        """Return what django-allauth wants to know."""
        settings = {
            "server_url": self.server_url,
            "scope": self.scopes,
            "oauth_pkce_enabled": True,
            "verified_email": self.verified_domains,
        }
        return {
            "provider_id": self.id,
            "name": self.name,
            "client_id": self.client_id,
            "secret": self.client_secret,
            "settings": settings,
        }


def read_providers(text: str) -> list[Provider]:
    """Return the providers that a JSON list describes; none for an empty text.

    Raises: ValueError with the place and reason of the first mistake; secrets are not repeated.
    """
    if not text.strip():
        return []
    try:
        providers = TypeAdapter(list[Provider]).validate_python(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"TUNEPORT_OIDC is not JSON: {error.msg} at character {error.pos}.") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"TUNEPORT_OIDC, {place or 'list'}: {first['msg']}.") from None
    if len({provider.id for provider in providers}) < len(providers):
        raise ValueError("TUNEPORT_OIDC: every provider needs an id of its own.")
    return providers
