"""How many requests one process puts to engines at the same time.

An answer holds a thread for as long as it is written. Threads that are left over answer pages and short requests, so
one request too many is refused at once and told when to come back: it never waits in front of a busy server.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.utils.translation import gettext as _

from portal.errors import RateLimited

_RETRY_AFTER_S = 1


class Slots:
    """Places for requests to engines. Thread safe; a forked child begins with all of them free."""

    def __init__(self) -> None:
        self._taken = 0
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self._forget)

    @property
    def taken(self) -> int:
        """How many are in use."""
        return self._taken

    def take(self) -> Slot:
        """Return a slot for one request. Raises: RateLimited if none is left."""
        with self._lock:
            if self._taken >= settings.MODEL_REQUESTS:
                raise RateLimited(
                    _("This server answers %(count)d requests already. Try again in a moment.")
                    % {"count": self._taken},
                    code="slow_down",
                    headers={"Retry-After": str(_RETRY_AFTER_S)},
                )
            self._taken += 1
        return Slot(self)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a slot for a block. Raises: RateLimited."""
        slot = self.take()
        try:
            yield
        finally:
            slot.release()

    def _give_back(self) -> None:
        with self._lock:
            self._taken -= 1

    def _forget(self) -> None:
        self._taken = 0
        self._lock = threading.Lock()


class Slot:
    """The right to one request; giving it back twice does nothing."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._is_held = True

    def release(self) -> None:
        """Let somebody else have it."""
        if self._is_held:
            self._is_held = False
            self._slots._give_back()


slots = Slots()
