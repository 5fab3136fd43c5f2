"""Where a run goes on: the newest checkpoint that all its processes can trust, else all of them begin anew."""

from pathlib import Path

from gpu_worker.trainer import checkpoints
from gpu_worker.trainer.checkpoints import CheckpointError, State
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.loop import TrainingLoop
from gpu_worker.trainer.origin import Origin
from gpu_worker.trainer.ranks import Ranks


def go_on(folder: Path, loop: TrainingLoop, events: Events, ranks: Ranks, *, belongs_to: Origin) -> int | None:
    """Put the run where its newest good checkpoint left it; return that step, or None to begin anew.

    The first process says which one is looked at. One that any process refuses, all of them leave.
    """
    found = map(checkpoints.step_of, checkpoints.newest_first(folder))
    while (step := ranks.of_first(next(found, None))) is not None:
        path = folder / f"step-{step:.0f}"
        state = _read(path, events, belongs_to)
        if ranks.agree(state is None):
            if state is not None:
                events.log(f"Checkpoint {path.name} is refused by another process.", level="warning")
            continue
        assert state is not None
        start = loop.learner.parameters.values.clone()
        if not ranks.agree(not _put_back(state, loop, events, path)):
            return state.progress.step
        loop.begin_anew(start)
    return None


def _read(path: Path, events: Events, belongs_to: Origin) -> State | None:
    try:
        return checkpoints.load(path, belongs_to=belongs_to)
    except CheckpointError as error:
        _refuse(path, events, error)
        return None


def _put_back(state: State, loop: TrainingLoop, events: Events, path: Path) -> bool:
    try:
        loop.put_back(state)
    except (KeyError, ValueError, RuntimeError) as error:
        _refuse(path, events, error)
        return False
    return True


def _refuse(path: Path, events: Events, error: Exception) -> None:
    events.log(f"Checkpoint {path.name} is refused: {error}.", level="warning")
