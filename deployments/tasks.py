"""What the queue calls: short, repeatable."""

from __future__ import annotations

import logging

from django.utils.translation import gettext as _

from deployments import services
from experiments.models import Run
from portal.access import may_still_edit
from portal.actors import Actor
from portal.errors import PortalError
from portal.rls import all_teams, team_scope

logger = logging.getLogger(__name__)


def deploy_finished_run(run_id: str) -> None:
    """Deploy a run under the name that its submitter chose, with their rights of today; once, however often called."""
    with all_teams("a run's id leads to its team"):
        run = Run.unscoped.select_related("team", "created_by", "dataset_version").filter(pk=run_id).first()
    if run is None or not run.deploy_as:
        return
    with team_scope(run.team_id):
        if run.team.deploymentversions.filter(deployment__name=run.deploy_as, adapter__run=run).exists():
            return
        if not may_still_edit(run.team, run.created_by):
            _note(run, _("Not deployed: the person who submitted this run may no longer deploy models."))
            return
        actor = Actor(user=run.created_by, machine="deploy when finished")
        try:
            version = services.deploy_run(team=run.team, actor=actor, run=run, name=run.deploy_as)
        except PortalError as error:
            _note(run, _("Not deployed: %(reason)s") % {"reason": error.message})
            return
        run.events.create(
            team=run.team,
            kind="deployment",
            message=_("Deployed as %(name)s, version %(number)d.") % {"name": run.deploy_as, "number": version.number},
        )


def _note(run: Run, message: str) -> None:
    logger.warning("run %s is not deployed", run.pk)
    run.events.create(team=run.team, kind="deployment", level="warning", message=message)
