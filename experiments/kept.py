"""The weights that a run has kept: its result and, where every checkpoint is kept, those beside it.

The rooms above report who answers with an adapter (`report_by`, in `ready()`), so that none of them is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from experiments import results
from experiments.models import Adapter, Run
from experiments.storable import storable_number
from portal import quotas, usage
from portal.errors import NotFound
from portal.models import Quota

_KEPT, _STEP = "kept", "step-"


@dataclass(frozen=True)
class Use:
    """Something that answers with an adapter: its name, and the page of it."""

    name: str
    view: str
    pk: UUID


Reporter = Callable[[Adapter], Iterable[Use]]
_reporters: list[Reporter] = []


def report_by(reporter: Reporter) -> None:
    """Have `reporter(adapter)` asked who answers with it. Call it in `ready()`."""
    if reporter not in _reporters:
        _reporters.append(reporter)


@dataclass(frozen=True)
class KeptWeights:
    """The weights of one step as a PEFT folder.

    The result is what is deployed, tried and continued. `is_best`: of all that are kept, those with the lowest
    validation loss; which is None where nothing was validated at just this step.
    """

    step: int
    size_bytes: int
    validation_loss: float | None
    is_result: bool
    is_best: bool
    uses: tuple[Use, ...] = ()


def kept_weights(run: Run, points: Sequence[tuple[int, Mapping[str, Any]]]) -> list[KeptWeights]:
    """Return what is kept of a run, first step first; `points` are its (step, figures). Call it in the team's scope."""
    adapter: Adapter | None = getattr(run, "adapter", None)
    losses = {step: storable_number(values.get("validation_loss")) for step, values in points}
    found = {step: _size(folder) for step, folder in _folders(run).items()}
    if adapter is not None:
        found[adapter.step] = adapter.size_bytes
    validated = [loss for step in found if (loss := losses.get(step)) is not None]
    best = min(validated) if len(validated) > 1 else None
    uses = {one.step: tuple(use for reporter in _reporters for use in reporter(one)) for one in run.adapters.all()}
    return [
        KeptWeights(
            step=step,
            size_bytes=size_bytes,
            validation_loss=losses.get(step),
            is_result=adapter is not None and step == adapter.step,
            is_best=best is not None and losses.get(step) == best,
            uses=uses.get(step, ()),
        )
        for step, size_bytes in sorted(found.items())
    ]


def kept_folder(run: Run, step: int) -> Path | None:
    """Return the PEFT folder of a checkpoint that was kept, None if this step's was not."""
    return _folders(run).get(step)


def kept_steps(run: Run) -> set[int]:
    """Return the steps whose weights are there: kept checkpoints, and the run's result if it has one."""
    return {*_folders(run), *run.adapters.values_list("step", flat=True)}


def adapter_of(run: Run, step: int) -> Adapter:
    """Return the adapter of a step whose weights were kept; its files are copied when it is first asked for.

    From then on it is stored, loaded and deleted like a run's result. Call it in the team's row scope.
    Raises: NotFound if nothing was kept at this step, QuotaExceeded.
    """
    known: Adapter | None = run.adapters.filter(step=step).first()
    if known is not None:
        return known
    folder = kept_folder(run, step)
    if folder is None:
        raise NotFound(_("No weights were kept at step %(step)d of this run.") % {"step": step}, param="step")
    with transaction.atomic():
        # Locks the team, so that two that ask at the same time make one adapter.
        quotas.require_room(
            run.team, Quota.STORAGE_BYTES, lambda: usage.storage_bytes(run.team), adding=_size(folder), lock=True
        )
        known = run.adapters.filter(step=step).first()
        if known is not None:
            return known
        placed = results.place_adapter(run, folder, checkpoint=step)
        return results.record_adapter(run, placed, step=step, is_result=False)


def _folders(run: Run) -> dict[int, Path]:
    names = ((path, path.name.removeprefix(_STEP)) for path in (run.folder / _KEPT).glob(f"{_STEP}*"))
    return {int(number): path for path, number in names if number.isdecimal() and len(number) < 10}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
