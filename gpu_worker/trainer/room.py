"""How many tokens may be computed at once: by what a row makes autograd remember, and the memory that is free."""

import os
import resource
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

# Of the free memory, what remembered activations may take; gradients of activations and buffers of kernels need the
# rest. On CPUs the page cache and the checks between need some, too.
SHARE_FOR_ACTIVATIONS = 0.6


def free_bytes(device: str) -> int:
    """Return the memory this process may still take: of its GPU, or of the machine and of its own limit."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    most, _hard = resource.getrlimit(resource.RLIMIT_DATA)
    status = _kilobytes("/proc/self/status")
    left = [_kilobytes("/proc/meminfo").get("MemAvailable", os.sysconf("SC_PHYS_PAGES") * 4) * 1024]
    if most != resource.RLIM_INFINITY:
        left.append(most - status.get("VmData", 0) * 1024)
    return max(0, min(left))


def _kilobytes(path: str) -> dict[str, int]:
    lines = (line.split() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


class Remembered:
    """Counts the bytes that autograd keeps for the backward pass while it is entered, each piece of memory once.

    `known`: tensors that are there anyway, such as weights.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        self.bytes = 0
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in known}
        self._hooks: Any = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)

    def _keep(self, tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in self._seen:
            self._seen.add(place)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    def __enter__(self) -> "Remembered":
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)


def tokens_that_fit(bytes_per_token: float, device: str) -> int:
    """Return how many tokens may be computed at once."""
    return int(SHARE_FOR_ACTIVATIONS * free_bytes(device) / max(bytes_per_token, 1.0))
