"""A limit of time for a whole request to the outside; those of httpx are for single reads, and bytes may trickle."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from socket import SHUT_RDWR, socket
from typing import Any


@contextmanager
def cut_off_after(limit_s: float) -> Iterator[dict[str, Any]]:
    """Give the extensions of an httpx request whose connection is cut when its time is over."""
    doubles: list[socket] = []
    ends_s = time.monotonic() + limit_s

    def cut_off() -> None:
        for one in doubles:
            with suppress(OSError):
                one.shutdown(SHUT_RDWR)

    def trace(event: str, details: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            # A double, since encryption takes the socket itself over.
            doubles.append(details["return_value"].get_extra_info("socket").dup())
            if time.monotonic() > ends_s:
                cut_off()

    timer = threading.Timer(limit_s, cut_off)
    timer.daemon = True
    timer.start()
    try:
        yield {"trace": trace}
    finally:
        timer.cancel()
        timer.join()
        for one in doubles:
            one.close()
