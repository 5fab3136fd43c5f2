"""What a checkpoint was made of, so that a run goes on only from its own: base model, rows and hyperparameters.

Settings are kept by name. One that a checkpoint does not name was added to the product later: at its default it
changes nothing, so that no release orphans the checkpoints of the one before.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from datasets_app.rendering import learned_places
from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.rows import read_messages
from gpu_worker.trainer.spec import JobFolder, TrainSpec
from gpu_worker.trainer.storage import sha256_of

# May be changed between stop and resume, since the same batches and learning rates follow.
_FREE_TO_CHANGE: Final = {
    "gpus",
    "max_minutes",
    "micro_batch_size",
    "checkpoint_every_steps",
    "evaluation_rows",
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop_texts",
    "torch_compile",
}
# Checkpoints that name no settings hold one hash of everything instead, with these whatever they were. Never to grow.
_IN_EVERY_HASH: Final = {
    "problem_type", "preference_loss", "preference_beta", "preference_margin", "epochs", "max_steps",
    "early_stopping_patience", "keep_weights", "early_stopping_metric", "learning_rate", "schedule",
    "final_learning_rate_share", "warmup_share", "batch_size", "group_by_length", "weight_decay", "max_grad_norm",
    "seed", "training_kind", "frozen_layers", "optimizer", "neftune_alpha", "lora_r", "lora_alpha", "lora_dropout",
    "lora_targets", "dora", "rslora", "lora_init", "max_length", "truncation", "long_answers", "learned_turns",
    "precision", "quantization", "divide_base_model", "gradient_checkpointing", "compile_kernels",
    "evaluations_per_epoch", "validation_rows", "sample_rows",
}  # fmt: skip


class Origin:
    """What a run is made of. Raises: TrainingError (bad_data) if its rows cannot be read."""

    def __init__(self, spec: TrainSpec, job: JobFolder) -> None:
        self._settings = spec.hyperparameters.model_dump(mode="json", exclude=_FREE_TO_CHANGE)
        self._usual = Hyperparameters().model_dump(mode="json", exclude=_FREE_TO_CHANGE)
        self._files = [path for path in (job.train_rows, job.validation_rows) if path.exists()]
        self._materials: dict[str, Any] = {
            "base_model": [spec.base_model.slug, spec.base_model.revision],
            "data": {path.name: sha256_of(path) for path in self._files},
        }
        if spec.start_adapter is not None:
            self._materials["start"] = sha256_of(spec.start_adapter / "adapter_model.safetensors")

    def manifest(self) -> dict[str, Any]:
        """Return what a checkpoint's manifest says of where it comes from."""
        return {"materials": _hash(self._materials), "settings": self._settings}

    def made(self, manifest: Mapping[str, Any]) -> bool:
        """Tell whether a checkpoint with this manifest is of this run. Raises: KeyError, TypeError on a damaged one."""
        if "settings" not in manifest:
            return manifest["identity"] in self._hashes()
        known = dict(manifest["settings"])
        same = all(known.get(name, self._usual[name]) == value for name, value in self._settings.items())
        return same and manifest["materials"] == _hash(self._materials)

    def _hashes(self) -> list[str]:
        """Return the hashes of everything that earlier releases would have written."""
        settings = {
            name: value
            for name, value in self._settings.items()
            if name in _IN_EVERY_HASH or value != self._usual[name]
        }
        found = [_hash({**self._materials, "hyperparameters": settings})]
        # The oldest learned the last answer only.
        if settings["learned_turns"] == "last" or not self._has_turns():
            without = {name: value for name, value in settings.items() if name != "learned_turns"}
            found.append(_hash({**self._materials, "hyperparameters": without}))
        return found

    def _has_turns(self) -> bool:
        """Tell whether any conversation has several answers to learn."""
        return self._settings["problem_type"] == "chat" and any(
            len(learned_places(messages)) > 1 for path in self._files for _number, messages in read_messages(path)
        )


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
