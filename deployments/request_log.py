"""Texts of requests, for deployments whose team wants them: written with the count, deleted when their days are over.

A person may say what an answer should have been; corrections become rows of the dataset's next version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import DurationField, ExpressionWrapper, F, Q, QuerySet, Value
from django.db.models.functions import Least
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app.derive import derive_version
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.operations.texts import LIMITS, is_json_answer
from deployments import history, plain_prompts
from deployments.ledger_rows import LedgerRow
from deployments.models import Deployment, LoggedText
from experiments.storable import storable_json, storable_text
from portal import audit
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.rls import all_teams

MOST_DAYS = 365
# Longer requests are counted like all others, but nobody reads them in a browser.
MOST_CHARACTERS = 200_000
MOST_AT_ONCE = 500


@dataclass
class Heard:
    """What is asked and answered in one request while it goes on. It costs nothing where texts are not kept."""

    deployment_id: UUID
    days: int
    messages: list[dict[str, Any]]
    parts: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, log: Any, asked: Mapping[str, Any]) -> Heard | None:
        """Return an ear for a request, None if nobody wants its texts. `log`: known_targets.TextLog or None."""
        if log is None:
            return None
        messages = asked.get("messages") or [{"role": "user", "content": plain_prompts.shown(asked.get("prompt", ""))}]
        return cls(log.deployment_id, log.days, list(messages))

    def note_answer(self, answer: Mapping[str, Any]) -> None:
        """Take the first answer of a whole response."""
        for choice in list(answer.get("choices") or ())[:1]:
            self.parts.append(str(choice.get("text") or (choice.get("message") or {}).get("content") or ""))

    def note_chunk(self, event: Mapping[str, Any]) -> None:
        """Take the next piece of the first answer of a stream."""
        for choice in event.get("choices") or ():
            if choice.get("index", 0) == 0:
                self.parts.append(str(choice.get("text") or (choice.get("delta") or {}).get("content") or ""))

    def text_of(self, record: LedgerRow) -> LoggedText | None:
        """Return the row that belongs to the count, None for a request that is too long to be kept."""
        answer = storable_text("".join(self.parts))
        messages: Any = storable_json(self.messages)
        if len(answer) + sum(len(str(message)) for message in messages) > MOST_CHARACTERS:
            return None
        return LoggedText(
            team_id=record.team_id,
            deployment_id=self.deployment_id,
            at=record.at,
            kept_until=record.at + timedelta(days=self.days),
            messages=messages,
            answer=answer,
        )


@transaction.atomic
def set_log(*, deployment: Deployment, actor: Actor, logs_text: bool, days: int) -> Deployment:
    """Say whether texts of requests are kept from now on, and for how many days; fewer days hold for older ones, too.

    Raises: InvalidInput.
    """
    if not 1 <= days <= MOST_DAYS:
        raise InvalidInput(_("Choose 1 to %(most)d days.") % {"most": MOST_DAYS}, param="log_days")
    deployment = (
        deployment.team.deployments.select_for_update(of=("self",)).select_related("team").get(pk=deployment.pk)
    )
    if (deployment.logs_text, deployment.log_days) == (logs_text, days):
        return deployment
    deployment.logs_text, deployment.log_days = logs_text, days
    deployment.save(update_fields=["logs_text", "log_days"])
    end = ExpressionWrapper(F("at") + Value(timedelta(days=days), DurationField()), output_field=_TIME)
    deployment.texts.update(kept_until=Least(F("kept_until"), end))
    history.note(deployment, actor, "deployment.log_changed", is_on=logs_text, days=days)
    return deployment


_TIME = LoggedText._meta.get_field("kept_until")


@transaction.atomic
def delete_texts(*, deployment: Deployment, actor: Actor) -> int:
    """Delete all kept texts of a deployment; counts stay, and so do rows that corrections became."""
    count = deployment.texts.count()
    deployment.texts.all().delete()
    history.note(deployment, actor, "deployment.texts_deleted", count=count)
    return count


def prune() -> int:
    """Delete texts whose days are over; return how many."""
    with all_teams("texts of all teams are kept for as long as each team wants"):
        deleted, _by_model = LoggedText.unscoped.filter(kept_until__lt=timezone.now()).delete()
    return deleted


@transaction.atomic
def correct(*, text: LoggedText, actor: Actor, correction: str) -> LoggedText:
    """Note what the answer should have been; an empty text takes a correction back.

    Raises: InvalidInput for one that is no answer of the dataset, IllegalTransition if it is a row already.
    """
    text = text.team.loggedtexts.select_for_update(of=("self",)).select_related("team", "deployment").get(pk=text.pk)
    if text.taken_into_id is not None:
        raise IllegalTransition(_("This correction is a row of the dataset already. Change it there."), code="taken")
    correction = correction.strip().replace("\r\n", "\n")
    if len(correction) > LIMITS["answer"]:
        raise InvalidInput(
            _("A correction may have up to %(most)d characters.") % {"most": LIMITS["answer"]}, param="correction"
        )
    dataset_version = _learned_from(text.deployment)
    needs_json = dataset_version is not None and dataset_version.mapping.get("json_answers")
    if correction and needs_json and not is_json_answer(correction):
        raise InvalidInput(
            _("The answers of this dataset are JSON objects; this is none."), param="correction", code="not_json"
        )
    text.correction = storable_text(correction)
    text.corrected_by, text.corrected_at = (actor.user, timezone.now()) if correction else (None, None)
    text.save(update_fields=["correction", "corrected_by", "corrected_at"])
    audit.record(text.team, actor, "request.corrected", text.deployment, record=text.record_id)
    return text


def waiting(deployment: Deployment) -> QuerySet[LoggedText]:
    """Return the corrections that are no rows of the dataset yet, the oldest first."""
    return deployment.texts.filter(~Q(correction=""), taken_into=None).order_by("record_id")


@transaction.atomic
def take_corrections(*, deployment: Deployment, actor: Actor) -> DatasetVersion:
    """Make a new version of the dataset that the live version learned from, with the corrections as training rows.

    Raises: InvalidInput if none wait or can be rows, IllegalTransition without a ready version; as derive_version.
    """
    newest = _newest(deployment)
    if newest is None:
        raise IllegalTransition(_("The dataset has no version that is ready."), code="not_ready")
    texts = list(waiting(deployment).select_for_update()[:MOST_AT_ONCE])
    rows = {text.pk: row for text in texts if (row := _row(text)) is not None}
    if not rows:
        raise InvalidInput(
            _("No correction waits that can be a row: a question with one answer."), code="nothing_to_take"
        )
    note = _("%(count)d corrections from %(name)s") % {"count": len(rows), "name": deployment.name}
    changes = [{"op": "add", "rows": list(rows.values())}]
    derived = derive_version(version=newest, actor=actor, changes=changes, note=note)
    deployment.texts.filter(pk__in=rows).update(taken_into=derived)
    history.note(deployment, actor, "deployment.corrections_taken", rows=len(rows), dataset_version=str(derived.pk))
    return derived


def _row(text: LoggedText) -> dict[str, str] | None:
    """Return a correction as a row; None for a conversation of several turns, which a row cannot be yet."""
    said = [message for message in text.messages if message.get("role") != "system"]
    if len(said) != 1 or said[0].get("role") != "user" or not str(said[0].get("content", "")).strip():
        return None
    system = "\n".join(message["content"] for message in text.messages if message.get("role") == "system")
    row = {"prompt": said[0]["content"], "answer": text.correction}
    return {**row, "system": system} if system.strip() else row


def dataset_of(deployment: Deployment) -> Dataset | None:
    """Return the dataset that the live version learned from."""
    version = _learned_from(deployment)
    return version.dataset if version is not None else None


def _learned_from(deployment: Deployment) -> DatasetVersion | None:
    found = deployment.team.datasetversions.select_related("dataset")
    return found.filter(runs__adapter__deployment_versions__live_in=deployment).first()


def _newest(deployment: Deployment) -> DatasetVersion | None:
    dataset = dataset_of(deployment)
    if dataset is None:
        return None
    ready = dataset.versions.filter(status=DatasetVersion.Status.READY)
    return ready.select_related("team", "dataset").order_by("-number").first()
