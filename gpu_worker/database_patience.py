"""Bears a database that is away for a while: a restart of PostgreSQL must not cost hours of training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from django.db import InterfaceError, OperationalError, connection

logger = logging.getLogger(__name__)

LIMIT_S = 120.0
_PAUSE_S = 1.0

T = TypeVar("T")


class DatabaseGone(Exception):
    """The database stayed away for longer than is bearable."""


class Patience:
    """Counts how long the database has been away without interruption."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._away_since: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has been away for too long."""
        return self._away_since is not None and time.monotonic() - self._away_since > self._limit_s

    @contextmanager
    def bearing(self) -> Iterator[None]:
        """Go on after the block if the database is away in it."""
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            self._note_absence(error)
        else:
            self._away_since = None

    def insist(self, action: Callable[[], T]) -> T:
        """Return the result of `action`, repeating it while the database is away. Raises: DatabaseGone."""
        while True:
            try:
                result = action()
            except (OperationalError, InterfaceError) as error:
                self._note_absence(error)
                if self.is_over:
                    raise DatabaseGone from error
                time.sleep(_PAUSE_S)
            else:
                self._away_since = None
                return result

    def _note_absence(self, error: Exception) -> None:
        connection.close()  # a broken connection does not heal; the next query opens another
        if self._away_since is None:
            self._away_since = time.monotonic()
            logger.warning(
                "the database is away: %s", str(error).strip().splitlines()[0] if str(error) else type(error)
            )
