"""What admins of a team do with webhook endpoints, in a browser or by a token of their own."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

import httpx
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments.webhooks import outbox, sending, signing
from deployments.webhooks.models import EVENT_TYPES, WebhookDelivery, WebhookEndpoint
from portal import audit, reachable, secrets
from portal.access import may_administer
from portal.actors import Actor
from portal.errors import Forbidden, IllegalTransition, InvalidInput
from portal.models import Team, TeamSecret
from portal.rls import team_scope

MOST_ENDPOINTS: Final = 20
OLD_SECRET_FOR: Final = timedelta(hours=24)
LONGEST_NAME: Final = 100
LONGEST_URL: Final = 2_000
Status = WebhookDelivery.Status


@transaction.atomic
def create(*, team: Team, actor: Actor, name: str, url: str, event_types: Sequence[str]) -> tuple[WebhookEndpoint, str]:
    """Make an endpoint and return it with its secret, which is told this once. Call it in the team's row scope.

    Raises: Forbidden, InvalidInput, IllegalTransition if the team has as many as it may.
    """
    _require_admin(team, actor)
    Team.objects.select_for_update(no_key=True).get(pk=team.pk)  # the count below has to hold
    if team.webhookendpoints.count() >= MOST_ENDPOINTS:
        raise IllegalTransition(_("A team has up to %(most)d endpoints.") % {"most": MOST_ENDPOINTS}, code="too_many")
    endpoint = WebhookEndpoint(team=team, created_by=actor.user, **_checked(name, url, event_types))
    text = _new_secret(endpoint, actor)
    endpoint.save(force_insert=True)
    audit.record(
        team, actor, "webhook.created", endpoint, url=endpoint.url, event_types=", ".join(endpoint.event_types)
    )
    return endpoint, text


@transaction.atomic
def change(*, endpoint: WebhookEndpoint, actor: Actor, **wanted: Any) -> WebhookEndpoint:
    """Change name, url, event_types or is_active; what is left out stays. Raises: Forbidden, InvalidInput."""
    _require_admin(endpoint.team, actor)
    before = {name: getattr(endpoint, name) for name in ("name", "url", "event_types")}
    after = _checked(**{name: wanted.get(name, value) for name, value in before.items()})
    after["is_active"] = wanted.get("is_active", endpoint.is_active)
    changed = {name: value for name, value in after.items() if value != getattr(endpoint, name)}
    if not changed:
        return endpoint
    if changed.get("is_active"):
        changed |= {"note": "", "failing_since": None}
    changed["updated_at"] = timezone.now()
    for name, value in changed.items():
        setattr(endpoint, name, value)
    endpoint.save(update_fields=list(changed))
    if not endpoint.is_active:
        sending.give_up(endpoint.deliveries(manager="unscoped").filter(status=Status.PENDING), _switched_off())
    audit.record(
        endpoint.team, actor, "webhook.changed", endpoint, changed=", ".join(sorted(set(changed) - {"updated_at"}))
    )
    return endpoint


@transaction.atomic
def rotate_secret(*, endpoint: WebhookEndpoint, actor: Actor, keep_old: bool) -> str:
    """Give an endpoint a new secret and return it; the old one signs for another day if it is kept.

    Raises: Forbidden.
    """
    team = endpoint.team
    _require_admin(team, actor)
    actor.require_self()
    if keep_old:
        old = secrets.reveal(team=team, name=endpoint.secret_name)
        kind = TeamSecret.Kind.WEBHOOK
        secrets.store(team=team, kind=kind, name=endpoint.old_secret_name, text=old, actor=actor)
    else:
        team.teamsecrets.filter(name=endpoint.old_secret_name).delete()
    text = _new_secret(endpoint, actor)
    endpoint.updated_at = timezone.now()
    endpoint.old_secret_until = endpoint.updated_at + OLD_SECRET_FOR if keep_old else None
    endpoint.save(update_fields=["secret_hint", "updated_at", "old_secret_until"])
    audit.record(team, actor, "webhook.secret_rotated", endpoint, keeps_old=keep_old)
    return text


@transaction.atomic
def delete(*, endpoint: WebhookEndpoint, actor: Actor) -> None:
    """Forget an endpoint with its secrets and deliveries. Raises: Forbidden."""
    team = endpoint.team
    _require_admin(team, actor)
    audit.record(team, actor, "webhook.deleted", endpoint, url=endpoint.url)
    team.teamsecrets.filter(name__in=[endpoint.secret_name, endpoint.old_secret_name]).delete()
    endpoint.delete()


@transaction.atomic
def prepare_test(*, endpoint: WebhookEndpoint, actor: Actor, event_type: str) -> WebhookDelivery:
    """Write down a sample delivery, which `run_test` sends. Raises: Forbidden, InvalidInput."""
    _require_admin(endpoint.team, actor)
    if event_type not in EVENT_TYPES:
        raise _unknown_event("event_type")
    subject = f"{'batch_' if event_type.startswith('batch') else 'ftjob-'}{uuid.UUID(int=0).hex}"
    delivery = WebhookDelivery(
        team_id=endpoint.team_id,
        endpoint=endpoint,
        event_id=uuid.uuid4(),
        event_type=event_type,
        subject=subject,
        occurred_at=timezone.now(),
        is_test=True,
        attempts=1,
    )
    delivery.save(force_insert=True)
    audit.record(endpoint.team, actor, "webhook.tested", endpoint, event_type=event_type)
    return delivery


def run_test(delivery: WebhookDelivery) -> sending.Answer:
    """Send a sample once, here and now, and keep what came of it. Holds no transaction while it waits."""
    answer = sending.request(delivery)
    with team_scope(delivery.team_id):
        WebhookDelivery.unscoped.filter(pk=delivery.pk).update(
            status=Status.DELIVERED if answer.is_good else Status.FAILED,
            delivered_at=timezone.now() if answer.is_good else None,
            answered=answer.status,
            problem=answer.problem[:300],
        )
    return answer


@transaction.atomic
def resend(*, delivery: WebhookDelivery, actor: Actor) -> None:
    """Send a delivery again, under its old id, with all its tries. Raises: Forbidden, IllegalTransition."""
    _require_admin(delivery.endpoint.team, actor)
    if not delivery.endpoint.is_active:
        raise IllegalTransition(_switched_off())
    now = timezone.now()
    rows = WebhookDelivery.unscoped.filter(pk=delivery.pk)
    rows.update(status=Status.PENDING, attempts=0, next_try_at=now, occurred_at=delivery.occurred_at, problem="")
    audit.record(delivery.endpoint.team, actor, "webhook.resent", delivery.endpoint, delivery=delivery.webhook_id)
    outbox.enqueue(delivery.pk)


def _require_admin(team: Team, actor: Actor) -> None:
    if not may_administer(team, actor):
        raise Forbidden(_("Only admins of the team manage webhook endpoints, in the portal or by tokens of their own."))


def _new_secret(endpoint: WebhookEndpoint, actor: Actor) -> str:
    text = signing.new_secret()
    kind = TeamSecret.Kind.WEBHOOK
    secrets.store(team=endpoint.team, kind=kind, name=endpoint.secret_name, text=text, actor=actor)
    endpoint.secret_hint = text[-4:]
    return text


def _checked(name: str, url: str, event_types: Sequence[str]) -> dict[str, Any]:
    name = name.strip() if isinstance(name, str) else ""
    if not 0 < len(name) <= LONGEST_NAME or "\0" in name:
        raise InvalidInput(_("A name has 1 to 100 characters."), param="name")
    if not isinstance(event_types, list) or not event_types:
        raise InvalidInput(_("Choose at least one kind of event."), param="event_types")
    if any(not isinstance(one, str) or one not in EVENT_TYPES for one in event_types):
        raise _unknown_event("event_types")
    chosen = [one for one in EVENT_TYPES if one in event_types]
    return {"name": name, "url": _checked_url(url), "event_types": chosen}


def _unknown_event(param: str) -> InvalidInput:
    return InvalidInput(_("Known events are: %(known)s.") % {"known": ", ".join(EVENT_TYPES)}, param=param)


def _checked_url(url: object) -> str:
    """Return an address that may be sent to, as far as it tells without looking its name up. Raises: InvalidInput."""
    if not isinstance(url, str) or not 0 < len(url) <= LONGEST_URL:
        raise InvalidInput(_("An address has 1 to 2,000 characters."), param="url")
    try:
        reachable.require_well_formed(url)
        parsed = httpx.URL(url)
        port = parsed.port or (443 if parsed.scheme == "https" else 80)
        if not reachable.is_listed(parsed.host, port):
            if parsed.scheme != "https":
                raise reachable.OutboundRefused(_("Events are sent to addresses with https:// only."))
            if reachable.is_literal(parsed.host):
                reachable.require_allowed(url)
    except reachable.OutboundRefused as error:
        raise InvalidInput(error.message, param="url", code=error.code) from None
    return url


def _switched_off() -> str:
    return _("The endpoint is switched off.")


def as_object(endpoint: WebhookEndpoint, secret: str = "") -> Mapping[str, Any]:
    """Return an endpoint as OpenAI's clients know it; with its secret where it was just made."""
    shown = {
        "id": endpoint.public_id,
        "object": "webhook_endpoint",
        "created_at": int(endpoint.created_at.timestamp()),
        "updated_at": int(endpoint.updated_at.timestamp()),
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "signing_secret_hint": f"{signing.PREFIX}…{endpoint.secret_hint}",
        # Ours: whether anything is sent, and why not.
        "enabled": endpoint.is_active,
        "note": endpoint.note or None,
    }
    return shown | ({"signing_secret": secret} if secret else {})
