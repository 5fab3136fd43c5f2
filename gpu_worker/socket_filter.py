"""Linux' seccomp: a process gives up, for itself and all that it starts, the making of sockets.

Without a socket nobody is reached: neither another machine nor the database or a container's daemon on this one. Pairs
of connected sockets inside of a process (`socketpair`) stay. Source: linux/seccomp.h, linux/filter.h; seccomp(2).
"""

import ctypes
import errno
import os
import platform
from dataclasses import dataclass

_SET_FILTER, _ASK_ACTION = 1, 2
# Filters of older kernels also switched a protection of the processor on that slows everything down.
_KEEP_SPECULATION = 1 << 2
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_AT_NUMBER, _AT_MACHINE = 0, 4  # where the kernel describes a call
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EACCES
_IO_URING_SETUP = 425  # its rings make sockets without the call that is named so
_X32_CALLS = 0x40000000  # a second list of calls on x86


@dataclass(frozen=True)
class _Machine:
    """What differs from processor to processor: its name in the kernel, the numbers of calls."""

    name: int
    socket: int
    seccomp: int


_MACHINES = {
    "x86_64": _Machine(0xC000003E, socket=41, seccomp=317),
    "aarch64": _Machine(0xC00000B7, socket=198, seccomp=277),
}


class _Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("value", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction))]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def is_offered() -> bool:
    """Tell whether this kernel offers filters, on a processor whose calls we know."""
    machine = _MACHINES.get(platform.machine())
    refuse = ctypes.c_uint32(_REFUSE & 0xFFFF0000)
    return machine is not None and _libc.syscall(machine.seccomp, _ASK_ACTION, 0, ctypes.byref(refuse)) == 0


def give_up_sockets() -> None:
    """Make no socket from now on, nor let anything that this process starts make one.

    Privileges have to be given up before. Raises: OSError.
    """
    machine = _MACHINES[platform.machine()]
    instructions = _instructions(machine)
    program = _Program(length=len(instructions), instructions=instructions)
    if _libc.syscall(machine.seccomp, _SET_FILTER, _KEEP_SPECULATION, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")


def _instructions(machine: _Machine) -> "ctypes.Array[_Instruction]":
    """Return the filter; jumps say how many instructions to pass over."""
    lines = (
        (_LOAD_WORD, 0, 0, _AT_MACHINE),
        (_JUMP_IF_EQUAL, 0, 5, machine.name),  # calls in the manner of another processor are refused
        (_LOAD_WORD, 0, 0, _AT_NUMBER),
        (_JUMP_IF_AT_LEAST, 3, 0, _X32_CALLS),
        (_JUMP_IF_EQUAL, 2, 0, machine.socket),
        (_JUMP_IF_EQUAL, 1, 0, _IO_URING_SETUP),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    )
    return (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
