"""Pytest plugin that deals the tests out to the processes of a run: whole files, the longest work first.

What comes last decides when a run ends, so that nothing long may come last. All journeys go to one process, because
they share one installation.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

JOURNEYS = "tests/journeys/"
DATABASE = {"db", "transactional_db", "live_server"}


class LongWorkFirst(LoadFileScheduling):
    """Whole files in the order of collection, all journeys as if they were one file."""

    def _split_scope(self, nodeid: str) -> str:
        return JOURNEYS if nodeid.startswith(JOURNEYS) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LongWorkFirst | None:
    """Deal files out in the order of collection, instead of by their number of tests."""
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return LongWorkFirst(config, log)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a database; journeys come first, then files by how many slow or browser tests they have."""
    for item in items:
        if item.get_closest_marker("django_db") or DATABASE & set(getattr(item, "fixturenames", ())):
            item.add_marker("database")
    files = [list(tests) for _path, tests in itertools.groupby(items, lambda item: item.path)]
    files.sort(key=lambda tests: (not tests[0].nodeid.startswith(JOURNEYS), -_long_ones(tests)))
    items[:] = itertools.chain.from_iterable(files)


def _long_ones(tests: list[pytest.Item]) -> int:
    return sum(1 for test in tests if {"slow", "browser"} & {mark.name for mark in test.iter_markers()})
