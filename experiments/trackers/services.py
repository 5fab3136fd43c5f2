"""What admins of a team do with its tracker: name one, try it, let it go."""

from __future__ import annotations

from typing import Final

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from experiments.trackers.models import LONGEST_ADDRESS, LONGEST_EXPERIMENT, TrackedRun, TrackerSetting
from portal import audit, reachable
from portal.access import may_administer
from portal.actors import Actor
from portal.errors import Forbidden, InvalidInput, NotFound
from portal.models import Team, TeamSecret

DEFAULT_EXPERIMENT: Final = "Tuneport"


@transaction.atomic
def set_tracker(
    *, team: Team, actor: Actor, address: str, experiment: str = DEFAULT_EXPERIMENT, secret: str = ""
) -> TrackerSetting:
    """Copy what the team's runs measure from now on to this tracker, instead of to the one before.

    `secret`: the name of a stored key. Runs that are at work are told anew where address or experiment change.
    Raises: Forbidden for everybody but admins; InvalidInput; OutboundRefused for an address as it is written. Whether
    it may be reached is checked each time it is asked, since names change their addresses.
    """
    actor.require_self()
    _require_admin(team, actor)
    address, experiment = address.strip().rstrip("/"), experiment.strip()
    _check(team, address, experiment, secret)
    Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    found: TrackerSetting | None = team.trackersettings.first()
    setting = found or TrackerSetting(team=team)
    has_moved = (setting.address, setting.experiment) != (address, experiment)
    setting.address, setting.experiment, setting.secret = address, experiment, secret
    setting.updated_by = actor.user
    setting.save()
    open_ones = team.trackedruns.filter(status=TrackedRun.Status.OPEN)
    if has_moved:
        open_ones.update(sent_point=0, sent_step=0, problem="")
        team.trackedruns.update(experiment_id="", external_id="")  # ids of the earlier one lead nowhere at this one
    else:  # what was given up for a wrong key goes on with the right one
        team.trackedruns.filter(status=TrackedRun.Status.FAILED).update(status=TrackedRun.Status.OPEN)
    open_ones.update(attempts=0, next_try_at=timezone.now())  # a try that is under way writes nothing down any more
    audit.record(team, actor, "tracker.set", setting, address=address, experiment=experiment)
    return setting


def tracker_of(*, team: Team, actor: Actor) -> TrackerSetting:
    """Return the team's tracker. Raises: Forbidden for everybody but admins, NotFound if it has none."""
    _require_admin(team, actor)
    setting: TrackerSetting | None = team.trackersettings.select_related("team").first()
    if setting is None:
        raise NotFound(_("The team has no tracker."), code="no_tracker")
    return setting


@transaction.atomic
def remove_tracker(*, setting: TrackerSetting, actor: Actor) -> None:
    """Copy nothing any more; what was copied stays there, and so does the key. Raises: Forbidden for all but admins."""
    _require_admin(setting.team, actor)
    audit.record(setting.team, actor, "tracker.removed", setting, address=setting.address)
    setting.delete()


def _require_admin(team: Team, actor: Actor) -> None:
    if not may_administer(team, actor):
        raise Forbidden(_("Only an admin of the team may say where its figures are copied to."))


def _check(team: Team, address: str, experiment: str, secret: str) -> None:
    if not 0 < len(address) <= LONGEST_ADDRESS:
        raise InvalidInput(_("An address has 1 to 500 characters."), param="address")
    try:
        reachable.require_well_formed(address)
    except reachable.OutboundRefused as error:
        raise InvalidInput(error.message, param="address", code=error.code) from None
    if "?" in address or "#" in address:
        raise InvalidInput(_("Write the server's address without ? and #."), param="address")
    if not (0 < len(experiment) <= LONGEST_EXPERIMENT and experiment.isprintable()):
        raise InvalidInput(_("Name the experiment in 1 to 200 visible characters."), param="experiment")
    known = team.teamsecrets.filter(name=secret, kind=TeamSecret.Kind.TRACKER_KEY)
    if secret and not known.exists():
        message = _("The team has no secret “%(name)s” that is a key of a tracker. Store it under Secrets.")
        raise InvalidInput(message % {"name": secret[:60]}, param="secret", code="secret_missing")
