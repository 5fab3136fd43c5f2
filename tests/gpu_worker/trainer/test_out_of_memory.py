"""Memory that really runs out: what the kernel refuses, the trainer hears from torch's allocator.

A trainer measures what is free and takes no more. So that memory runs out all the same, it is taken away once the
measuring is done, as another program of the machine would.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.forked import Forked
from tests.gpu_worker.trainer.jobs import ROOT, losses, only, parse, run_here, ticket_rows, write_job

pytestmark = pytest.mark.slow

CRAMPED = str(ROOT / "tests" / "gpu_worker" / "cramped_trainer.py")


def long_rows(count: int) -> list[dict]:
    rows = ticket_rows(count)
    for row in rows:
        row["messages"][1]["content"] += " and nobody knows why" * 20
    return rows


@pytest.fixture
def job(tmp_path, base_model):
    def job(folder, **chosen):
        chosen = {"batch_size": 32, "micro_batch_size": 32, "epochs": 2, "evaluations_per_epoch": 0, **chosen}
        return write_job(tmp_path / folder, base_model, train=long_rows(32), path="general", **chosen)

    return job


def run_cramped(job, room: int) -> tuple[int, list[dict], str]:
    (job.root / "behaviour.json").write_text(json.dumps({"room": room}))
    process = Forked(
        [sys.executable, CRAMPED, str(job.root)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=120)
    return process.returncode, parse(out), err


def test_memory_that_runs_out_halves_the_micro_batches_and_the_result_stays(job):
    _, plain = run_here(job("plain"))
    code, events, err = run_cramped(job("cramped"), room=150_000_000)
    warnings = [event["message"] for event in events if event.get("level") == "warning"]
    assert code == 0, err[-2000:]
    assert warnings, "the room is too large for this test"
    assert "micro-batches of 16 rows" in warnings[0]
    assert losses(events) == pytest.approx(losses(plain), rel=1e-4)
    assert only(events, "finished")["trained_tokens"] == only(plain, "finished")["trained_tokens"]


def test_where_not_one_row_fits_the_run_fails_with_advice(job):
    code, events, err = run_cramped(job("cramped"), room=1_000_000)
    assert code == 1, err[-2000:]
    failed = only(events, "failed")
    assert failed["code"] == "out_of_memory"
    assert "Choose" in failed["message"]
