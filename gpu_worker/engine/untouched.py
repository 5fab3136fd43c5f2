"""Memory that costs nothing until it is written: room that may never be needed."""

import math
import mmap

import torch
from torch import Tensor


def untouched_zeros(size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return zeros; on the CPU, of pages that become resident one by one as they are written.

    Memory of the C library would do that for large pieces only, and numpy asks for huge pages, of which one written
    byte makes two megabytes resident.
    """
    if device.type != "cpu":
        return torch.zeros(size, device=device, dtype=dtype)
    pages = mmap.mmap(-1, math.prod(size) * dtype.itemsize)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(size)
