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
FLAT = Memory("api", first_mb=100, last_mb=104, slope_mb_per_minute=0.1, oldest_minutes=9)


def soaked(*outcomes: Outcome, **more) -> Soaked:
    kills = [Kill("api", was_first=False, at=20.0, recovered_s=1.0)]
    usual = {"quiet": [], "batches": ["completed"], "kills": kills, "memory": [FLAT], "switches_s": [0.4]}
    return Soaked(minutes=1, users=1, teams=1, tokens=1, outcomes=list(outcomes), **(usual | more))


def missed(found: Soaked, rows: list[soak_ledger.Row]) -> list[str]:
    ledger = soak_ledger.compare(found.outcomes + found.quiet, rows)
    ledger.usage_tokens, ledger.usage_requests = ledger.ledger_tokens, ledger.ledger_rows
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
        (soaked(GOOD, switches_s=[5.1]), [("r1", 5, 3)], "5.10 s (slowest"),
        (soaked(GOOD, quiet=[replace(GOOD, result=ERROR, status=503)]), [("r1", 5, 3)], "1 of 1 requests failed"),
    ],
)
def test_each_fault_is_called_one(found, rows, said):
    assert any(said in text for text in missed(found, rows))


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
