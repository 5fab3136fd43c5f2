"""Linux' seccomp: a process gives up, for itself and all that it starts, sockets that reach anybody.

Without connections nobody is reached: neither another machine nor the database or a container's daemon on this one.
What stays are connected pairs inside of a process (`socketpair`), and the one kind of socket that CUDA makes at its
start, to hand out its memory to those who ask it: without it CUDA does not start. Processes that train together get TCP
besides, and may ask the kernel for the names of their network's devices; that is for a network of their own only, since
a filter cannot tell whom TCP reaches. Source: linux/seccomp.h, linux/filter.h; seccomp(2), unix(7), netlink(7).
"""

import ctypes
import errno
import os
import platform
import socket
from dataclasses import dataclass

_SET_FILTER, _ASK_ACTION = 1, 2
# Filters of older kernels also switched a protection of the processor on that slows everything down.
_KEEP_SPECULATION = 1 << 2
_LOAD_WORD, _AND, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
# Where the kernel describes a call; the words of arguments are the lower halves.
_AT_NUMBER, _AT_MACHINE, _AT_FAMILY, _AT_KIND, _AT_PROTOCOL = 0, 4, 16, 24, 32
_ROUTES = 0  # netlink's protocol for devices and routes
_KIND = 0xF  # the rest of the argument are flags
_ALLOW = 0x7FFF0000
_REFUSE = 0x00050000 | errno.EACCES
_IO_URING_SETUP = 425  # its rings make sockets without the call that is named so
_X32_CALLS = 0x40000000  # a second list of calls on x86


@dataclass(frozen=True)
class _Machine:
    """What differs from processor to processor: its name in the kernel, the numbers of calls."""

    name: int
    socket: int
    connect: int
    pair: int
    seccomp: int


_MACHINES = {
    "x86_64": _Machine(0xC000003E, socket=41, connect=42, pair=53, seccomp=317),
    "aarch64": _Machine(0xC00000B7, socket=198, connect=203, pair=199, seccomp=277),
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


def give_up_sockets(*, but_tcp: bool = False, but_packets: bool = True) -> None:
    """Connect to nobody from now on, nor let anything that this process starts do so.

    `but_tcp`: except over TCP, in a network of its own. `but_packets`: the one kind of local socket that CUDA needs
    can be made; whoever has TCP could also connect it.
    Privileges have to be given up before. Raises: OSError.
    """
    machine = _MACHINES[platform.machine()]
    instructions = _instructions(_lines(machine, but_tcp=but_tcp, but_packets=but_packets))
    program = _Program(length=len(instructions), instructions=instructions)
    if _libc.syscall(machine.seccomp, _SET_FILTER, _KEEP_SPECULATION, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), f"seccomp: {os.strerror(ctypes.get_errno())}")


# An instruction's name for those that jump to it, what it does, with which value, and where to go on if so and if not.
_Line = tuple[str, int, int, str, str]


def _lines(machine: _Machine, *, but_tcp: bool, but_packets: bool) -> tuple[_Line, ...]:
    """Return the filter; an empty target is the next line.

    Pairs of datagrams are refused, too: whoever has one may send to any address.
    """
    tcp: tuple[_Line, ...] = (
        ("", _JUMP_IF_EQUAL, socket.AF_INET, "stream", ""),
        ("", _JUMP_IF_EQUAL, socket.AF_INET6, "stream", ""),
        ("", _JUMP_IF_EQUAL, socket.AF_NETLINK, "routes", ""),
    )
    kinds_of_tcp: tuple[_Line, ...] = (
        ("stream", _LOAD_WORD, _AT_KIND, "", ""),
        ("", _AND, _KIND, "", ""),
        ("", _JUMP_IF_EQUAL, socket.SOCK_STREAM, "allow", "refuse"),
        ("routes", _LOAD_WORD, _AT_PROTOCOL, "", ""),
        ("", _JUMP_IF_EQUAL, _ROUTES, "allow", "refuse"),
    )
    return (
        ("", _LOAD_WORD, _AT_MACHINE, "", ""),
        ("", _JUMP_IF_EQUAL, machine.name, "", "refuse"),  # calls in the manner of another processor are refused
        ("", _LOAD_WORD, _AT_NUMBER, "", ""),
        ("", _JUMP_IF_AT_LEAST, _X32_CALLS, "refuse", ""),
        ("", _JUMP_IF_EQUAL, _IO_URING_SETUP, "refuse", ""),
        ("", _JUMP_IF_EQUAL, machine.connect, "allow" if but_tcp else "refuse", ""),
        ("", _JUMP_IF_EQUAL, machine.pair, "pair", ""),
        ("", _JUMP_IF_EQUAL, machine.socket, "", "allow"),
        ("", _LOAD_WORD, _AT_FAMILY, "", ""),
        *(tcp if but_tcp else ()),
        ("", _JUMP_IF_EQUAL, socket.AF_UNIX, "packets" if but_packets else "refuse", "refuse"),
        *(kinds_of_tcp if but_tcp else ()),
        ("pair", _LOAD_WORD, _AT_KIND, "", ""),
        ("", _AND, _KIND, "", ""),
        ("", _JUMP_IF_EQUAL, socket.SOCK_STREAM, "allow", ""),
        ("packets", _LOAD_WORD, _AT_KIND, "", ""),
        ("", _AND, _KIND, "", ""),
        ("", _JUMP_IF_EQUAL, socket.SOCK_SEQPACKET, "allow", "refuse"),
        ("allow", _RETURN, _ALLOW, "", ""),
        ("refuse", _RETURN, _REFUSE, "", ""),
    )


def _instructions(lines: "tuple[_Line, ...]") -> "ctypes.Array[_Instruction]":
    """Return the filter as the kernel reads it; its jumps say how many instructions to pass over."""
    places = {name: place for place, (name, *_rest) in enumerate(lines) if name}

    def passed_over(target: str, place: int) -> int:
        return places[target] - place - 1 if target else 0

    return (_Instruction * len(lines))(
        *(
            _Instruction(code, passed_over(yes, place), passed_over(no, place), value)
            for place, (_name, code, value, yes, no) in enumerate(lines)
        )
    )
