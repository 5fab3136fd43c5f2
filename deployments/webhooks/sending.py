"""Sending deliveries: each try goes through the guard, is signed anew, and says when the next one is due.

A try takes its row by moving `next_try_at` ahead, so two messages for one delivery make one request, and a worker that
dies leaves a row that is due again. Only an answer of 2xx is an arrival, so everything is told at least once.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments.webhooks import signing
from deployments.webhooks.models import WebhookDelivery, WebhookEndpoint
from deployments.webhooks.outbox import enqueue, payload_of
from portal import audit, outbound, secrets
from portal.actors import Actor
from portal.errors import PortalError
from portal.models import TeamSecret
from portal.rls import all_teams, team_scope

logger = logging.getLogger(__name__)

# When the tries come, in seconds after the event, as Standard Webhooks proposes.
TRIES_AFTER_S: Final = (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
JITTER: Final = 0.1
TAKEN_FOR: Final = timedelta(minutes=2)
LONGEST_WAIT_S: Final = 6 * 3600
TIMEOUT_S: Final = 15.0
# An endpoint that has not answered for so long is switched off; its admins see why, and switch it on again.
PATIENCE: Final = timedelta(days=3)
KEPT_FOR: Final = timedelta(days=30)
GONE: Final = 410
MACHINE: Final = Actor.system("webhooks")
Status = WebhookDelivery.Status


@dataclass(frozen=True)
class Answer:
    """What came of a try: an HTTP status, or none and why."""

    status: int | None
    problem: str = ""
    retry_after_s: int = 0

    @property
    def is_good(self) -> bool:
        """Whether the receiver has taken it."""
        return self.status is not None and 200 <= self.status < 300


def send(delivery_id: UUID) -> None:
    """Try a delivery that is due; a doubled message does nothing."""
    delivery = _take(delivery_id)
    if delivery is None:
        return
    answer = request(delivery)
    with team_scope(delivery.team_id):
        _note(delivery, answer)


def request(delivery: WebhookDelivery) -> Answer:
    """Send a delivery once and return what came of it. Holds no transaction while it waits."""
    endpoint, now = delivery.endpoint, timezone.now()
    try:
        with team_scope(delivery.team_id):
            known = [secrets.reveal(team=endpoint.team, name=endpoint.secret_name)]
            if endpoint.signs_with_old(now):
                known.append(secrets.reveal(team=endpoint.team, name=endpoint.old_secret_name))
        body = payload_of(delivery)
        headers = signing.headers_for(
            webhook_id=delivery.webhook_id, at_s=int(now.timestamp()), body=body, signing=known
        )
        with outbound.client(headers | {"Content-Type": "application/json"}) as http:
            status, answered = outbound.deliver(http, endpoint.url, content=body, read_timeout_s=TIMEOUT_S)
    except PortalError as error:
        return Answer(None, error.message)
    told = answered.get("retry-after", "")
    wait_s = int(told) if told.isascii() and told.isdecimal() and len(told) < 7 else 0
    said = "" if 200 <= status < 300 else _("The endpoint answers HTTP %(status)d.") % {"status": status}
    return Answer(status, said, min(wait_s, LONGEST_WAIT_S))


def sweep() -> int:
    """Queue what is due, whose message was lost or whose time to try again has come. Call it about once a minute."""
    with all_teams("the clock looks after every team's webhooks"):
        due = WebhookDelivery.unscoped.filter(status=Status.PENDING, next_try_at__lte=timezone.now())
        keys = list(due.order_by("next_try_at").values_list("pk", flat=True)[:500])
        for key in keys:
            enqueue(key)
    return len(keys)


def prune() -> int:
    """Forget deliveries of a month ago and secrets that sign no more; return how many deliveries. By the clock."""
    now = timezone.now()
    with all_teams("the clock looks after every team's webhooks"):
        for endpoint in WebhookEndpoint.unscoped.filter(old_secret_until__lt=now):
            TeamSecret.unscoped.filter(team=endpoint.team_id, name=endpoint.old_secret_name).delete()
            WebhookEndpoint.unscoped.filter(pk=endpoint.pk).update(old_secret_until=None)
        # A sample whose sender died is pending, too, but nobody will send it.
        waiting = Q(status=Status.PENDING, next_try_at__isnull=False)
        old = WebhookDelivery.unscoped.filter(created_at__lt=now - KEPT_FOR).exclude(waiting)
        return old.delete()[0]


def _take(delivery_id: UUID) -> WebhookDelivery | None:
    now = timezone.now()
    with all_teams("a delivery's id leads to its team"):
        due = WebhookDelivery.unscoped.filter(pk=delivery_id, status=Status.PENDING, next_try_at__lte=now)
        if not due.update(next_try_at=now + TAKEN_FOR, attempts=F("attempts") + 1):
            return None
        delivery = WebhookDelivery.unscoped.select_related("endpoint__team").get(pk=delivery_id)
        if delivery.attempts > len(TRIES_AFTER_S):  # tries of which none came to an end
            give_up(WebhookDelivery.unscoped.filter(pk=delivery_id), _("No try came to an end."))
            return None
        if delivery.endpoint.is_active and delivery.endpoint.team.archived_at is None:
            return delivery
        give_up(WebhookDelivery.unscoped.filter(pk=delivery_id), _("The endpoint is switched off."))
    return None


def give_up(rows: object, why: str) -> None:
    """End deliveries that will not be tried again."""
    rows.update(status=Status.FAILED, next_try_at=None, problem=why[:300])  # type: ignore[attr-defined]


def _note(delivery: WebhookDelivery, answer: Answer) -> None:
    """Write down what came of a try: arrived, due again, or given up; and how the endpoint stands."""
    now = timezone.now()
    rows = WebhookDelivery.unscoped.filter(pk=delivery.pk, status=Status.PENDING)
    endpoint = WebhookEndpoint.unscoped.filter(pk=delivery.endpoint_id)
    told = {"answered": answer.status, "problem": answer.problem[:300]}
    if answer.is_good:
        rows.update(status=Status.DELIVERED, delivered_at=now, next_try_at=None, **told)
        endpoint.exclude(failing_since=None).update(failing_since=None)
        return
    logger.info("webhook %s: try %d failed, HTTP %s", delivery.pk, delivery.attempts, answer.status)
    endpoint.filter(failing_since=None).update(failing_since=now)
    if answer.status == GONE:
        switch_off(delivery.endpoint, _("It answered that it is gone for good (HTTP 410)."))
    elif endpoint.filter(Q(failing_since__lt=now - PATIENCE), is_active=True).exists():
        switch_off(
            delivery.endpoint, _("Nothing has arrived there for three days. Last: %(why)s") % {"why": answer.problem}
        )
    elif delivery.attempts >= len(TRIES_AFTER_S):
        rows.update(status=Status.FAILED, next_try_at=None, **told)
        return
    else:
        # From one try to the next, not since the event: what is sent again by hand has all of its time again.
        wait_s = (TRIES_AFTER_S[delivery.attempts] - TRIES_AFTER_S[delivery.attempts - 1]) * _jittered()
        rows.update(next_try_at=now + timedelta(seconds=max(wait_s, answer.retry_after_s)), **told)
        return
    WebhookDelivery.unscoped.filter(pk=delivery.pk).update(**told)


def switch_off(endpoint: WebhookEndpoint, note: str) -> None:
    """Send nothing more to an endpoint that cannot be reached, and say why. Call it in the team's row scope."""
    if WebhookEndpoint.unscoped.filter(pk=endpoint.pk, is_active=True).update(is_active=False, note=note[:300]):
        give_up(endpoint.deliveries(manager="unscoped").filter(status=Status.PENDING), note)
        audit.record(endpoint.team, MACHINE, "webhook.switched_off", endpoint)


def _jittered() -> float:
    return random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 — spreads load, guards nothing
