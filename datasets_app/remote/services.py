"""What people and programs may do with sources elsewhere: have them fetched, and try again."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app import services
from datasets_app.claims import Claims
from datasets_app.models import Dataset, DatasetVersion, RemoteFetch
from datasets_app.remote.spec import SECRET_KINDS, read_source, shown_address
from portal import audit, reachable
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput, RateLimited
from portal.models import Team

MOST_AT_ONCE: Final = 4
# A worker reports at least as often as bytes come; the other side may be silent for 30 seconds.
FETCHES: Final = Claims(
    RemoteFetch,
    open=(RemoteFetch.Status.QUEUED, RemoteFetch.Status.RUNNING),
    task="datasets_app.tasks.fetch_version",
    stalled_after=timedelta(seconds=150),
    called="fetches",
    key="version_id",
)


@transaction.atomic
def start_fetch(
    *,
    team: Team,
    actor: Actor,
    name: str,
    source: object,
    description: str = "",
    dataset: Dataset | None = None,
    begin: Mapping[str, object] | None = None,
) -> DatasetVersion:
    """Make a version whose files a worker fetches: FETCHING, then DRAFT; with `begin` it is imported at once.

    Raises: InvalidInput for the source, its secret and the name; OutboundRefused for an address as it is written.
    """
    chosen = read_source(source)
    _require_secret(team, chosen)
    for entry in ("url", "endpoint"):
        if chosen.get(entry):
            reachable.require_well_formed(chosen[entry])
    _require_turn(team)
    version = services.new_version(
        team=team,
        actor=actor,
        name=name,
        description=description,
        dataset=dataset,
        status=DatasetVersion.Status.FETCHING,
    )
    team.remotefetchs.create(
        version=version, source=chosen, begin=dict(begin) if begin is not None else None, created_by=actor.user,
        heartbeat_at=timezone.now(),
    )  # fmt: skip
    audit.record(team, actor, "dataset.fetch_started", version, kind=chosen["kind"], address=shown_address(chosen))
    FETCHES.enqueue(version.pk)
    return version


@transaction.atomic
def fetch_again(*, version: DatasetVersion, actor: Actor) -> None:
    """Queue a fetch that failed once more. Raises: IllegalTransition in another state."""
    fetch = version.team.remotefetchs.select_for_update().filter(version=version).first()
    if fetch is None or fetch.status != RemoteFetch.Status.FAILED:
        raise IllegalTransition(_("This version is not waiting to be fetched again."), code="not_failed")
    fetch.status, fetch.error, fetch.error_code, fetch.claim = RemoteFetch.Status.QUEUED, "", "", None
    fetch.attempts, fetch.bytes_done, fetch.bytes_total, fetch.heartbeat_at = 0, 0, None, timezone.now()
    fetch.created_by = actor.user
    fetch.save()
    audit.record(version.team, actor, "dataset.fetch_started", version, kind=fetch.source["kind"])
    FETCHES.enqueue(version.pk)


def _require_turn(team: Team) -> None:
    """Keep one team from taking all the network. Raises: RateLimited."""
    Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    waiting = team.remotefetchs.filter(
        status__in=(RemoteFetch.Status.QUEUED, RemoteFetch.Status.RUNNING), version__deleted_at=None
    )
    if waiting.count() >= MOST_AT_ONCE:
        message = _("%(count)d sources are being fetched for the team already. Wait until one of them is here.")
        raise RateLimited(message % {"count": MOST_AT_ONCE}, code="too_many_fetches")


def _require_secret(team: Team, source: Mapping[str, str]) -> None:
    """Make sure that the team has the named secret, of the right kind, before anything is queued."""
    name = source.get("secret", "")
    if name and not team.teamsecrets.filter(name=name, kind=SECRET_KINDS[source["kind"]]).exists():
        message = _("The team has no secret “%(name)s” of the kind that this source needs. Store it under Secrets.")
        raise InvalidInput(message % {"name": name}, param="source.secret", code="secret_missing")
