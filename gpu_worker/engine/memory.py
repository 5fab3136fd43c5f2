"""How little memory a process holds: room that may never be needed, and what was freed."""

import ctypes
import math
import mmap

import torch
from torch import Tensor

MMAP_THRESHOLD, TRIM_THRESHOLD, MAX_ARENAS = -3, -1, -8  # names of glibc's malloc.h
LARGE_BYTES = 8 * 2**20
# without it the pages would be shared with child processes, and count as such
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}


def untouched_zeros(size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return zeros; on the CPU, of pages that become resident one by one as they are written.

    Memory of the C library would do that for large pieces only, and numpy asks for huge pages, of which one written
    byte makes two megabytes resident.
    """
    if device.type != "cpu":
        return torch.zeros(size, device=device, dtype=dtype)
    pages = mmap.mmap(-1, math.prod(size) * dtype.itemsize, **PRIVATE)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(size)


def keep_freed_memory_small() -> None:
    """Have large pieces of memory given back when they are freed, and few pools kept for threads.

    The C library would else learn from the first large pieces to keep such memory, in a pool for nearly every thread.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP_THRESHOLD, LARGE_BYTES)
        library.mallopt(TRIM_THRESHOLD, LARGE_BYTES)
        library.mallopt(MAX_ARENAS, 2)


def return_freed_memory() -> None:
    """Give back what loading freed: the C library would keep tens of megabytes for later."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):  # glibc; other C libraries have other habits
        library.malloc_trim(0)
