"""API tokens: made, shown once, checked, revoked.

A token reads `tnp_<key id>_<secret>`. The key id finds the row, the keyed hash (HMAC-SHA-256 with a pepper from the
environment) proves the secret; with 256 bits of randomness a slow password hash would only slow us down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal import audit
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.models import ApiToken, Scope, Team, User
from portal.rls import all_teams

_SHAPE = re.compile(r"tnp_([0-9a-f]{16})_([A-Za-z0-9_-]{43})\Z")
_LAST_USED_GRAIN = timedelta(minutes=1)


@transaction.atomic
def create_token(
    *, team: Team, actor: Actor, owner: User, name: str, scopes: Sequence[str], expires_at: datetime | None = None
) -> tuple[ApiToken, str]:
    """Create a token and return it with its text, which is never shown again.

    Raises: InvalidInput for an empty name, no or an unknown scope, or an expiry in the past.
    """
    name = name.strip()
    if not name or len(name) > 80:
        raise InvalidInput(_("Give the token a name of 1 to 80 characters."), param="name")
    unknown = sorted(set(scopes) - set(Scope.values))
    if unknown or not scopes:
        known = ", ".join(Scope.values)
        raise InvalidInput(_("Choose at least one of these scopes: %(known)s.") % {"known": known}, param="scopes")
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidInput(_("The expiry lies in the past."), param="expires_at")
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    token = team.apitokens.create(
        name=name,
        key_id=key_id,
        digest=_digest(secret),
        scopes=sorted(set(scopes)),
        created_by=owner,
        expires_at=expires_at,
    )
    audit.record(team, actor, "token.created", token, scopes=" ".join(token.scopes))
    return token, f"tnp_{key_id}_{secret}"


@transaction.atomic
def revoke_token(*, token: ApiToken, actor: Actor) -> None:
    """Make a token useless at once; a second call changes nothing."""
    revoked = ApiToken.unscoped.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
    if revoked:
        audit.record(token.team, actor, "token.revoked", token)


def find_token(text: str) -> ApiToken | None:
    """Return the token of this text, usable or not, or None if there is no such token or its secret is wrong."""
    shape = _SHAPE.match(text)
    if shape is None:
        return None
    key_id, secret = shape.groups()
    with all_teams("a token names its team only after it was found"):
        token = ApiToken.unscoped.select_related("team", "created_by").filter(key_id=key_id).first()
    # Unknown ids cost the same hash as known ones.
    matches = hmac.compare_digest(_digest(secret), token.digest if token else "0" * 64)
    return token if token is not None and matches else None


def note_use(token: ApiToken) -> None:
    """Remember that a token was used, at most once a minute."""
    now = timezone.now()
    if token.last_used_at is None or now - token.last_used_at > _LAST_USED_GRAIN:
        with all_teams("last use of a token, written before its team's scope opens"):
            ApiToken.unscoped.filter(pk=token.pk).update(last_used_at=now)


def _digest(secret: str) -> str:
    return hmac.new(settings.TOKEN_PEPPER.encode(), secret.encode(), hashlib.sha256).hexdigest()
