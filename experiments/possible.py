"""Whether a training can succeed as far as that is known before it waits for a node; each refusal says what to change.

What settings do not allow each other is decided in `experiments.paths`, by which the trainer goes too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property

from django.utils.translation import gettext as _

from datasets_app.models import DatasetVersion
from experiments.hyperparameters import Hyperparameters
from experiments.paths import Contradiction, contradiction, too_many_frozen
from experiments.placing import require_gpus
from experiments.situations import counted_tokens
from experiments.target_layers import require_named_layers
from portal.errors import InvalidInput
from portal.models import BaseModel, Node


def require_possible(
    chosen: Sequence[Hyperparameters], base_model: BaseModel, version: DatasetVersion, *, deploy_as: str = ""
) -> None:
    """Refuse what is known to fail later: by itself, with this model or these rows, on the nodes that there are.

    Call it in the team's row scope. Raises: InvalidInput naming the setting.
    """
    known = _Known(base_model, version)
    for one in chosen:
        if against := contradiction(one) or _against_layers(one, known):
            raise _refused(against)
        _require_nodes(one, known)
        _require_short_answers(one, known)
        require_named_layers(base_model, one)
        if deploy_as and one.dora and one.training_kind == "lora":
            raise InvalidInput(
                _("Adapters with DoRA cannot be deployed here. Switch DoRA off, or leave the deployment's name empty."),
                param="deploy_as",
            )
    require_gpus(max(one.gpus for one in chosen))


class _Known:
    """What is looked up for a choice, once for all runs of a sweep and only where one of them asks."""

    def __init__(self, base_model: BaseModel, version: DatasetVersion) -> None:
        self._base_model = base_model
        self._version = version

    @cached_property
    def layers(self) -> int | None:
        """How many layers the base model has, None if its files cannot be read here: then the node will say so."""
        try:
            config = json.loads((self._base_model.folder / "config.json").read_text(encoding="utf-8"))
            text = config.get("text_config") or config
            return int(text["num_hidden_layers"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @cached_property
    def live_nodes(self) -> list[Node]:
        return list(Node.objects.live())

    @cached_property
    def longest_answer(self) -> int:
        """Tokens of the longest answer to learn, 0 if the doctor has not counted by the base model's tokenizer."""
        return int(counted_tokens(self._version, self._base_model).get("longest_answers", {}).get("train", 0))


def _refused(against: Contradiction) -> InvalidInput:
    facts = {name: _(fact) if isinstance(fact, str) else fact for name, fact in against.facts.items()}
    return InvalidInput(_(against.text) % facts, param=against.param, code="bad_settings")


def _against_layers(chosen: Hyperparameters, known: _Known) -> Contradiction | None:
    return too_many_frozen(chosen, known.layers) if chosen.frozen_layers and known.layers else None


def _require_nodes(chosen: Hyperparameters, known: _Known) -> None:
    """Refuse what none of the nodes that answer can do; without any, nobody knows. Raises: InvalidInput."""
    has_gpus = {node.has_gpus for node in known.live_nodes}
    if chosen.optimizer.startswith("paged") and has_gpus == {False}:
        raise InvalidInput(
            _("The paged optimizer needs a GPU, and no node has one. Choose AdamW, or AdamW with 8-bit memory."),
            param="optimizer",
            code="bad_settings",
        )
    if chosen.precision == "int8" and has_gpus == {True}:
        raise InvalidInput(
            _(
                "8-bit arithmetic is for CPUs, and every node has a GPU. Choose the number format Automatic, and "
                "compress the base model to 8 bit."
            ),
            param="precision",
            code="bad_settings",
        )


def _require_short_answers(chosen: Hyperparameters, known: _Known) -> None:
    """Refuse answers that the doctor has found to be longer than the longest row. Raises: InvalidInput."""
    if chosen.long_answers != "refuse" or chosen.problem_type == "pretraining":
        return
    # at least one token of the prompt stands before an answer
    if known.longest_answer >= chosen.max_length:
        raise InvalidInput(
            _(
                "The longest answer has %(longest)d tokens and does not fit into %(limit)d. Raise the longest row, "
                "shorten the answer, or choose to leave such rows out."
            )
            % {"longest": known.longest_answer, "limit": chosen.max_length},
            param="max_length",
            code="bad_settings",
        )
