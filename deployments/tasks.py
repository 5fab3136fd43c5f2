"""What the queue calls: short, repeatable."""

from __future__ import annotations

import logging
from uuid import UUID

from django.utils.translation import gettext as _

from deployments import exports_lifecycle, metering, request_log, request_totals, services
from deployments.openai_api import batches, files, job_words, jobs, repeats
from deployments.webhooks import sending
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
    _keep_results(run)
    with team_scope(run.team_id):
        if run.team.deploymentversions.filter(deployment__name=run.deploy_as, adapter__result_of=run).exists():
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
        words = {"name": run.deploy_as, "number": version.number}
        deployment = run.team.deployments.get(pk=version.deployment_id)
        if version.pk not in (deployment.live_version_id, deployment.next_version_id):
            _note(run, _("Version %(number)d of %(name)s is kept, but the team's rules hold it back.") % words)
            return
        run.events.create(
            team=run.team, kind="deployment", message=_("Deployed as %(name)s, version %(number)d.") % words
        )


def _keep_results(run: Run) -> None:
    with team_scope(run.team_id):
        job = run.team.finetuningjobs.filter(run=run).select_related("team").first()
        if job is not None:
            try:
                job_words.keep_results(job)
            except PortalError as error:
                _note(run, _("The file of figures could not be kept: %(reason)s") % {"reason": error.message})


def prepare_fine_tuning(job_id: str) -> None:
    """Check the files of a fine-tuning job, import them and submit its run."""
    jobs.prepare(UUID(job_id))


def run_batch(batch_id: str) -> None:
    """Work on a batch for a moment."""
    batches.work(UUID(batch_id))


def send_webhook(delivery_id: str) -> None:
    """Try one delivery of a webhook."""
    sending.send(UUID(delivery_id))


def count_requests() -> int:
    """Keep up the counts for monitoring; return how many requests were new."""
    return request_totals.count()


def sweep_api() -> int:
    """Go on with what lost messages left behind under /v1; return how much that was."""
    counted, went_on = metering.take_up(), jobs.sweep() + batches.sweep()
    return counted + went_on + job_words.keep_missing_results() + sending.sweep()


def prune_api() -> int:
    """Delete files under /v1 whose time is up, and forget kept answers and old deliveries; return how many."""
    return files.prune() + repeats.prune() + sending.prune()


def prune() -> int:
    """Delete what was kept for a time that is over, and queue lost exports again; return how many texts those were."""
    exports_lifecycle.prune()
    exports_lifecycle.EXPORTS.requeue_stalled()
    return request_log.prune()


def _note(run: Run, message: str) -> None:
    logger.warning("run %s: what was to follow its end was left out", run.pk)
    run.events.create(team=run.team, kind="deployment", level="warning", message=message)
