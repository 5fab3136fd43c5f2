"""The outbox: what is told to endpoints is written in the transaction of what it tells of, and sent afterwards."""

from __future__ import annotations

import json
import uuid
from datetime import datetime
from typing import Final

from django.utils import timezone

from deployments.openai_api.models import FineTuningJob
from deployments.webhooks.models import WebhookDelivery, WebhookEndpoint
from portal.models import Team
from portal.queue import enqueue_on_commit

SEND: Final = "deployments.tasks.send_webhook"


def emit(team: Team, event_type: str, subject: str) -> None:
    """Write down that the team's endpoints are to be told. Call it in the transaction of the change, in row scope."""
    wanting = WebhookEndpoint.unscoped.filter(team=team, is_active=True, event_types__contains=[event_type])
    event_id, now = uuid.uuid4(), timezone.now()
    for endpoint in wanting:
        order(endpoint, event_id=event_id, event_type=event_type, subject=subject, at=now)


def order(
    endpoint: WebhookEndpoint, *, event_id: uuid.UUID, event_type: str, subject: str, at: datetime
) -> WebhookDelivery:
    """Write one delivery and have it sent when the transaction commits."""
    delivery = WebhookDelivery(
        team_id=endpoint.team_id,
        endpoint=endpoint,
        event_id=event_id,
        event_type=event_type,
        subject=subject,
        occurred_at=at,
        next_try_at=at,
    )
    delivery.save(force_insert=True)
    enqueue(delivery.pk)
    return delivery


def enqueue(delivery_id: uuid.UUID) -> None:
    """Have a delivery sent when the current transaction commits."""
    enqueue_on_commit(SEND, str(delivery_id))


def run_ended(run_id: uuid.UUID) -> None:
    """Tell of a fine-tuning job whose run has ended. Call it in the transaction of the end, in a scope that sees it."""
    job = FineTuningJob.unscoped.filter(run_id=run_id).select_related("run", "team").first()
    if job is not None and job.run is not None:
        emit(job.team, f"fine_tuning.job.{job.run.status}", job.public_id)


def payload_of(delivery: WebhookDelivery) -> bytes:
    """Return the body of a delivery, the same bytes at every try: ids and the kind of event, nothing of the team's."""
    event = {
        "id": f"evt_{delivery.event_id.hex}",
        "object": "event",
        "created_at": int(delivery.occurred_at.timestamp()),
        "type": delivery.event_type,
        "data": {"id": delivery.subject},
    }
    return json.dumps(event).encode()
