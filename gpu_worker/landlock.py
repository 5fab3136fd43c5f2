"""Linux' Landlock: a process gives up, for itself and all that it starts, every file that it does not name.

Source: linux/landlock.h, docs.kernel.org/userspace-api/landlock.html.
"""

import ctypes
import os
from collections.abc import Mapping
from enum import IntFlag
from pathlib import Path

# The same on all machines that Linux runs on today.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1
_ALL_TCP = 0b11  # bind, connect
_ALL_SCOPES = 0b11  # abstract Unix sockets and signals: none beyond the fence
_TCP_SINCE, _SCOPES_SINCE = 4, 6
# Version 1 cannot allow a file to be renamed from one folder to another, and what is written aside is.
OLDEST_VERSION = 2


class Access(IntFlag):
    """What may be done below a path."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
RUN = READ | Access.EXECUTE
# No programs, sockets, pipes or devices: what is written can be read, not run.
WRITE = READ | (
    Access.WRITE_FILE | Access.REMOVE_DIR | Access.REMOVE_FILE | Access.MAKE_DIR | Access.MAKE_REG | Access.MAKE_SYM
    | Access.REFER | Access.TRUNCATE
)  # fmt: skip
DEVICE = Access.READ_FILE | Access.WRITE_FILE | Access.TRUNCATE | Access.IOCTL_DEV
_OF_FILES = DEVICE | Access.EXECUTE
_ALL = Access(2**16 - 1)
_SINCE = {Access.REFER: 2, Access.TRUNCATE: 3, Access.IOCTL_DEV: 5}


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("descriptor", ctypes.c_int32)]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def offered_version() -> int:
    """Return the version of Landlock that this kernel offers; 0 if it offers none, or not to us."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)))


def make_fence(allowed: Mapping[Path, Access], *, leaves_tcp: bool = False) -> int:
    """Return the descriptor of a fence that leaves these paths only, and no TCP; what does not exist is passed over.

    `leaves_tcp`: for those who have a network of their own.
    Kernels before 6.7 leave TCP in any case, those before 6.12 signals to processes outside. Raises: OSError.
    """
    version = offered_version()
    wanted = _Ruleset(
        files=_known(version),
        network=_ALL_TCP if version >= _TCP_SINCE and not leaves_tcp else 0,
        scopes=_ALL_SCOPES if version >= _SCOPES_SINCE else 0,
    )
    # A kernel takes a longer description than it knows, as long as what it does not know is 0.
    fence = _call(_CREATE_RULESET, ctypes.byref(wanted), ctypes.c_size_t(ctypes.sizeof(wanted)), 0)
    try:
        for path, access in allowed.items():
            _add(fence, path, access & _known(version))
    except OSError:
        os.close(fence)
        raise
    return fence


def allow_own_threads(fence: int) -> None:
    """Let the calling process write the names of its threads, once it has entered: CUDA does so, or does not start.

    Raises: OSError.
    """
    _add(fence, Path("/proc/self/task"), (READ | Access.WRITE_FILE | Access.TRUNCATE) & _known(offered_version()))


def allow_to_write(fence: int, folder: Path) -> None:
    """Let a folder be inside, too, that was not there when the fence was made. Raises: OSError."""
    _add(fence, folder, WRITE & _known(offered_version()))


def enter_fence(fence: int) -> None:
    """Stay inside of the fence from now on, with everything that this process starts.

    Privileges have to be given up before. Raises: OSError.
    """
    _call(_RESTRICT_SELF, fence, 0)


def _known(version: int) -> Access:
    return _ALL & ~Access(sum(access for access, since in _SINCE.items() if version < since))


def _add(fence: int, path: Path, access: Access) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        rights = access if path.is_dir() else access & _OF_FILES
        rule = _PathBeneath(allowed=rights, descriptor=descriptor)
        _call(_ADD_RULE, fence, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return result
