"""How a run is computed, in a sentence: as its trainer tells it, or before the start as far as it is known then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _

from experiments.hyperparameters import Hyperparameters
from experiments.paths import reason_for_general_path

if TYPE_CHECKING:
    from experiments.models import Run


def told_by(started: Mapping[str, Any]) -> str:
    """Return which way a trainer has chosen and why, from its `started` event; empty if it did not say."""
    why = started.get("why")
    if not isinstance(why, str) or not why:
        return ""
    if started.get("path") == "fast":
        return _("Computed the fast way, written by hand for such models: %(why)s.") % {"why": why}
    return _("Computed the general way, by transformers and PEFT: %(why)s.") % {"why": why}


def plan_sentence(run: Run) -> str:
    """Return which way a run is computed and why; empty as long as nobody knows. Call it in the team's row scope."""
    if told := told_by(run.facts.get("started", {})):
        return told
    if run.is_evaluation or run.is_terminal:
        return ""
    if told := told_by(_trial_of(run).get("started", {})):
        return _("As in its trial: %(sentence)s") % {"sentence": told}
    try:
        reason = reason_for_general_path(Hyperparameters.model_validate(run.hyperparameters))
    except ValueError:  # what may be chosen has changed since
        return ""
    if reason is None:
        return ""
    return _("It will be computed the general way, by transformers and PEFT: %(why)s.") % {"why": _(reason)}


def _trial_of(run: Run) -> Mapping[str, Any]:
    """Return what the newest good trial of the same training has told, empty if there was none."""
    alike = run.experiment.runs.filter(
        kind=run.Kind.PREFLIGHT,
        status=run.Status.SUCCEEDED,
        config_hash=run.config_hash,
        dataset_version_id=run.dataset_version_id,
        base_model_id=run.base_model_id,
        base_revision=run.base_revision,
    )
    found: Mapping[str, Any] | None = alike.order_by("-queued_at").values_list("facts", flat=True).first()
    return found or {}
