"""What people may do with a judge: say whom the team asks, and have answers rated."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from django.db import IntegrityError, transaction
from django.db.models.functions import Length
from django.utils import timezone
from django.utils.translation import gettext as _

from experiments.llm_judge.costs import MOST_PRICE, cost_of, estimated_tokens
from experiments.llm_judge.lifecycle import JUDGEMENTS
from experiments.llm_judge.models import Judgement, JudgeSetting
from experiments.llm_judge.rubric import MOST_ROWS
from experiments.models import Evaluation
from portal import audit, reachable, secrets
from portal.access import may_administer
from portal.actors import Actor
from portal.errors import Forbidden, IllegalTransition, InvalidInput, NotFound
from portal.models import Team, TeamSecret

DEFAULT_SECRET: Final = "judge-key"  # noqa: S105 - a name


@transaction.atomic
def set_judge(
    *,
    team: Team,
    actor: Actor,
    address: str,
    model: str,
    secret: str,
    rubric: str,
    rows: int,
    key: str = "",
    prompt_price: float | None = None,
    answer_price: float | None = None,
    most_cost: float | None = None,
) -> JudgeSetting:
    """Say whom the team asks to rate answers, in place of whom it asked before.

    `secret`: the name of the endpoint's key. `key`: a key to be stored under that name, or under DEFAULT_SECRET.
    Prices are of a million tokens of questions and of replies; `most_cost` is what one judgement may cost.
    Raises: Forbidden for everybody but admins; InvalidInput; OutboundRefused for an address as it is written. Whether
    it may be reached is checked when it is asked, since names change their addresses.
    """
    actor.require_self()
    _require_admin(team, actor)
    if key:
        secret = secret or DEFAULT_SECRET
        _store_key(team, actor, secret, key)
    reachable.require_well_formed(address)
    _check(team, model, secret, rubric, rows)
    prices = _checked_prices(prompt_price or 0.0, answer_price or 0.0, most_cost)
    Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    found: JudgeSetting | None = team.judgesettings.first()
    setting = found or JudgeSetting(team=team)
    setting.address, setting.model, setting.secret = address.rstrip("/"), model.strip(), secret
    setting.rubric, setting.rows, setting.updated_by = rubric.strip(), rows, actor.user
    setting.prompt_price, setting.answer_price, setting.most_cost = prices
    setting.save()
    audit.record(team, actor, "judge.set", setting, address=setting.address, model=setting.model)
    return setting


def judge_of(*, team: Team, actor: Actor) -> JudgeSetting:
    """Return whom the team asks. Raises: Forbidden for everybody but admins, NotFound if it asks nobody."""
    _require_admin(team, actor)
    return _setting_of(team)


def _setting_of(team: Team) -> JudgeSetting:
    setting: JudgeSetting | None = team.judgesettings.first()
    if setting is None:
        raise NotFound(_("The team has no judge yet. A team admin can set one."), code="no_judge")
    return setting


@transaction.atomic
def remove_judge(*, setting: JudgeSetting, actor: Actor) -> None:
    """Ask nobody any more; what was judged stays, and so does the key. Raises: Forbidden for everybody but admins."""
    _require_admin(setting.team, actor)
    audit.record(setting.team, actor, "judge.removed", setting)
    setting.delete()


@transaction.atomic
def ask_judge(*, evaluation: Evaluation, actor: Actor, rows: int | None = None) -> Judgement:
    """Queue the rating of some held-out rows: so many as the team's admins have set, or fewer.

    Raises: NotFound without a judge, InvalidInput for more rows than that, IllegalTransition while one is at work.
    """
    team = evaluation.team
    setting = _setting_of(team)
    if rows is not None and not 1 <= rows <= setting.rows:
        raise InvalidInput(_("Choose 1 to %(most)d rows.") % {"most": setting.rows}, param="rows")
    try:
        with transaction.atomic():
            judgement = Judgement(
                team=team,
                evaluation=evaluation,
                address=setting.address,
                model=setting.model,
                secret=setting.secret,
                rubric=setting.rubric,
                rows=min(rows or setting.rows, evaluation.rows),
                prompt_price=setting.prompt_price,
                answer_price=setting.answer_price,
                most_cost=setting.most_cost,
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


@dataclass(frozen=True)
class Expected:
    """About what a judgement will take: rows, tokens of questions and replies, and their cost if prices are known."""

    rows: int
    prompt_tokens: int
    answer_tokens: int
    cost: float | None


def expected_of(setting: JudgeSetting, evaluation: Evaluation) -> Expected:
    """Return what asking the judge about an evaluation will take, by the lengths of its first rows."""
    shown = evaluation.answers.order_by("row", "id").annotate(
        around=Length("prompt") + Length("expected"), one=Length("tuned"), other=Length("untuned")
    )
    lengths = [
        around + answer
        for around, one, other in shown.values_list("around", "one", "other")[: setting.rows]
        for answer in (one, other)
    ]
    tokens = estimated_tokens(setting.rubric, lengths)
    prices = setting.prompt_price, setting.answer_price
    return Expected(len(lengths) // 2, *tokens, cost_of(*tokens, *prices) if any(prices) else None)


def _checked_prices(
    prompt_price: float, answer_price: float, most_cost: float | None
) -> tuple[float, float, float | None]:
    for name, price in {"prompt_price": prompt_price, "answer_price": answer_price}.items():
        if not 0 <= price <= MOST_PRICE:
            raise InvalidInput(_("A price is 0 or more, for a million tokens."), param=name)
    if most_cost is not None and not 0 < most_cost <= MOST_PRICE:
        raise InvalidInput(_("A limit of cost is more than 0."), param="most_cost")
    if most_cost is not None and not (prompt_price or answer_price):
        raise InvalidInput(_("A limit of cost needs a price of the tokens."), param="most_cost")
    return prompt_price, answer_price, most_cost


def _require_admin(team: Team, actor: Actor) -> None:
    if not may_administer(team, actor):
        raise Forbidden(_("Only an admin of the team may say whom it asks to rate answers."))


def _store_key(team: Team, actor: Actor, name: str, key: str) -> None:
    """Keep the endpoint's key. Raises: InvalidInput, also where the name is that of a secret for something else."""
    kind = TeamSecret.Kind.ENDPOINT_KEY
    if team.teamsecrets.filter(name=name).exclude(kind=kind).exists():
        message = _("The secret “%(name)s” is for something else. Choose another name for this key.")
        raise InvalidInput(message % {"name": name[:60]}, param="secret")
    try:
        secrets.store(team=team, kind=kind, name=name, text=key, actor=actor)
    except InvalidInput as error:
        raise InvalidInput(error.message, param={"name": "secret", "text": "key"}.get(error.param or "")) from error


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
