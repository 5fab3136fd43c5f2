"""How many requests this process has open at each engine, bounded as a whole and per team.

Our own engine bounds its waiting line itself, and sooner. vLLM takes whatever comes and lets it wait: without a bound
on this side a burst of one team would be everybody's delay.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from django.utils.translation import gettext as _

from portal.errors import Unavailable


class Places:
    """Lends places at engines, `most` at each; one team gets `share` of them. Any thread may use it."""

    def __init__(self, *, most: int, share: float) -> None:
        self.most = most
        self.share = share
        self._lock = threading.Lock()
        self._open: Counter[Hashable] = Counter()

    @contextmanager
    def at(self, engine: Hashable, team: str) -> Iterator[None]:
        """Hold a place at an engine until the end. `team`: whose request it is, empty if nobody said.

        Raises: Unavailable, with a hint when to try again.
        """
        ours = (engine, team)
        with self._lock:
            if self._open[engine] >= self.most:
                raise Unavailable(_("Too many requests are waiting. Try again in a moment."), retry_after_s=2)
            if team and self._open[ours] >= self.most * self.share:
                raise Unavailable(_("Too many of your requests are waiting. Try again in a moment."), retry_after_s=2)
            self._open.update((engine, ours))
        try:
            yield
        finally:
            with self._lock:
                self._open.subtract((engine, ours))
                self._open = +self._open
