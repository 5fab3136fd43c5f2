"""Whose turn it is where few may work at once: fair between teams, with a bound on the line and on the waiting."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gpu_worker.engine.core import LONGEST_RETRY_S
from gpu_worker.engine.errors import Overloaded


@dataclass(eq=False)
class _Waiting:
    owner: str
    turn: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Turns:
    """Lends places to coroutines of one event loop.

    The next one served is the oldest of the team that holds the fewest places, of equals the one whose turn is longest
    ago: as answers are admitted, see `Scheduler`.
    """

    def __init__(self, *, places: int, waiting: int, share: float, wait_s: float) -> None:
        """`waiting`: length of the line; `share`: most of it that one team may fill; `wait_s`: longest time in it."""
        self._places = places
        self._most_waiting = waiting
        self._share = share
        self._wait_s = wait_s
        self._line: list[_Waiting] = []
        self._held: Counter[str] = Counter()
        self._turns: dict[str, int] = {}
        self._turn = 0
        self._seconds_each = 1.0  # of a place: a moving average, for the hint when to try again

    @asynccontextmanager
    async def place(self, owner: str) -> AsyncIterator[None]:
        """Lend a place when it is the owner's turn. Raises: Overloaded if the line is full, or moves too slowly."""
        await self._enter(owner)
        begun = time.monotonic()
        try:
            yield
        finally:
            self._seconds_each += (time.monotonic() - begun - self._seconds_each) / 8
            self._leave(owner)

    async def _enter(self, owner: str) -> None:
        if self._held.total() < self._places:
            self._take(owner)
            return
        self._require_room(owner)
        waiting = _Waiting(owner)
        self._line.append(waiting)
        try:
            await asyncio.wait({waiting.turn}, timeout=self._wait_s)
        except asyncio.CancelledError:
            if waiting.turn.done():
                self._leave(owner)
            else:
                self._line.remove(waiting)
            raise
        if not waiting.turn.done():
            self._line.remove(waiting)
            raise self._overloaded("The engine is too busy to begin this request in time; try again shortly.")

    def _require_room(self, owner: str) -> None:
        if len(self._line) >= self._most_waiting:
            raise self._overloaded("Too many requests are waiting; try again shortly.")
        if owner and sum(one.owner == owner for one in self._line) >= self._most_waiting * self._share:
            raise self._overloaded("Too many of your requests are waiting; try again shortly.")

    def _take(self, owner: str) -> None:
        self._turn += 1
        self._held[owner] += 1
        self._turns[owner] = self._turn

    def _leave(self, owner: str) -> None:
        """Give a place back, and on to whose turn it is."""
        self._held[owner] -= 1
        self._held = +self._held
        first: dict[str, _Waiting] = {}
        for waiting in self._line:
            first.setdefault(waiting.owner, waiting)
        self._turns = {one: turn for one, turn in self._turns.items() if one in self._held or one in first}
        if first:
            chosen = min(first.values(), key=lambda one: (self._held[one.owner], self._turns.get(one.owner, 0)))
            self._line.remove(chosen)
            self._take(chosen.owner)
            chosen.turn.set_result(None)

    def _overloaded(self, message: str) -> Overloaded:
        """Return a refusal that says in how many seconds half of the line will have gone."""
        seconds = len(self._line) / 2 * self._seconds_each / self._places
        return Overloaded(message, retry_after_s=max(1, min(math.ceil(seconds), LONGEST_RETRY_S)))
