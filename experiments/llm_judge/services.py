"""What people may do with a judge: say whom the team asks, and have answers rated."""

from __future__ import annotations

import random

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from experiments.llm_judge.lifecycle import JUDGEMENTS
from experiments.llm_judge.models import Judgement, JudgeSetting
from experiments.llm_judge.rubric import MOST_ROWS
from experiments.models import Evaluation
from portal import audit, outbound
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput, NotFound
from portal.models import Team, TeamSecret


@transaction.atomic
def set_judge(
    *, team: Team, actor: Actor, address: str, model: str, secret: str, rubric: str, rows: int
) -> JudgeSetting:
    """Say whom the team asks to rate answers, in place of whom it asked before.

    Raises: InvalidInput; OutboundRefused for an address as it is written. Whether it may be reached is checked when
    it is asked, since names change their addresses.
    """
    actor.require_self()
    outbound.require_well_formed(address)
    _check(team, model, secret, rubric, rows)
    Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    found: JudgeSetting | None = team.judgesettings.first()
    setting = found or JudgeSetting(team=team)
    setting.address, setting.model, setting.secret = address.rstrip("/"), model.strip(), secret
    setting.rubric, setting.rows, setting.updated_by = rubric.strip(), rows, actor.user
    setting.save()
    audit.record(team, actor, "judge.set", setting, address=setting.address, model=setting.model)
    return setting


@transaction.atomic
def remove_judge(*, setting: JudgeSetting, actor: Actor) -> None:
    """Ask nobody any more; what was judged stays."""
    audit.record(setting.team, actor, "judge.removed", setting)
    setting.delete()


@transaction.atomic
def ask_judge(*, evaluation: Evaluation, actor: Actor) -> Judgement:
    """Queue the rating of some held-out rows.

    Raises: NotFound without a judge, IllegalTransition while one is at work.
    """
    team = evaluation.team
    setting: JudgeSetting | None = team.judgesettings.first()
    if setting is None:
        raise NotFound(_("The team has no judge yet. A team admin can set one."), code="no_judge")
    try:
        with transaction.atomic():
            judgement = Judgement(
                team=team,
                evaluation=evaluation,
                address=setting.address,
                model=setting.model,
                secret=setting.secret,
                rubric=setting.rubric,
                rows=min(setting.rows, evaluation.rows),
                created_by=actor.user,
                heartbeat_at=timezone.now(),
            )
            judgement.save(force_insert=True)
    except IntegrityError:
        raise IllegalTransition(_("A judge is reading these answers already. Wait for its judgement.")) from None
    audit.record(team, actor, "judge.asked", judgement, rows=judgement.rows, model=judgement.model)
    JUDGEMENTS.enqueue(judgement.pk)
    return judgement


@transaction.atomic
def cancel_judgement(*, evaluation: Evaluation, actor: Actor) -> Judgement:
    """End the judgement that waits or is at work; the judge is not asked about further rows.

    Raises: IllegalTransition if there is none.
    """
    judgement: Judgement | None = evaluation.judgements.filter(status__in=Judgement.OPEN).first()
    if judgement is None or not _end_open(judgement):
        raise IllegalTransition(_("No judge is reading these answers."))
    judgement.refresh_from_db()
    audit.record(evaluation.team, actor, "judge.cancelled", judgement, rows=judgement.done)
    return judgement


def _end_open(judgement: Judgement) -> bool:
    """Take the claim away, so that whoever works on it stops at the next row; return whether it was open still."""
    mine = judgement.evaluation.judgements.filter(pk=judgement.pk, status__in=Judgement.OPEN)
    return bool(mine.update(status=Judgement.Status.CANCELLED, claim=None, ended_at=timezone.now()))


def sampled_rows(numbers: list[int], count: int) -> list[int]:
    """Return which rows a judge rates: the same ones for the same rows, whoever asks and whenever."""
    return sorted(random.Random(0).sample(numbers, min(count, len(numbers))))  # noqa: S311 - no secret


def _check(team: Team, model: str, secret: str, rubric: str, rows: int) -> None:
    if not 0 < len(model.strip()) <= 200:
        raise InvalidInput(_("Name the model, as the endpoint calls it."), param="model")
    if not 0 < len(rubric.strip()) <= 4000:
        raise InvalidInput(_("Write what each score means, in at most 4,000 characters."), param="rubric")
    if not 1 <= rows <= MOST_ROWS:
        raise InvalidInput(_("Choose 1 to %(most)d rows.") % {"most": MOST_ROWS}, param="rows")
    known = team.teamsecrets.filter(name=secret, kind=TeamSecret.Kind.ENDPOINT_KEY)
    if secret and not known.exists():
        message = _("The team has no secret “%(name)s” that is a key of a model endpoint. Store it under Secrets.")
        raise InvalidInput(message % {"name": secret}, param="secret", code="secret_missing")
