"""`kill -9` while a checkpoint is written or put in place: the run goes on from a whole one, with the same curve.

The trainer kills itself at the moment, so that it is hit every time.
"""

import os
import signal
import subprocess
import sys

import pytest

from gpu_worker.trainer import checkpoints
from tests.forked import Forked
from tests.gpu_worker.trainer.jobs import ROOT, losses, only, run_here, ticket_rows, write_job

pytestmark = pytest.mark.slow

# {owner}.{name}: what is done when it ends, and whether it still does its work. The first checkpoint is spared.
KILLED = """
import os, signal, sys
from pathlib import Path
from gpu_worker.trainer import checkpoints, storage
from gpu_worker.trainer.__main__ import main

work, calls = {owner}.{name}, []

def die(*arguments, **options):
    target = [str(one) for one in arguments if isinstance(one, (str, Path))]
    if any("step-4" in one for one in target):
        calls.append(1)
        if len(calls) == {call}:
            if {after}:
                work(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
    return work(*arguments, **options)

{owner}.{name} = die
sys.exit(main(sys.argv[1:]))
"""
# what the trainer is doing → owner, name, how often it has been called, whether it is done
MOMENTS = {
    "before the tensors": ("checkpoints", "save_file", 1, False),
    "between tensors and counters": ("checkpoints", "save_file", 1, True),
    "between counters and manifest": ("checkpoints", "sha256_of", 1, False),
    "before it is made durable": ("storage", "_fsync", 1, False),
    "in the middle of that": ("storage", "_fsync", 3, True),
    "before the rename": ("storage", "_replace_folder", 1, False),
    "after the rename": ("storage", "_replace_folder", 1, True),
    "while the folder is made durable": ("Path", "rename", 1, True),
}


@pytest.fixture
def job(tmp_path, base_model):
    def job(folder, **chosen):
        chosen = {"epochs": 1, "batch_size": 2, "checkpoint_every_steps": 2, "lora_r": 4, **chosen}
        return write_job(tmp_path / folder, base_model, train=ticket_rows(12), **chosen)

    return job


@pytest.fixture(scope="module")
def whole(tmp_path_factory, base_model):
    chosen = {"epochs": 1, "batch_size": 2, "checkpoint_every_steps": 2, "lora_r": 4}
    folder = tmp_path_factory.mktemp("whole")
    return losses(run_here(write_job(folder, base_model, train=ticket_rows(12), **chosen))[1])


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_while_it_saves_resumes_from_a_whole_checkpoint(job, whole, moment):
    owner, name, call, after = MOMENTS[moment]
    half = job("half")
    process = Forked(
        [sys.executable, "-c", KILLED.format(owner=owner, name=name, call=call, after=after), str(half.root)],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    _out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, err
    code, events = run_here(job("half", resume=True))
    resumed_from = only(events, "started")["resumed_from_step"]
    assert code == 0
    assert resumed_from in (2, 4)
    assert (resumed_from == 4) == (moment in ("after the rename", "while the folder is made durable"))
    assert not any("refused" in event.get("message", "") for event in events)
    assert losses(events) == pytest.approx({step: whole[step] for step in losses(events)}, abs=1e-6)
    assert max(losses(events)) == 6
    assert [path.name for path in sorted(half.checkpoints.iterdir())] == ["step-4", "step-6"]
    assert checkpoints.newest_first(half.checkpoints)[0].name == "step-6"
