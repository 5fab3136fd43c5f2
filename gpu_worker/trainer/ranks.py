"""Several processes that train one adapter together: each computes a share of every batch, all take the same step.

The supervisor starts them through `together.py`; by hand, `python -m torch.distributed.run --nproc-per-node N -m
gpu_worker.trainer JOB_DIR` does, on one machine or on many. Gradients are summed, not averaged: the scale is one over
the label tokens of the whole batch, so the result is the same as that of one process. Only the first process speaks and
writes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from gpu_worker.trainer.limits import MEETING

STEPS_PER_SEED = 1_000_003  # a prime, so that steps and seeds do not meet


class Ranks:
    """One process alone: everything is its own share."""

    number = 0
    count = 1

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes."""
        return self.number == 0

    def share(self, rows: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """Return this process's part of a batch; parts have nearly the same number of tokens."""
        if self.count == 1:
            return list(rows)
        return sorted(rows, key=lengths.__getitem__)[self.number :: self.count]

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""

    def totals(self, *values: float) -> list[float]:
        """Return the sum of each value over all processes."""
        return list(values)

    def agree(self, claim: bool) -> bool:
        """Return whether any process makes the claim, the same answer in all of them."""
        return claim

    def most(self, value: float) -> float:
        """Return the largest of all processes' values."""
        return value

    def of_first(self, value: float | None) -> float | None:
        """Return the first process's value, in all of them."""
        return value

    def equalise(self, tensor: Tensor) -> None:
        """Replace a tensor by that of the first process."""

    def draw_anew(self, seed: int, step: int) -> None:
        """Let dropout differ between processes, as a function of seed and step, so that resuming repeats it."""

    @contextmanager
    def first_one_first(self) -> Iterator[None]:
        """Let the first process do something before the others do it too, such as filling a cache."""
        yield


class ManyRanks(Ranks):
    """One process of several that torch.distributed connects."""

    def __init__(self) -> None:
        """Meet the others. Raises: torch's own errors if they do not come."""
        self._device = "cpu"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            self._device = "cuda"
        self.number, self.count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        # Over a file no port is open, not even where no wall stands around us.
        meeting = f"file://{os.environ[MEETING]}" if MEETING in os.environ else "env://"
        backend = "nccl" if self._device == "cuda" else "gloo"
        distributed.init_process_group(backend, init_method=meeting, rank=self.number, world_size=self.count)

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        distributed.all_reduce(tensor)

    def totals(self, *values: float) -> list[float]:
        """Return the sum of each value over all processes."""
        tensor = torch.tensor(values, dtype=torch.float64, device=self._device)
        distributed.all_reduce(tensor)
        return [float(value) for value in tensor]

    def agree(self, claim: bool) -> bool:
        """Return whether any process makes the claim, the same answer in all of them."""
        return self.totals(float(claim))[0] > 0

    def most(self, value: float) -> float:
        """Return the largest of all processes' values."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self._device)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return float(tensor)

    def of_first(self, value: float | None) -> float | None:
        """Return the first process's value, in all of them."""
        own = (value or 0.0, float(value is not None)) if self.is_first else (0.0, 0.0)
        first, is_known = self.totals(*own)
        return first if is_known else None

    def equalise(self, tensor: Tensor) -> None:
        """Replace a tensor by that of the first process."""
        distributed.broadcast(tensor, 0)

    def draw_anew(self, seed: int, step: int) -> None:
        """Let dropout differ between processes, as a function of seed and step, so that resuming repeats it."""
        torch.manual_seed((seed * STEPS_PER_SEED + step) * self.count + self.number)

    @contextmanager
    def first_one_first(self) -> Iterator[None]:
        """Let the first process do something before the others do it too, such as filling a cache."""
        if not self.is_first:
            distributed.barrier()
        yield
        if self.is_first:
            distributed.barrier()


ALONE = Ranks()


def find_ranks() -> Ranks:
    """Return the processes that were started together with this one, as torch's launcher tells by the environment."""
    return ManyRanks() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ALONE


def has_lost_others(error: BaseException) -> bool:
    """Tell whether an error says only that another process is gone, which knows better why."""
    if not distributed.is_initialized():
        return isinstance(error, distributed.DistError)
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
