"""The soak's own judgement: what it compares, and that it calls a fault a fault."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from gpu_worker.benchmarks import soak_ledger, soak_processes, soak_report
from gpu_worker.benchmarks.soak_load import ANSWER, BATCH_LINE, BROKEN, ERROR, HUNG_UP, WRONG, Outcome
from gpu_worker.benchmarks.soak_measure import Soaked
from gpu_worker.benchmarks.soak_processes import Kill, Memory

GOOD = Outcome("plain", "r1", "team", ANSWER, started=10.0, ended=11.0, status=200, usage=(5, 3))
FLAT = Memory(
    "api", lives=3, first_mb=100, last_mb=104, begun_mb=101, ended_mb=105, slope_mb_per_minute=0.1, longest_minutes=9
)


def soaked(*outcomes: Outcome, **more) -> Soaked:
    kills = [Kill("api", was_first=False, at=20.0, recovered_s=1.0)]
    usual = {"quiet": [], "batches": ["completed"], "kills": kills, "memory": [FLAT], "switches_s": [0.4]}
    return Soaked(minutes=1, users=1, teams=1, tokens=1, outcomes=list(outcomes), **(usual | more))


def missed(found: Soaked, rows: list[soak_ledger.Row]) -> list[str]:
    ledger = soak_ledger.compare(found.outcomes + found.quiet, rows)
    ledger.usage_tokens, ledger.usage_requests = ledger.ledger_tokens, ledger.ledger_rows
    ledger.held_tokens, ledger.window_tokens = 30, ledger.ledger_tokens + 30
    assert "| plain |" in soak_report.section(found, ledger, "tiny")
    return [text for text, is_reached in soak_report.bars(found, ledger) if not is_reached]


def test_everything_in_order():
    others = [
        replace(GOOD, request_id="r2", result=ERROR, status=503, code="model_loading", usage=None),
        replace(GOOD, request_id="r3", result=HUNG_UP, usage=None),
        replace(GOOD, request_id="r4", result=BROKEN, usage=None, started=19.0, ended=20.0),
    ]
    line = replace(GOOD, kind=BATCH_LINE, request_id="r5")
    # its first try found no engine
    assert missed(soaked(GOOD, line), [("r1", 5, 3), ("r5", 0, 0), ("r5", 5, 3)]) == []
    assert missed(soaked(GOOD, *others), [("r1", 5, 3), ("r3", 5, 1), ("of a batch's second try", 5, 3)]) == []


@pytest.mark.parametrize(
    ("found", "rows", "said"),
    [
        (soaked(GOOD), [], "1 missing"),
        (soaked(GOOD), [("r1", 5, 2)], "1 differ"),
        (soaked(GOOD), [("r1", 5, 3)] * 2, "1 twice"),
        (soaked(GOOD), [("r1", 5, 3), ("r1", 0, 0)], "1 twice"),
        (soaked(replace(GOOD, result=HUNG_UP, usage=None)), [("r1", 5, 0)] * 2, "1 twice"),
        (soaked(replace(GOOD, result=WRONG, code="x")), [], "otherwise 1 did (1 × plain: wrong 200 x)"),
        (soaked(replace(GOOD, result=BROKEN)), [], "1 of them without a server killed"),
        (soaked(GOOD, batches=["completed", "failed"]), [("r1", 5, 3)], "1 × failed"),
        (soaked(GOOD, kills=[Kill("web", True, 1.0, None)]), [("r1", 5, 3)], "works again"),
        (soaked(GOOD, memory=[replace(FLAT, last_mb=150)]), [("r1", 5, 3)], "not of api"),
        (soaked(GOOD, memory=[replace(FLAT, ended_mb=120)]), [("r1", 5, 3)], "not of api"),
        (soaked(GOOD, memory=[]), [("r1", 5, 3)], "no process lived long enough"),
        (soaked(GOOD, switches_s=[5.1]), [("r1", 5, 3)], "5.10 s (slowest"),
        (soaked(GOOD, quiet=[replace(GOOD, result=ERROR, status=503)]), [("r1", 5, 3)], "1 of 1 requests failed"),
    ],
)
def test_each_fault_is_called_one(found, rows, said):
    assert any(said in text for text in missed(found, rows))


@pytest.mark.parametrize(("held", "window", "is_reached"), [(0, 8, True), (5, 13, True), (5, 8, False), (0, 9, False)])
def test_windows_hold_the_ledger_and_what_is_set_aside(held, window, is_reached):
    ledger = soak_ledger.compare([GOOD], [("r1", 5, 3)])
    ledger.held_tokens, ledger.window_tokens = held, window
    [found] = [kept for text, kept in soak_report.bars(soaked(GOOD), ledger) if "windows hold" in text]
    assert found is is_reached


def life(begin: float, end: float, *mb: float) -> list[tuple[float, float]]:
    """A life with a sample every second, of which the memory takes equal parts of the time each."""
    seconds = int(end - begin)
    return [(begin + at, mb[min(len(mb) - 1, at * len(mb) // seconds)]) for at in range(seconds)]


def test_memory_is_judged_by_lives():
    # the second life ends where the first one did: each new one grows, which is no leak, and is not looked at
    memory = Memory.of("api", [life(0, 300, 50, 90, 100, 100, 100), life(300, 600, 50, 90, 100, 100, 100)])
    assert (memory.lives, memory.first_mb, memory.last_mb) == (2, 100, 100)
    assert soak_report.is_flat(memory)
    assert memory.longest_minutes == pytest.approx(4, abs=0.1)
    later_bigger = Memory.of("api", [life(0, 300, 100), life(300, 600, 140)])
    assert (later_bigger.first_mb, later_bigger.last_mb) == (100, 140)
    growing = Memory.of("api", [life(0, 300, 100, 100, 120, 140, 160)])
    assert (growing.begun_mb, growing.ended_mb) == (100, 160)
    assert growing.slope_mb_per_minute > 10
    assert not soak_report.is_flat(later_bigger)
    assert not soak_report.is_flat(growing)
    assert Memory.of("engine", [life(0, 100, 100), life(100, 200, 900)]) is None


@pytest.mark.slow
def test_processes_are_known_by_their_installation_and_one_that_is_killed_is_noticed(tmp_path):
    """A stand-in of an engine: a process with its command line that belongs to the folder."""

    def start() -> subprocess.Popen:
        code = "import time; time.sleep(60)"
        return subprocess.Popen([sys.executable, "-c", code, "gpu_worker.engine", str(tmp_path)])

    first, second = start(), None
    try:
        while not soak_processes.processes_of(tmp_path):
            time.sleep(0.01)
        [there] = soak_processes.processes_of(tmp_path)
        assert (there.role, there.entry.pid, there.is_first) == ("engine", first.pid, True)
        watch = soak_processes.Watch(tmp_path, seed=1, every_s=0.05, is_up=lambda role: True)
        watch.start(["engine"])
        first.wait(20)
        second = start()
        while not watch.kills:
            time.sleep(0.01)
        watch.stop()
        assert first.returncode == -signal.SIGKILL
        assert (watch.kills[0].role, watch.kills[0].was_first) == ("engine", True)
        assert watch.kills[0].recovered_s > 0
        assert soak_processes.processes_of(tmp_path / "another") == []
    finally:
        for process in (first, second):
            if process is not None and process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
