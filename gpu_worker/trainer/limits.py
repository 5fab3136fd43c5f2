"""What the operating system says about this process: memory, and who its parent is."""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MEETING = "TUNEPORT_MEETING"  # the file over which processes find each other that one supervisor started
LARGEST_KEPT_BLOCK = 32 * 1024 * 1024  # the most glibc accepts


def memory_bytes(device: str) -> int:
    """Return the memory occupied now: the GPU's where one is used, else this process's."""
    if device == "cuda":
        import torch

        return int(torch.cuda.memory_allocated())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_memory_bytes(device: str) -> int:
    """Return the most memory ever occupied, as `memory_bytes` counts it.

    VmHWM counts from exec on; getrusage would also count what the parent had occupied when it forked.
    """
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory for the next tensor instead of giving it back each time.

    Every step frees and asks for the same hundreds of megabytes; fetching them as fresh pages cost 5 % of its time.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # glibc; other C libraries have other habits
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def give_freed_memory_back() -> None:
    """Give back everything that is free at this moment.

    Batches of different sizes cut kept memory into pieces, and what is occupied grows with the steps, unless all of it
    goes back now and then.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def die_with_parent() -> None:
    """Ask Linux for SIGTERM when the supervisor ends, so that no training runs on unwatched.

    TUNEPORT_STANDALONE=1 switches this off, for a trainer started by hand.
    """
    if os.environ.get("TUNEPORT_STANDALONE") != "1":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def refuse_network() -> None:
    """Let every attempt of Python code to reach another machine fail, also those of libraries.

    What comes from this machine itself stays: processes that train together meet there. Torch's launcher, which may
    span several machines, sets WORLD_SIZE; then the network is what they work with, and nothing is refused.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or MEETING in os.environ:
        sys.addaudithook(_refuse_outside)


def _refuse_outside(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and not _is_here(address[0]):  # a path names a socket of this machine
            raise PermissionError("A training reaches no other machine.")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not _is_here(arguments[0]):
        raise PermissionError("A training looks up no other machine.")


def _is_here(host: object) -> bool:
    return host in (None, "", "localhost", "::1") or str(host).startswith("127.")
