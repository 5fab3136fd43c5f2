"""The wall of the kernel around trainer and evaluator: which files they reach, and that they reach nobody.

Processes that train together reach each other: they are inside of one wall, on a network of their own.

What Python refuses, native code may still do; what the kernel refuses, nobody does. Inside are the interpreter and the
system's libraries and compiler, one base model and the compiled kernels to read, and the job folder. Outside is the
rest: rows and adapters of other runs, the database and its password, other processes' memory, every socket.
"""

import contextlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpu_worker import landlock, private_network, socket_filter
from gpu_worker.landlock import DEVICE, READ, RUN, WRITE, Access
from gpu_worker.privileges import give_up_privileges

# Programs and libraries, those of GPUs included.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt")
_READABLE = (
    "/proc", "/sys",  # processors, memory, GPUs; what concerns other processes is refused by itself
    # Not all of /etc: services keep their secrets there.
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/ld.so.preload", "/etc/localtime", "/etc/timezone",
    "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/mime.types", "/etc/os-release", "/etc/nvidia",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom", "nvidia*")
_PATH_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME")

FILES_ARE_OPEN = (
    "This machine's kernel has no Landlock (Linux 5.19 or newer): files outside of the job folder are kept from this "
    "process by the rights of its account only.\n"
)
SOCKETS_ARE_OPEN = (
    "This machine's kernel has no seccomp filters: connections to other machines are refused in Python only.\n"
)


@dataclass(frozen=True)
class Wall:
    """A wall that is ready to be entered.

    `fence`: a descriptor of Landlock's. `missing`: what this kernel does not offer, a sentence each. `has_network`:
    inside is a network that leads nowhere else.
    """

    fence: int | None
    stops_sockets: bool
    missing: tuple[str, ...] = ()
    has_network: bool = False

    def enter(self) -> None:
        """Stay inside from now on, with everything that this process starts. Raises: OSError."""
        if self.has_network:
            private_network.enter_private_network()
        give_up_privileges()
        if self.fence is not None:
            landlock.allow_own_threads(self.fence)
            if self.has_network:
                landlock.allow_to_write(self.fence, private_network.SHARED_MEMORY)
            landlock.enter_fence(self.fence)
        if self.stops_sockets:
            # Who may connect could reach services of this machine with CUDA's packets: only where there are GPUs.
            but_packets = not self.has_network or any(Path("/dev").glob("nvidia*"))
            socket_filter.give_up_sockets(but_tcp=self.has_network, but_packets=but_packets)


@contextlib.contextmanager
def build_wall(
    *, readable: Iterable[Path], writable: Iterable[Path], outside: Iterable[Path] = (), has_network: bool = False
) -> Iterator[Wall]:
    """Prepare a wall with these places inside, besides those of the system; start the child in this block.

    `outside`: what else lies there stays outside, even where it is kept in a folder of the system. `has_network`: a
    network of its own, and memory to share there, for processes that train together; where the kernel does not give
    them one they are not started. Raises: OSError.
    """
    has_fence = landlock.offered_version() >= landlock.OLDEST_VERSION
    stops_sockets = socket_filter.is_offered()
    missing = [] if has_fence else [FILES_ARE_OPEN]
    missing += [] if stops_sockets else [SOCKETS_ARE_OPEN]
    allowed = _allowed(readable, writable, {path.resolve() for path in outside})
    fence = landlock.make_fence(allowed, leaves_tcp=has_network) if has_fence else None
    try:
        yield Wall(fence, stops_sockets, tuple(missing), has_network)
    finally:
        if fence is not None:
            os.close(fence)


def _allowed(readable: Iterable[Path], writable: Iterable[Path], outside: Collection[Path]) -> dict[Path, Access]:
    named = (*_SYSTEM, sys.prefix, sys.base_prefix, *_named_in_environment())
    programs = (path for name in named for path in _beside(Path(name).resolve(), outside))
    devices = (path for name in _DEVICES for path in Path("/dev").glob(name))
    return {
        **dict.fromkeys((Path(name) for name in _READABLE), READ),
        **dict.fromkeys(programs, RUN),
        **dict.fromkeys(devices, DEVICE),
        Path("/dev/nvidia-caps"): DEVICE | READ,
        **dict.fromkeys(readable, READ),
        **dict.fromkeys(writable, WRITE),
    }


def _beside(folder: Path, outside: Collection[Path]) -> Iterator[Path]:
    """Yield a folder; or, if places in it stay outside, what lies beside these. Links lead where their targets are."""
    if folder in outside:
        return
    if not any(place.is_relative_to(folder) for place in outside):
        yield folder
        return
    with contextlib.suppress(PermissionError):
        for entry in folder.iterdir():
            if not entry.is_symlink():
                yield from _beside(entry, outside)


def _named_in_environment() -> Iterator[str]:
    for variable in _PATH_VARIABLES:
        yield from (name for name in os.environ.get(variable, "").split(os.pathsep) if name.startswith("/"))
