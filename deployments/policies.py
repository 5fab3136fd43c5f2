"""The team's rules for promoting versions: who may change them, and within which bounds."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _

from deployments import gate
from deployments.models import PromotionPolicy
from portal import audit
from portal.access import may_administer
from portal.actors import Actor
from portal.errors import Forbidden, InvalidInput
from portal.models import Team

SHARES = ("min_macro_f1", "max_f1_drop", "max_recall_drop", "max_invalid_json", "max_median_rise")
LONGEST_MS = 600_000


@transaction.atomic
def set_policy(
    *,
    team: Team,
    actor: Actor,
    is_on: bool,
    shares: dict[str, float | None],
    max_median_ms: int | None,
    needs_same_rows: bool = False,
) -> PromotionPolicy:
    """Replace the team's rules. `shares` lie in 0..1 by the names in SHARES; what is None or missing is not asked.

    Raises: Forbidden for everybody but admins, InvalidInput naming the rule.
    """
    if not may_administer(team, actor):
        raise Forbidden(_("Only an admin of the team may change the rules for promoting versions."))
    for name in SHARES:
        share = shares.get(name)
        if share is not None and not 0 <= share <= 1:
            raise InvalidInput(_("A share lies between 0 and 100 percent."), param=name)
    if max_median_ms is not None and not 1 <= max_median_ms <= LONGEST_MS:
        raise InvalidInput(_("A time lies between 1 and 600,000 ms."), param="max_median_ms")
    Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    policy = gate.policy_of(team)
    policy.is_on, policy.max_median_ms = is_on, max_median_ms
    policy.needs_same_rows = needs_same_rows
    for name in SHARES:
        setattr(policy, name, shares.get(name))
    policy.save()
    told: dict[str, Any] = {name: shares.get(name) for name in SHARES}
    told |= {"max_median_ms": max_median_ms, "needs_same_rows": needs_same_rows}
    audit.record(team, actor, "deployment.policy_changed", policy, is_on=is_on, **told)
    return policy
