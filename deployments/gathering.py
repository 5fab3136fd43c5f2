"""Threads that ask the same of the database at the same time are answered together: one asks for all who wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

Wish = TypeVar("Wish")
Answer = TypeVar("Answer")
# How many are asked for at once: more would let the first of them wait for the last.
MOST = 32


class _Waiting(Generic[Wish, Answer]):
    """A thread's wish; `group`: those for whom this thread has to ask, once it is its turn."""

    __slots__ = ("answer", "done", "group", "wish")

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.answer: Answer | None = None
        self.group: list[_Waiting[Wish, Answer]] = []
        self.done = threading.Lock()  # the cheapest thing to wait for: whoever is done lets go of it
        self.done.acquire()


class Gathering(Generic[Wish, Answer]):
    """Asks for the wishes of many threads at once. Thread safe; a forked child starts anew.

    `ask` gets a key and the wishes that came with it; it returns their answers, None for those that have to be asked
    for alone, or raises. For each key one thread asks at a time. Who comes meanwhile waits, and the first of them asks
    next, for all of them. Nobody waits for company: who is alone asks at once.
    """

    def __init__(self, ask: Callable[[Any, Sequence[Wish]], Sequence[Answer | None]]) -> None:
        self._ask = ask
        self._begin_anew()
        os.register_at_fork(after_in_child=self._begin_anew)

    def answer(self, key: Hashable, wish: Wish) -> Answer:
        """Return the answer to a wish. Raises: what `ask` raises for this wish alone."""
        own = _Waiting[Wish, Answer](wish)
        with self._lock:
            others = self._waiting.get(key)
            if others is None:
                self._waiting[key], own.group = [], [own]
            else:
                others.append(own)
        if others is not None:
            own.done.acquire()
        if own.group:
            self._ask_for_all(key, own.group)
        return own.answer if own.answer is not None else self._alone(key, wish)

    def _ask_for_all(self, key: Hashable, group: Sequence[_Waiting[Wish, Answer]]) -> None:
        try:
            for one, answer in zip(group, self._ask(key, [one.wish for one in group]), strict=True):
                one.answer = answer
        except Exception:  # each of several finds out alone what is the matter
            if len(group) == 1:
                raise
        finally:
            self._pass_on(key)
            for one in group[1:]:
                one.done.release()

    def _pass_on(self, key: Hashable) -> None:
        with self._lock:
            others = self._waiting[key]
            if not others:
                del self._waiting[key]
                return
            group, self._waiting[key] = others[:MOST], others[MOST:]
        group[0].group = group
        group[0].done.release()

    def _alone(self, key: Hashable, wish: Wish) -> Answer:
        [answer] = self._ask(key, [wish])
        assert answer is not None
        return answer

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, list[_Waiting[Wish, Answer]]] = {}
