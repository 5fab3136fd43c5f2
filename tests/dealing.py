"""Pytest plugin that deals the tests out to the processes of a run: whole files, the longest work first.

What comes last decides when a run ends, so that nothing long may come last. All journeys go to one process, because
they share one installation. A choice of quick tests does not even import files that have none.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

JOURNEYS = "tests/journeys/"
DATABASE = {"db", "transactional_db", "live_server"}
# What -m may leave out → how a file says that all of its tests are like that.
LEFT_OUT = {
    "not slow": "pytest.mark.slow",
    "not browser": "pytest.mark.browser",
    "not database": "pytest.mark.django_db",
}
MARKS_OF_A_FILE = re.compile(r"^pytestmark = (\[[^\]]*\]|.*)", re.MULTILINE)


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


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass over a file whose tests are all left out: importing torch for them takes longer than many quick tests."""
    conditions = config.option.markexpr.split(" and ")
    marks = [mark for condition, mark in LEFT_OUT.items() if condition in conditions]
    if not marks or collection_path.suffix != ".py":
        return None
    found = MARKS_OF_A_FILE.search(collection_path.read_text(encoding="utf-8"))
    return True if found and any(mark in found[1] for mark in marks) else None


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
