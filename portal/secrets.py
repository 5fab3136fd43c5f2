"""Secrets of teams, encrypted at rest.

Each team has a key of its own, derived (HKDF-SHA-256) from the installation's key and the team's id. AES-256-GCM seals
the text together with the team's id, the kind and the name, so a row that is copied to another team, or renamed, does
not open. Texts come in from people and go out to machine code only; no page, log or API ever shows one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_slug
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal import audit
from portal.actors import Actor
from portal.errors import InvalidInput, NotFound, PortalError
from portal.models import Team, TeamSecret

_NONCE_BYTES = 12
_LONGEST = 8192


class Sealed(PortalError):
    """A secret cannot be opened: its key is gone, or the row is not what it was."""

    code = "secret_cannot_be_opened"
    status = 500
    kind = "server_error"


@transaction.atomic
def store(*, team: Team, kind: str, name: str, text: str, actor: Actor) -> TeamSecret:
    """Keep a secret under a name of the team, in place of the one that was there.

    Raises: InvalidInput for an unknown kind, a name that is no slug or that of a webhook's own secret, or a text that
    is empty or too long.
    """
    actor.require_self()
    _check(kind, name, text)
    Team.objects.select_for_update(no_key=True).get(
        pk=team.pk
    )  # two who store the same name at once come one after the other
    before: TeamSecret | None = team.teamsecrets.filter(name=name).first()
    if before is not None and before.kind != kind and before.kind == TeamSecret.Kind.WEBHOOK:
        raise InvalidInput(
            _("This name is taken by the signing secret of a webhook. Choose another one."), param="name"
        )
    secret = before or TeamSecret(team=team, name=name, created_by=actor.user)
    secret.kind, secret.updated_at, secret.last_used_at = kind, timezone.now(), None
    secret.key_id, secret.ciphertext = _seal(secret, text)
    secret.save()
    audit.record(team, actor, "secret.replaced" if before else "secret.stored", secret, kind=kind)
    return secret


def reveal(*, team: Team, name: str) -> str:
    """Return a secret in the clear, for machine code that is about to use it. Call it in the team's row scope.

    Raises: NotFound if the team has none of this name, Sealed if it cannot be opened.
    """
    secret: TeamSecret | None = team.teamsecrets.filter(name=name).first()
    if secret is None:
        raise NotFound(_("The team has no secret named '%(name)s'.") % {"name": name[:60]})
    text = _open(secret)
    TeamSecret.unscoped.filter(pk=secret.pk).update(last_used_at=timezone.now())
    return text


@transaction.atomic
def delete(*, secret: TeamSecret, actor: Actor) -> None:
    """Forget a secret for good."""
    audit.record(secret.team, actor, "secret.deleted", secret, kind=secret.kind)
    secret.delete()


def seal_again(secret: TeamSecret) -> bool:
    """Encrypt a secret under the newest key; return whether it was under an older one. Raises: Sealed."""
    if secret.key_id == key_id_of(settings.SECRETS_KEY):
        return False
    secret.key_id, secret.ciphertext = _seal(secret, _open(secret))
    secret.save(update_fields=["key_id", "ciphertext"])
    return True


def key_id_of(key: str) -> str:
    """Return the name of an installation's key, which tells nothing about it."""
    return hashlib.sha256(b"tuneport secrets key id\0" + key.encode()).hexdigest()[:16]


def _check(kind: str, name: str, text: str) -> None:
    if kind not in TeamSecret.Kind.values:
        raise InvalidInput(_("Choose one of the kinds."), param="kind")
    try:
        validate_slug(name)
    except ValidationError:
        name = ""
    if not 0 < len(name) <= 60:
        raise InvalidInput(_("Give it a name of 1 to 60 letters, digits, hyphens and underscores."), param="name")
    if not 0 < len(text) <= _LONGEST:
        raise InvalidInput(_("Paste the secret: 1 to %(most)d characters.") % {"most": _LONGEST}, param="text")


def _seal(secret: TeamSecret, text: str) -> tuple[str, bytes]:
    nonce = os.urandom(_NONCE_BYTES)
    sealed = AESGCM(_team_key(settings.SECRETS_KEY, secret)).encrypt(nonce, text.encode(), _context(secret))
    return key_id_of(settings.SECRETS_KEY), nonce + sealed


def _open(secret: TeamSecret) -> str:
    sealed = bytes(secret.ciphertext)
    for key in _keys():
        if key_id_of(key) != secret.key_id:
            continue
        try:
            box = AESGCM(_team_key(key, secret))
            return box.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _context(secret)).decode()
        except (InvalidTag, ValueError):  # not ours, changed, moved, or cut short
            break
    raise Sealed(_("The secret '%(name)s' cannot be opened. Store it again.") % {"name": secret.name})


def _keys() -> Iterator[str]:
    yield settings.SECRETS_KEY
    yield from settings.OLD_SECRETS_KEYS


def _team_key(key: str, secret: TeamSecret) -> bytes:
    derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"tuneport team secret\0" + secret.team_id.bytes)
    return derive.derive(key.encode())


def _context(secret: TeamSecret) -> bytes:
    return b"\0".join([secret.team_id.bytes, secret.kind.encode(), secret.name.encode()])
