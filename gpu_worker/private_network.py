"""A network of their own for processes that train together: its loopback reaches them and nobody else.

They have to meet over sockets (gloo's and NCCL's only way), and a filter of calls cannot tell whom a socket reaches.
In a namespace of its own there is nobody else: no other machine, no database, no service of this machine, and a
`/dev/shm` where nobody else's memory lies. Source: network_namespaces(7), user_namespaces(7), netdevice(7).
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- where the C library and NCCL share memory; here a fresh one
_NEW_MOUNTS, _NEW_IPC, _NEW_USER, _NEW_NETWORK = 0x00020000, 0x08000000, 0x10000000, 0x40000000
_OWN = _NEW_MOUNTS | _NEW_IPC | _NEW_NETWORK
_NO_SETUID, _NO_DEVICES, _NO_PROGRAMS = 2, 4, 8
_RECURSIVE, _PRIVATE = 1 << 14, 1 << 18
_ASK_FLAGS, _SET_FLAGS = 0x8913, 0x8914
_UP, _INTERFACE = 1, "16sh14x"

_libc = ctypes.CDLL(None, use_errno=True)


def is_offered() -> bool:
    """Tell whether this kernel, or the container around us, gives a process of ours a network of its own."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        code = 1
        with contextlib.suppress(OSError):
            enter_private_network()
            code = 0
        os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def enter_private_network() -> None:
    """Give this process, and all that it starts, a network of its own. Call it with one thread only.

    Privileges have to be given up afterwards: over the new network this process has them all. Raises: OSError.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        _unshare(_OWN)
    except PermissionError:  # without privileges it takes a user namespace, too
        _unshare(_OWN | _NEW_USER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _switch_loopback_on()
    _take_fresh_shared_memory()


def _unshare(what: int) -> None:
    _check(_libc.unshare(what), "unshare")


def _switch_loopback_on() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        found = fcntl.ioctl(asking, _ASK_FLAGS, struct.pack(_INTERFACE, b"lo", 0))
        flags = struct.unpack(_INTERFACE, found)[1]
        fcntl.ioctl(asking, _SET_FLAGS, struct.pack(_INTERFACE, b"lo", flags | _UP))


def _take_fresh_shared_memory() -> None:
    if SHARED_MEMORY.is_dir():
        _check(_libc.mount(None, b"/", None, _RECURSIVE | _PRIVATE, None), "mount")  # nothing of it outside
        flags = _NO_SETUID | _NO_DEVICES | _NO_PROGRAMS
        _check(_libc.mount(b"tmpfs", bytes(SHARED_MEMORY), b"tmpfs", flags, b"mode=1777,size=1g"), "mount")


def _check(result: int, call: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")
