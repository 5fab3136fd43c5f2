"""What the machine that asks a judge reports: claim, progress, end; and the sweep that finds what was lost.

As with imports, every report is a conditional update that names the claim.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import F, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app.claims import ClaimLost, Claims
from experiments.llm_judge.models import Judgement
from experiments.llm_judge.rubric import figures_of
from experiments.models import EvaluatedRow
from experiments.storable import storable_json
from portal import audit, secrets
from portal.actors import Actor
from portal.models import Team
from portal.queue import LONG_S
from portal.rls import team_scope

logger = logging.getLogger(__name__)

_FROZEN: Final = ("address", "model", "secret", "rubric", "rows", "prompt_price", "answer_price", "most_cost")
STALLED_AFTER: Final = timedelta(minutes=5)
MAX_ATTEMPTS: Final = 3
MACHINE: Final = Actor.system("judge")
Status = Judgement.Status
JUDGEMENTS: Final = Claims(
    Judgement,
    open=Judgement.OPEN,
    task="experiments.tasks.judge_answers",
    stalled_after=STALLED_AFTER,
    called="judgements",
    timeout_s=LONG_S,
)


@dataclass(frozen=True)
class Work:
    """A claimed judgement: all that the worker needs to know, so that it can work without a transaction.

    `ratings` and `tokens` are those of an earlier attempt; they are not asked for again.
    """

    judgement_id: UUID
    team_id: UUID
    claim: UUID
    address: str
    model: str
    secret: str
    rubric: str
    rows: int
    prompt_price: float
    answer_price: float
    most_cost: float | None
    tokens: tuple[int, int]
    evaluation_id: UUID
    ratings: list[dict[str, Any]]


def claim_judgement(judgement_id: UUID) -> Work | None:
    """Take a judgement that nobody works on, counting the attempt; return None if there is nothing to do."""
    team_id = JUDGEMENTS.team_of(judgement_id)
    if team_id is None:
        return None
    claim = uuid.uuid4()
    with team_scope(team_id):
        if JUDGEMENTS.take(judgement_id, claim, attempts=MAX_ATTEMPTS, status=Status.RUNNING):
            found = Judgement.unscoped.get(pk=judgement_id)
            frozen = {name: getattr(found, name) for name in _FROZEN}
            return Work(
                judgement_id,
                team_id,
                claim,
                **frozen,
                tokens=(found.prompt_tokens, found.answer_tokens),
                evaluation_id=found.evaluation_id,
                ratings=found.ratings,
            )
        if JUDGEMENTS.unclaimed(judgement_id).update(claim=claim):
            _end(judgement_id, claim, Status.FAILED, error=_("The worker was lost several times. Ask again."))
    return None


def rows_of(work: Work) -> list[EvaluatedRow]:
    """Return the evaluated rows, in the order of the source."""
    with team_scope(work.team_id):
        return list(EvaluatedRow.unscoped.filter(evaluation=work.evaluation_id).order_by("row", "id"))


def secret_of(work: Work) -> str:
    """Return the key that the endpoint wants, "" if it wants none. Raises: PortalError."""
    if not work.secret:
        return ""
    with team_scope(work.team_id):
        return secrets.reveal(team=Team.objects.get(pk=work.team_id), name=work.secret)


def report_progress(work: Work, ratings: Sequence[Mapping[str, Any]], tokens: tuple[int, int]) -> None:
    """Keep what was rated so far, and count `tokens` of prompts and answers. Raises: ClaimLost."""
    with team_scope(work.team_id):
        alive = _claimed(work).update(
            ratings=storable_json(list(ratings)),
            done=len(ratings),
            prompt_tokens=F("prompt_tokens") + tokens[0],
            answer_tokens=F("answer_tokens") + tokens[1],
            heartbeat_at=timezone.now(),
        )
    if not alive:
        raise ClaimLost


def finish_judgement(work: Work, ratings: Sequence[Mapping[str, Any]], *, is_capped: bool) -> None:
    """Keep the figures. `is_capped`: not all rows were rated, for their cost. Does nothing if the claim is lost."""
    with team_scope(work.team_id):
        _end(work.judgement_id, work.claim, Status.READY, figures=figures_of(ratings), is_capped=is_capped)


def fail_judgement(work: Work, message: str) -> None:
    """End a judgement that cannot succeed, with a sentence. Does nothing if the claim is lost."""
    with team_scope(work.team_id):
        _end(work.judgement_id, work.claim, Status.FAILED, error=message[:500])


def _end(judgement_id: UUID, claim: UUID, status: str, **changed: object) -> None:
    mine = Judgement.unscoped.filter(pk=judgement_id, claim=claim, status__in=Judgement.OPEN)
    if not mine.update(status=status, claim=None, ended_at=timezone.now(), **changed):
        return
    found = Judgement.unscoped.select_related("team").get(pk=judgement_id)
    audit.record(found.team, MACHINE, "judge.failed" if status == Status.FAILED else "judge.ready", found)
    logger.info("judgement %s ended: %s", judgement_id, status)


def _claimed(work: Work) -> QuerySet[Judgement]:
    return Judgement.unscoped.filter(pk=work.judgement_id, claim=work.claim, status=Status.RUNNING)


def requeue_stalled_judgements() -> int:
    """Queue judgements again whose message or worker was lost; return how many. Call it about once a minute."""
    return JUDGEMENTS.requeue_stalled()
