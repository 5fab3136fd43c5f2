"""What the playground can talk to: deployments, finished runs and base models, each under one short value."""

from __future__ import annotations

import time
import uuid

from django.utils.translation import gettext as _

from datasets_app.models import DatasetVersion, Split
from deployments import inference, services
from deployments.inference import Target
from deployments.models import Engine, Placement
from deployments.prompts import SampleRow, common_system_prompt, random_row
from experiments.models import Run
from portal import audit
from portal.actors import Actor
from portal.errors import NotFound, Unavailable
from portal.models import BaseModel, Team
from portal.rls import team_scope

DEPLOYMENT, RUN, BASE = "deployment", "run", "base"
RUNS_OFFERED = 50
# An adapter is loaded within about a second; who waits for it is better served by patience than by an error.
LOADING_PATIENCE_S = 15.0
_LOOK_EVERY_S = 0.25


def choices(team: Team) -> list[tuple[str, str]]:
    """Return (value, label) of all that can be talked to: deployments, then runs, newest first, then base models."""
    deployments = team.deployments.filter(is_running=True, live_version__isnull=False).select_related("live_version")
    runs = team.runs.filter(adapter__isnull=False).select_related("experiment").order_by("-queued_at")
    served = BaseModel.objects.filter(is_allowed=True, engines__status=Engine.Status.READY).distinct()
    offered = [
        (
            f"{DEPLOYMENT}:{deployment.name}",
            _("%(name)s (deployed, version %(number)d)")
            % {"name": deployment.name, "number": deployment.live_version.number if deployment.live_version else 0},
        )
        for deployment in deployments
    ]
    offered += [(f"{RUN}:{run.pk}", str(run)) for run in runs[:RUNS_OFFERED]]
    offered += [(f"{BASE}:{model.slug}", _("%(name)s (untuned)") % {"name": model.name}) for model in served]
    return offered


def resolve(team: Team, value: str, *, patience_s: float = LOADING_PATIENCE_S) -> Target:
    """Return where to ask for a choice; a run's adapter is loaded for it, for which this waits a moment.

    Opens scopes itself. Raises: as `inference.resolve`.
    """
    kind, _colon, name = value.partition(":")
    if kind == DEPLOYMENT:
        return inference.resolve(team, name)
    if kind == BASE:
        return inference.resolve_base_model(name)
    with team_scope(team.pk):  # a scope of its own: not being loaded yet must not roll back the wish to be
        warm(team, value)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with team_scope(team.pk):
                return _resolve_run(run_of(team, value))
        except Unavailable as error:
            if error.code != "model_loading" or time.monotonic() > deadline:
                raise
        time.sleep(_LOOK_EVERY_S)


def warm(team: Team, value: str) -> Placement | None:
    """Have the adapter behind a choice loaded, or its stay renewed; None if there is none to load."""
    if value.partition(":")[0] != RUN:
        return None
    return services.ensure_placement(adapter=run_of(team, value).adapter)


def system_prompt(team: Team, value: str) -> str:
    """Return the system prompt with which the model behind a choice was taught."""
    kind, _colon, name = value.partition(":")
    if kind == DEPLOYMENT:
        live = team.deploymentversions.filter(live_in__name=name).first()
        return live.system_prompt if live is not None else ""
    return common_system_prompt(run_of(team, value).dataset_version) if kind == RUN else ""


def sample(team: Team, value: str, actor: Actor) -> SampleRow:
    """Return a validation row by chance, from the dataset that the model behind a choice learned from.

    Raises: NotFound if there is none.
    """
    version = _dataset_version(team, value)
    row = random_row(version, Split.VALIDATION) if version is not None else None
    if version is None or row is None:
        raise NotFound(_("There are no validation rows to take."))
    audit.read(team, actor, "dataset.rows_read", version, split=Split.VALIDATION.value)
    return row


def run_of(team: Team, value: str) -> Run:
    """Return the run with an adapter behind a choice. Raises: NotFound."""
    kind, _colon, key = value.partition(":")
    runs = team.runs.filter(adapter__isnull=False).select_related(
        "adapter__base_model", "dataset_version", "experiment"
    )
    identifier = _uuid(key) if kind == RUN else None
    run = runs.filter(pk=identifier).first() if identifier is not None else None
    if run is None:
        raise inference.model_not_found()
    return run


def _resolve_run(run: Run) -> Target:
    prompt = common_system_prompt(run.dataset_version)
    return inference.resolve_adapter(run.team, run.adapter, f"run-{run.pk}", system_prompt=prompt)


def _dataset_version(team: Team, value: str) -> DatasetVersion | None:
    kind, _colon, name = value.partition(":")
    if kind == RUN:
        return run_of(team, value).dataset_version
    if kind == DEPLOYMENT:
        live = (
            team.deploymentversions.filter(live_in__name=name).select_related("adapter__run__dataset_version").first()
        )
        return live.adapter.run.dataset_version if live is not None else None
    latest = team.runs.filter(adapter__isnull=False).select_related("dataset_version").order_by("-queued_at").first()
    return latest.dataset_version if latest is not None else None


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
