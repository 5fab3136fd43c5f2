"""Whether a training can succeed as far as that is known before it waits for a node; each refusal says what to change.

What settings do not allow each other is decided in `experiments.paths`, by which the trainer goes too.
"""

from __future__ import annotations

import json
from pathlib import Path

from django.utils.translation import gettext as _

from datasets_app.models import DatasetVersion
from experiments.hyperparameters import Hyperparameters
from experiments.paths import Contradiction, contradiction, too_many_frozen
from experiments.situations import counted_tokens
from portal.errors import InvalidInput
from portal.models import BaseModel, Node


def require_possible(
    chosen: Hyperparameters, base_model: BaseModel, version: DatasetVersion, *, deploy_as: str = ""
) -> None:
    """Refuse what is known to fail later: by itself, with this model or these rows, on the nodes that there are.

    Call it in the team's row scope. Raises: InvalidInput naming the setting.
    """
    if against := contradiction(chosen) or _against_layers(chosen, base_model):
        raise _refused(against)
    _require_nodes(chosen)
    _require_short_answers(chosen, base_model, version)
    if deploy_as and chosen.dora and chosen.training_kind == "lora":
        raise InvalidInput(
            _("Adapters with DoRA cannot be deployed here. Switch DoRA off, or leave the deployment's name empty."),
            param="deploy_as",
        )


def _refused(against: Contradiction) -> InvalidInput:
    facts = {name: _(fact) if isinstance(fact, str) else fact for name, fact in against.facts.items()}
    return InvalidInput(_(against.text) % facts, param=against.param, code="bad_settings")


def _against_layers(chosen: Hyperparameters, base_model: BaseModel) -> Contradiction | None:
    layers = _layers(base_model.folder) if chosen.frozen_layers else None
    return too_many_frozen(chosen, layers) if layers else None


def _layers(folder: Path) -> int | None:
    """Return how many layers a base model has, None if its files cannot be read here: then the node will say so."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = config.get("text_config") or config
        return int(text["num_hidden_layers"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _require_nodes(chosen: Hyperparameters) -> None:
    """Refuse what none of the nodes that answer can do; without any, nobody knows. Raises: InvalidInput."""
    devices = list(Node.objects.live().values_list("device", flat=True))
    if not devices:
        return
    if chosen.optimizer.startswith("paged") and all(device.startswith("CPU") for device in devices):
        raise InvalidInput(
            _("The paged optimizer needs a GPU, and no node has one. Choose AdamW, or AdamW with 8-bit memory."),
            param="optimizer",
            code="bad_settings",
        )
    if chosen.precision == "int8" and all(device and not device.startswith("CPU") for device in devices):
        raise InvalidInput(
            _(
                "8-bit arithmetic is for CPUs, and every node has a GPU. Choose the number format Automatic, and "
                "compress the base model to 8 bit."
            ),
            param="precision",
            code="bad_settings",
        )


def _require_short_answers(chosen: Hyperparameters, base_model: BaseModel, version: DatasetVersion) -> None:
    """Refuse answers that the doctor has found to be longer than the longest row. Raises: InvalidInput."""
    if chosen.long_answers != "refuse" or chosen.problem_type == "pretraining":
        return
    longest = counted_tokens(version, base_model).get("longest_answers", {}).get("train", 0)
    # at least one token of the prompt stands before an answer
    if longest >= chosen.max_length:
        raise InvalidInput(
            _(
                "The longest answer has %(longest)d tokens and does not fit into %(limit)d. Raise the longest row, "
                "shorten the answer, or choose to leave such rows out."
            )
            % {"longest": longest, "limit": chosen.max_length},
            param="max_length",
            code="bad_settings",
        )
