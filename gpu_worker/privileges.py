"""What a process may do beyond its account: given up before it is walled in, and never gained again."""

import ctypes
import os

_NO_NEW_PRIVILEGES = 38
_CAPABILITY_VERSION = 0x20080522


class _Whose(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("process", ctypes.c_int)]


class _Capabilities(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


_libc = ctypes.CDLL(None, use_errno=True)


def give_up_privileges() -> None:
    """Keep the rights of the account only: root, too, then reads no other process's memory or environment.

    Programs that are started gain nothing either, as setuid ones do; without that, nobody may wall themselves in.
    Raises: OSError.
    """
    _check(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")
    nothing = (_Capabilities * 2)()
    _check(_libc.capset(ctypes.byref(_Whose(_CAPABILITY_VERSION, 0)), nothing), "capset")


def _check(result: int, call: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")
