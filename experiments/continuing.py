"""Going on from the adapter of an earlier run: what the new run has to have in common with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

from experiments import kept
from experiments.hyperparameters import Hyperparameters, form_fields
from experiments.models import Adapter, Run
from portal.errors import InvalidInput, NotFound, Unavailable
from portal.models import BaseModel


def required_settings(parent: Run, step: int | None = None) -> dict[str, Any]:
    """Return the hyperparameters without which a run cannot take up the parent's adapter, read off the adapter.

    `step`: of the checkpoint that is meant, None for the parent's result.
    Raises: InvalidInput if the parent has left none, Unavailable if its files are not on this server.
    """
    folder = _folder(parent, step)
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        rank = int(config["r"])
    except (OSError, ValueError, LookupError, TypeError):
        raise Unavailable(_("The adapter's files are missing on this server, or damaged.")) from None
    was_full = parent.hyperparameters.get("training_kind") == "full"
    return {
        "training_kind": "lora",
        "lora_init": "default",
        "lora_r": rank,
        "dora": bool(config.get("use_dora")),
        "frozen_layers": parent.hyperparameters.get("frozen_layers", 0),
        "lora_targets": "all-linear" if was_full else parent.hyperparameters.get("lora_targets", "all-linear"),
        "lora_target_names": "" if was_full else parent.hyperparameters.get("lora_target_names", ""),
    }


def _folder(parent: Run, step: int | None) -> Path:
    adapter: Adapter | None = getattr(parent, "adapter", None)
    if adapter is None:
        raise InvalidInput(
            _("%(run)s has left no adapter to continue from. Choose a run that has succeeded.") % {"run": parent},
            param="continue_from",
        )
    folder = adapter.folder if step in (None, adapter.step) else kept.kept_folder(parent, step or 0)
    if folder is None:
        raise InvalidInput(
            _("%(run)s has kept no weights of step %(step)d to continue from.") % {"run": parent, "step": step},
            param="continue_step",
        )
    return folder


def start_adapter(parent: Run, step: int | None) -> Adapter | None:
    """Return the adapter of the parent's checkpoint where a run starts; None if that is simply its result.

    Call it in the team's row scope, in a transaction. Raises: NotFound, QuotaExceeded.
    """
    return None if step in (None, parent.adapter.step) else kept.adapter_of(parent, step or 0)


def require_continuable(
    parent: Run, *, team_id: object, base_model: BaseModel, chosen: Hyperparameters, step: int | None = None
) -> None:
    """Refuse to continue from an adapter that the new run could not take up.

    Raises: NotFound for runs of other teams, InvalidInput naming the setting that has to be another one.
    """
    if parent.team_id != team_id:
        raise NotFound(_("There is no such run."), param="continue_from")
    required = required_settings(parent, step)
    if (parent.base_model_id, parent.base_revision) != (base_model.pk, base_model.revision):
        raise InvalidInput(
            _("%(run)s has tuned %(model)s in another revision or another base model; an adapter fits one only.")
            % {"run": parent, "model": parent.base_model.slug},
            param="base_model",
        )
    labels = {info.name: info.label for info in form_fields()}
    for name, value in required.items():
        if getattr(chosen, name) != value:
            raise InvalidInput(
                _("A run that continues from %(run)s needs “%(setting)s” as %(value)s, like its adapter.")
                % {"run": parent, "setting": _(labels[name]), "value": value},
                param=name,
            )
