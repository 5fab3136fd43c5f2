"""API tokens: made, shown once, checked, replaced, revoked.

A token reads `tnp_<key id>_<secret>`. The key id finds the row, the keyed hash (HMAC-SHA-256 with a pepper from the
environment) proves the secret; with 256 bits of randomness a slow password hash would only slow us down.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import cast

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal import audit
from portal.actors import Actor
from portal.errors import Forbidden, IllegalTransition, InvalidInput
from portal.models import ApiToken, Role, Scope, ServiceAccount, Team, User
from portal.rls import Prepared, fetch_in_all_teams

LONGEST_OVERLAP = timedelta(days=30)
_BEGINNING = re.compile(r"tnp_[0-9a-f]{16}_")
_SHAPE = re.compile(r"tnp_([0-9a-f]{16})_([A-Za-z0-9_-]{43})\Z")
_LAST_USED_GRAIN = timedelta(minutes=1)
_MOST_ENTRIES = 100
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True)
class Powers:
    """What a token is called, may do, from where, and until when."""

    name: str
    scopes: Sequence[str]
    allowed_models: Sequence[str] = ()
    networks: Sequence[str] = ()
    expires_at: datetime | None = None


@transaction.atomic
def create_token(
    *,
    team: Team,
    actor: Actor,
    owner: User,
    name: str,
    scopes: Sequence[str],
    allowed_models: Sequence[str] = (),
    networks: Sequence[str] = (),
    expires_at: datetime | None = None,
    service_account: ServiceAccount | None = None,
) -> tuple[ApiToken, str]:
    """Create a token and return it with its text, which is never shown again.

    Without allowed models it may call all, without networks it may come from anywhere. With a service account it
    lives on when its owner leaves the team. Raises: InvalidInput naming what does not fit.
    """
    actor.require_self()
    powers = _checked(Powers(name.strip(), scopes, allowed_models, networks, expires_at))
    if service_account is not None and not service_account.is_active:
        raise InvalidInput(_("This service account is switched off. Switch it on first."), param="service_account")
    token, text = _issue(team, owner, powers, service_account)
    audit.record(team, actor, "token.created", token, scopes=" ".join(token.scopes))
    return token, text


@transaction.atomic
def rotate_token(*, token: ApiToken, actor: Actor, overlap: timedelta) -> tuple[ApiToken, str]:
    """Replace a token by one with the same powers and return it with its text; the old one works for `overlap` more.

    A person's token is replaced by that person only: it acts in their name. Raises: Forbidden, IllegalTransition for a
    token that is revoked, expired or replaced already, InvalidInput.
    """
    actor.require_self()
    locked = token.team.apitokens.select_for_update(of=("self",)).select_related("team").get(pk=token.pk)
    if locked.service_account_id is None and (actor.user is None or locked.created_by_id != actor.user.pk):
        raise Forbidden(_("Only its owner can replace a person's token. Revoke it, and create one of your own."))
    if not locked.is_usable or locked.replaced_by_id is not None:
        raise IllegalTransition(_("This token has ended or is replaced already. Create a new one."))
    if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise InvalidInput(_("The old token may work for 30 days more at most."), param="overlap")
    powers = Powers(locked.name, locked.scopes, locked.allowed_models, locked.networks, locked.expires_at)
    successor, text = _issue(locked.team, locked.created_by, powers, locked.service_account)
    now = timezone.now()
    locked.replaced_by = successor
    if not overlap:
        locked.revoked_at = now
    else:
        locked.expires_at = min(filter(None, (locked.expires_at, now + overlap)))
    locked.save(update_fields=["replaced_by", "revoked_at", "expires_at"])
    hours = round(overlap.total_seconds() / 3600, 1)
    audit.record(locked.team, actor, "token.rotated", locked, successor=str(successor.pk), overlap_hours=hours)
    return successor, text


@transaction.atomic
def revoke_token(*, token: ApiToken, actor: Actor) -> None:
    """Make a token useless at once; a second call changes nothing."""
    revoked = ApiToken.unscoped.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
    if revoked:
        audit.record(token.team, actor, "token.revoked", token)


def revoke_tokens_of(*, team: Team, person: User, actor: Actor) -> None:
    """Revoke all that a person who leaves the team made for themselves; service accounts keep theirs."""
    for token in team.apitokens.filter(created_by=person, service_account=None, revoked_at=None):
        revoke_token(token=token, actor=actor)


# --- Service accounts --------------------------------------------------------------------------------------------


@transaction.atomic
def create_service_account(*, team: Team, actor: Actor, name: str) -> ServiceAccount:
    """Create a service account, to which tokens may belong. Raises: InvalidInput for a bad or taken name."""
    actor.require_self()
    name = name.strip()
    if not 0 < len(name) <= 80 or not name.isprintable():
        raise InvalidInput(_("Give the service account a name of 1 to 80 characters."), param="name")
    try:
        with transaction.atomic():
            account: ServiceAccount = team.serviceaccounts.create(name=name, created_by=actor.user)
    except IntegrityError:
        raise InvalidInput(
            _("There is already a service account named “%(name)s”.") % {"name": name}, param="name"
        ) from None
    audit.record(team, actor, "service_account.created", account)
    return account


@transaction.atomic
def switch_service_account(*, account: ServiceAccount, actor: Actor, is_active: bool) -> None:
    """Switch a service account on or off; while it is off, none of its tokens works."""
    if is_active:
        actor.require_self()  # its tokens would live again, and outlast any impersonation
    if ServiceAccount.unscoped.filter(pk=account.pk).exclude(is_active=is_active).update(is_active=is_active):
        action = "service_account.activated" if is_active else "service_account.deactivated"
        audit.record(account.team, actor, action, account)


# --- Checking ----------------------------------------------------------------------------------------------------


def find_token(text: str) -> ApiToken | None:
    """Return the token of this text, expired or not, or None.

    None stands for everything that is none of the caller's business: no such token, a wrong secret, a revoked token,
    an owner who left, an archived team.
    """
    token, is_valid = look_up(text)
    return token if is_valid else None


def look_up(text: str) -> tuple[ApiToken | None, bool]:
    """Return the token whose secret the text proves, and whether it may still be used, expiry aside.

    One indexed look-up in one round trip; unknown ids cost the same hash as known ones.
    """
    parts = parts_of(text)
    if parts is None:
        return None, False
    key_id, secret = parts
    rows = _look_up().fetch_in_all_teams("a token names its team only after it was found", key_id)
    columns = _columns(ApiToken)
    digest, pepper_id = (rows[0][columns.index(name)] for name in ("digest", "pepper_id")) if rows else ("0" * 64, "")
    if not proves(secret, digest, pepper_id) or not rows:
        return None, False
    found = _Found.of(rows[0])
    if found.is_valid:
        _remember(found.token, rows[0][-1])
    return found.token, found.is_valid


def parts_of(text: str) -> tuple[str, str] | None:
    """Return the key id and the secret, or None for what has not the shape of a token."""
    shape = _SHAPE.match(text)
    return (shape.group(1), shape.group(2)) if shape is not None else None


def proves(secret: str, digest: str, pepper_id: str) -> bool:
    """Return whether this is the secret of which the digest was made."""
    return hmac.compare_digest(_digest(secret, _peppers().get(pepper_id, settings.TOKEN_PEPPER)), digest)


def mark_of(text: str) -> bytes:
    """Return what stands for a text in memory, as long as tokens are checked with the same peppers."""
    return hmac.digest("\0".join(_peppers().values()).encode(), text.encode(), "sha256")


@dataclass
class Recalled:
    """A token as this process saw it last: good for nothing until the database has confirmed that it still is so."""

    token: ApiToken
    stamp: str
    is_confirmed: bool = False


_remembered: dict[str, tuple[ApiToken, str]] = {}


def recall(text: str) -> Recalled | None:
    """Return what this process remembers of a valid token whose secret the text proves, else None.

    Whoever uses it has to compare the stamp with `portal_token_stamp` before anything comes of it.
    """
    parts = parts_of(text)
    known = _remembered.get(parts[0]) if parts is not None else None
    if parts is None or known is None:
        return None
    token, stamp = known
    now = timezone.now()
    is_due = token.last_used_at is None or now - token.last_used_at > _LAST_USED_GRAIN  # then its use is written down
    if is_due or token.is_expired or not proves(parts[1], token.digest, token.pepper_id):
        return None
    return Recalled(token, stamp)


def is_remembered(key_id: str, secret: str) -> bool:
    """Return whether this process has seen the token with this secret; it may have ended since."""
    known = _remembered.get(key_id)
    return known is not None and proves(secret, known[0].digest, known[0].pepper_id)


def confirm(recalled: Recalled) -> bool:
    """Return whether a token is still as it is remembered; from then on it is as good as looked up."""
    rows = fetch_in_all_teams(
        "a token names its team only after it was found", "SELECT portal_token_stamp(%s)", [recalled.token.key_id]
    )
    recalled.is_confirmed = rows[0][0] == recalled.stamp
    return recalled.is_confirmed


def _remember(token: ApiToken, stamp: str) -> None:
    if len(_remembered) >= _MOST_REMEMBERED:
        _remembered.clear()
    _remembered[token.key_id] = token, stamp


def holds_token(text: str) -> bool:
    """Return whether something in the text looks like an API token."""
    return _BEGINNING.search(text) is not None


def note_use(token: ApiToken) -> None:
    """Remember that a token was used, at most once a minute."""
    now = timezone.now()
    if token.last_used_at is None or now - token.last_used_at > _LAST_USED_GRAIN:
        fetch_in_all_teams(
            "last use of a token, written before its team's scope opens",
            "UPDATE portal_apitoken SET last_used_at = %s WHERE id = %s"
            " AND (last_used_at IS NULL OR last_used_at < %s)",
            [now, token.pk, now - _LAST_USED_GRAIN],
        )


@dataclass(frozen=True)
class _Found:
    """A token as the look-up finds it, with what decides whether it is valid."""

    token: ApiToken
    has_owner: bool

    @classmethod
    def of(cls, row: Sequence[object]) -> _Found:
        parts: list[models.Model] = []
        end = 0
        for model, columns in _COLUMNS.items():
            start, end = end, end + len(columns(model))
            parts.append(model.from_db("default", columns(model), row[start:end]))
        token, team, person, account = parts
        assert isinstance(token, ApiToken)
        assert isinstance(team, Team)
        assert isinstance(person, User)
        assert isinstance(account, ServiceAccount)
        token.team, token.created_by = team, person
        role = cast(str | None, row[end])
        if token.service_account_id is None:
            token.service_account = None
            token.role = Role(role) if role else None
            return cls(token, person.is_active and role is not None)
        token.service_account = account
        return cls(token, account.is_active)

    @property
    def is_valid(self) -> bool:
        return self.has_owner and self.token.revoked_at is None and self.token.team.archived_at is None


@cache
def _columns(model: type[models.Model]) -> list[str]:
    return [field.attname for field in model._meta.concrete_fields]


@cache
def _person_columns(model: type[models.Model]) -> list[str]:
    return [name for name in _columns(model) if name != "password"]


_COLUMNS = {ApiToken: _columns, Team: _columns, User: _person_columns, ServiceAccount: _columns}


@cache
def _look_up() -> Prepared:
    """Return the one statement that finds a token with its team, its owner and the owner's role.

    Written out instead of left to the ORM, so that it needs no transaction around it, and prepared, because
    planning its joins takes several times as long as running them.
    """
    aliases = ("token", "team", "person", "account")
    names = [
        f'{alias}."{name}"'
        for alias, (model, columns) in zip(aliases, _COLUMNS.items(), strict=True)
        for name in columns(model)
    ]
    versions = [f"{alias}.ctid, {alias}.xmin" for alias in (*aliases, "member")]
    # As `portal_token_stamp` has it: a call would make a token that exists take longer than one that does not.
    stamp = f"format('%%s%%s %%s%%s %%s%%s %%s%%s %%s%%s', {', '.join(versions)})"
    statement = f"""
        SELECT {", ".join(names)}, member.role, {stamp}
        FROM portal_apitoken token
        JOIN portal_team team ON team.id = token.team_id
        JOIN portal_user person ON person.id = token.created_by_id
        LEFT JOIN portal_serviceaccount account ON account.id = token.service_account_id
        LEFT JOIN portal_membership member ON member.team_id = token.team_id AND member.user_id = token.created_by_id
        WHERE token.key_id = $1
    """  # noqa: S608 -- names of our own columns only
    return Prepared("portal_find_token", statement)


def _peppers() -> Mapping[str, str]:
    return {**settings.OLD_TOKEN_PEPPERS, settings.TOKEN_PEPPER_ID: settings.TOKEN_PEPPER}


def _digest(secret: str, pepper: str) -> str:
    return hmac.new(pepper.encode(), secret.encode(), hashlib.sha256).hexdigest()


# --- Making ------------------------------------------------------------------------------------------------------


def _issue(team: Team, owner: User, powers: Powers, account: ServiceAccount | None) -> tuple[ApiToken, str]:
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    token = team.apitokens.create(
        name=powers.name,
        key_id=key_id,
        digest=_digest(secret, settings.TOKEN_PEPPER),
        pepper_id=settings.TOKEN_PEPPER_ID,
        scopes=sorted(set(powers.scopes)),
        allowed_models=sorted(set(powers.allowed_models)),
        networks=list(powers.networks),
        created_by=owner,
        service_account=account,
        expires_at=powers.expires_at,
    )
    return token, f"tnp_{key_id}_{secret}"


def _checked(powers: Powers) -> Powers:
    """Return the powers with networks in their usual form. Raises: InvalidInput."""
    if not powers.name or len(powers.name) > 80 or not powers.name.isprintable():
        raise InvalidInput(_("Give the token a name of 1 to 80 characters."), param="name")
    unknown = sorted(set(powers.scopes) - set(Scope.values))
    if unknown or not powers.scopes:
        known = ", ".join(Scope.values)
        raise InvalidInput(_("Choose at least one of these scopes: %(known)s.") % {"known": known}, param="scopes")
    if len(powers.allowed_models) > _MOST_ENTRIES or not all(0 < len(name) <= 120 for name in powers.allowed_models):
        raise InvalidInput(_("Name up to 100 models."), param="allowed_models")
    if powers.expires_at is not None and powers.expires_at <= timezone.now():
        raise InvalidInput(_("The expiry lies in the past."), param="expires_at")
    networks = _networks(powers.networks)
    return Powers(powers.name, powers.scopes, powers.allowed_models, networks, powers.expires_at)


def _networks(texts: Sequence[str]) -> list[str]:
    if len(texts) > _MOST_ENTRIES:
        raise InvalidInput(_("Name up to 100 networks."), param="networks")
    found = []
    for text in texts:
        try:
            if "%" in text:  # a zone, as in fe80::1%eth0: it means something on one machine only
                raise ValueError
            found.append(str(ipaddress.ip_network(text.strip())))
        except ValueError:
            raise InvalidInput(
                _("“%(text)s” is no network. Write one a line, such as 10.20.0.0/16 or 192.0.2.7.")
                % {"text": text.strip()[:60]},
                param="networks",
            ) from None
    return found
