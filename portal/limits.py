"""What platform admins decide about quotas: limits for all teams, and for one. What is decided holds at once."""

from __future__ import annotations

from django.db import transaction
from django.utils.translation import gettext as _

from portal import audit
from portal.actors import Actor
from portal.errors import InvalidInput
from portal.models import PlatformLimit, Quota, Team
from portal.queue import enqueue_on_commit
from portal.rls import all_teams, fetch_in_all_teams, team_scope

# The scheduler keeps the limit of running trainings on the team's own row, in a small number.
_MOST_RUNS = 32_767
_MOST = 2**53  # numbers beyond it are no longer exact in a browser


def default_limits() -> dict[Quota, int | None]:
    """Return the limits of teams that have none of their own; None: no limit."""
    kinds = [kind.value for kind in Quota]
    rows = fetch_in_all_teams(
        "limits of no team in particular",
        "SELECT kind, portal_limit(NULL, kind) FROM unnest(%s::text[]) AS wanted (kind)",
        [kinds],
    )
    return {Quota(kind): value for kind, value in rows}


def own_limits(team: Team) -> dict[Quota, int | None]:
    """Return the limits that the team has of its own."""
    with team_scope(team.pk):
        return {Quota(kind): value for kind, value in team.teamlimits.values_list("kind", "value")}


def default_runs() -> int:
    """Return how many trainings a new team may run at the same time."""
    return _as_runs(default_limits()[Quota.CONCURRENT_RUNS])


@transaction.atomic
def set_default(*, kind: Quota, value: int | None, actor: Actor) -> None:
    """Set the limit of all teams that have none of their own; None takes it away."""
    value = _checked(kind, value)
    before = default_limits()[kind]
    if before == value:
        return
    PlatformLimit.objects.update_or_create(kind=kind, defaults={"value": value})
    if kind == Quota.CONCURRENT_RUNS:
        with all_teams("a limit of all teams changes"):
            others = Team.objects.exclude(teamlimits__kind=kind)
            others.update(max_concurrent_runs=_as_runs(value))
    audit.record(None, actor, "limit.default_changed", kind=kind.value, value=value, before=before)
    _let_runs_start(kind)


@transaction.atomic
def set_team_limit(*, team: Team, kind: Quota, value: int | None, actor: Actor) -> None:
    """Give a team a limit of its own; None: this team has no limit. Raises: InvalidInput."""
    value = _checked(kind, value)
    with team_scope(team.pk):
        own = own_limits(team)
        if kind in own and own[kind] == value:
            return
        team.teamlimits.update_or_create(kind=kind, defaults={"value": value})
        _keep_runs(team, kind, value)
        audit.record(team, actor, "limit.changed", team, kind=kind.value, value=value)
    _let_runs_start(kind)


@transaction.atomic
def clear_team_limit(*, team: Team, kind: Quota, actor: Actor) -> None:
    """Let the platform's limit hold for a team again."""
    with team_scope(team.pk):
        deleted, _rows = team.teamlimits.filter(kind=kind).delete()
        if not deleted:
            return
        _keep_runs(team, kind, default_limits()[kind])
        audit.record(team, actor, "limit.cleared", team, kind=kind.value)
    _let_runs_start(kind)


def _checked(kind: Quota, value: int | None) -> int | None:
    if value is not None and not 0 <= value <= _MOST:
        raise InvalidInput(_("A limit is a whole number that is not negative."), param=kind.value)
    return value


def _keep_runs(team: Team, kind: Quota, value: int | None) -> None:
    if kind == Quota.CONCURRENT_RUNS:
        team.max_concurrent_runs = _as_runs(value)
        team.save(update_fields=["max_concurrent_runs"])


def _as_runs(value: int | None) -> int:
    return _MOST_RUNS if value is None else min(value, _MOST_RUNS)


def _let_runs_start(kind: Quota) -> None:
    if kind in (Quota.GPU_SECONDS, Quota.CONCURRENT_RUNS):
        enqueue_on_commit("experiments.tasks.dispatch")
