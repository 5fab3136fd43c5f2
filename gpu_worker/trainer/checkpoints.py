"""Saved state of a run: complete, durable, checked before it is trusted, and free of anything that runs as code.

A checkpoint is a folder `step-<n>` with `state.safetensors` (adapter, optimizer, random numbers), `progress.json`
(counters) and `manifest.json` (a SHA-256 of both, and what was being trained: see `origin`).
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpu_worker.trainer.optimizers import Optimizer
from gpu_worker.trainer.origin import Origin
from gpu_worker.trainer.parameters import AdapterParameters
from gpu_worker.trainer.storage import publish_folder, require_space, sha256_of

CHECKPOINT_FORMAT = 1
KEPT = 2  # the newest, and one before it in case the newest turns out damaged
_GROUPS = ("adapter", "best", "random")  # every other group is the optimizer's
MANIFEST, STATE, PROGRESS = "manifest.json", "state.safetensors", "progress.json"


class CheckpointError(Exception):
    """A checkpoint that must not be used; the text says why."""


@dataclass
class Progress:
    """Counters of a run; all a resumed run needs besides the tensors."""

    step: int = 0
    seconds: float = 0.0
    trained_tokens: int = 0
    trained_label_tokens: int = 0
    trained_weight: int = 0
    loss_sum: float = 0.0
    recent: list[tuple[float, int]] = field(default_factory=list)  # (summed loss, label tokens) of the last steps
    validated_step: int = -1
    validation_loss: float | None = None
    best_validation_loss: float | None = None
    best_exact_match: float | None = None  # or the macro-F1, whichever figure of the answers was chosen
    best_step: int = 0
    checks_without_gain: int = 0
    validation_seconds: float = 0.0  # part of `seconds`


@dataclass(frozen=True)
class State:
    """What a checkpoint holds, in memory. `best`: the adapter with the lowest validation loss, if that is kept.

    `optimizer`: what the optimizer remembers, by names that begin with groups of its own ("mean/", "square/" …).
    """

    progress: Progress
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor]
    random: dict[str, Tensor]


def capture(
    progress: Progress, parameters: AdapterParameters, optimizer: Optimizer, best: Mapping[str, Tensor]
) -> State:
    """Copy the present state of a run; what is trained on afterwards does not change the copy."""
    return State(
        progress=replace(progress),
        adapter=parameters.export(parameters.values),
        optimizer=optimizer.state(),
        best=dict(best),
        random=random_state(),
    )


def restore(state: State, parameters: AdapterParameters, optimizer: Optimizer) -> None:
    """Put a saved state back in place."""
    parameters.load(parameters.values, state.adapter)
    optimizer.load_state(state.optimizer, updates=state.progress.step)
    set_random_state(state.random)


def seed_random(seed: int) -> None:
    """Start torch's random number generators, which dropout draws from, at a known place."""
    torch.manual_seed(seed)


def random_state() -> dict[str, Tensor]:
    """Return the state of torch's random number generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Set torch's random number generators."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def bytes_needed(parameter_count: int) -> int:
    """Return the disk space of the checkpoints kept, the one being written, and the adapter."""
    return parameter_count * 4 * (4 * (KEPT + 1) + 1)


def bytes_of(state: State) -> int:
    """Return the memory that a copied state occupies."""
    groups = (state.adapter, state.optimizer, state.best, state.random)
    return sum(tensor.nbytes for tensors in groups for tensor in tensors.values())


def save(folder: Path, state: State, *, belongs_to: Origin) -> Path:
    """Write `folder/step-<n>` durably, prune older ones, and return its path. Raises: TrainingError (disk_full)."""
    target = folder / f"step-{state.progress.step}"
    folder.mkdir(exist_ok=True)
    require_space(folder, 4 * 4 * sum(tensor.numel() for tensor in state.adapter.values()))

    def write(aside: Path) -> None:
        save_file(_flat(state), str(aside / STATE))
        (aside / PROGRESS).write_text(json.dumps(asdict(state.progress), allow_nan=False), encoding="utf-8")
        manifest = {
            "format": CHECKPOINT_FORMAT,
            **belongs_to.manifest(),
            "step": state.progress.step,
            "files": {name: sha256_of(aside / name) for name in (STATE, PROGRESS)},
        }
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")

    publish_folder(target, write)
    found = newest_first(folder)
    # Later ones were refused when the run was taken up: they must not push out those that it makes now.
    kept = [path for path in found if step_of(path) <= state.progress.step][:KEPT]
    for old in set(found) - set(kept):
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest_first(folder: Path) -> list[Path]:
    """Return the checkpoint folders, the highest step first."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Return the step of a checkpoint's folder."""
    return int(path.name.removeprefix("step-"))


def load(path: Path, *, belongs_to: Origin) -> State:
    """Read a checkpoint after verifying every byte of it. Raises: CheckpointError."""
    manifest = _verified_manifest(path, belongs_to)
    try:
        tensors = load_file(str(path / STATE))
        content = json.loads((path / PROGRESS).read_text(encoding="utf-8"))
        progress = Progress(**content)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"it cannot be read ({type(error).__name__})") from error
    if progress.step != manifest["step"]:
        raise CheckpointError("its parts are of different steps")
    groups = {name: _group(tensors, name) for name in _GROUPS}
    optimizer = {name: tensor for name, tensor in tensors.items() if name.partition("/")[0] not in _GROUPS}
    return State(progress=progress, optimizer=optimizer, **groups)


def _verified_manifest(path: Path, belongs_to: Origin) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        if manifest["format"] != CHECKPOINT_FORMAT or set(files) != {STATE, PROGRESS}:
            raise CheckpointError("its format is unknown")
        if not belongs_to.made(manifest):
            raise CheckpointError("it belongs to other rows, another base model or other hyperparameters")
        for name, expected in files.items():
            if sha256_of(path / name) != expected:
                raise CheckpointError(f"{name} has been changed since it was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"it is incomplete ({type(error).__name__})") from error
    return dict(manifest)


def _flat(state: State) -> dict[str, Tensor]:
    groups = {"adapter": state.adapter, "best": state.best, "random": state.random}
    flat = {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
    return flat | state.optimizer


def _group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    prefix = f"{group}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
