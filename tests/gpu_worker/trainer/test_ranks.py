"""Several processes train as one: the same curve, one voice, and a stop that all of them take at the same step."""

import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from gpu_worker.trainer import checkpoints
from gpu_worker.trainer.ranks import ManyRanks, Ranks
from tests.forked import Forked
from tests.gpu_worker.trainer.jobs import (
    ROOT,
    command,
    job_for_several,
    losses,
    only,
    parse,
    run_here,
    validation_losses,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path, base_model):
    return lambda folder, **chosen: job_for_several(tmp_path / folder, base_model, **chosen)


def start_together(job, count: int = 2) -> subprocess.Popen:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return subprocess.Popen(
        [sys.executable, *command, "-m", "gpu_worker.trainer", str(job.root)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_have_the_loss_curve_of_one(job):
    _, alone = run_here(job("alone"))
    together = job("together")
    process = start_together(together)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err[-2000:]
    events = parse(out)
    assert losses(events) == pytest.approx(losses(alone), abs=1e-3)
    assert validation_losses(events) == pytest.approx(validation_losses(alone), abs=1e-3)
    first, second = only(alone, "finished"), only(events, "finished")
    assert second["trained_tokens"] == first["trained_tokens"]
    assert [path.name for path in checkpoints.newest_first(together.checkpoints)] == ["step-8"]
    assert (together.adapter / "adapter_model.safetensors").exists()
    again = job("together", resume=True)
    assert only(run_here(again)[1], "started")["resumed_from_step"] == 8


def fork_together(job, count: int = 2, program: str = "") -> list[Forked]:
    """As torch's launcher starts them, without its own process and without importing torch anew.

    `program`: what is run instead of the trainer's own command.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    common = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **meeting}
    return [
        Forked(
            [sys.executable, "-c", program, str(job.root)] if program else command(job),
            cwd=ROOT,
            env={**common, "RANK": str(number), "LOCAL_RANK": str(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(count)
    ]


def test_a_divided_base_model_has_the_loss_curve_of_a_whole_one(job):
    """Unequal rows, so that processes would compute different numbers of micro-batches if nobody took care."""
    chosen = {"path": "general", "micro_batch_size": 1, "batch_size": 5, "epochs": 1}
    processes = fork_together(job("divided", divide_base_model="yes", **chosen))
    _, alone = run_here(job("alone", **chosen))
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said[0][1][-2000:]
    events = parse(said[0][0])
    assert "FSDP2" in only(events, "started")["why"]
    assert losses(events) == pytest.approx(losses(alone), abs=1e-3)
    assert validation_losses(events) == pytest.approx(validation_losses(alone), abs=1e-3)


# In the second process memory runs out for more rows than fit: in the middle of what both have to do together.
RUNS_OUT = """
import os, sys, torch
from transformers.models.llama.modeling_llama import LlamaMLP
from gpu_worker.trainer import answer_head
from gpu_worker.trainer.general import GeneralLearner
from gpu_worker.trainer.__main__ import main

WHERE, MOST_ROWS = "PLACE", int("ROWS_THAT_FIT")
state = {"is_too_much": False, "learns": False, "layer": 0}

def run_out(where, **here):
    if WHERE == where and state["is_too_much"] and state["learns"]:
        if os.environ["RANK"] == "1" and all(state[name] == value for name, value in here.items()):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

class Turning(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, d_x):
        run_out("backward")
        return d_x

def loss(self, rows, real=GeneralLearner._loss):
    state.update(is_too_much=len(rows) > MOST_ROWS, learns=torch.is_grad_enabled(), layer=0)
    run_out("before the layers")
    return real(self, rows)

def mlp(self, x, real=LlamaMLP.forward):
    if torch._C._current_graph_task_id() != -1:
        run_out("computing again")
    else:
        run_out("forward", layer=0)
        x = Turning.apply(x) if state["layer"] == 1 else x
        state["layer"] += 1
    return real(self, x)

def piece(*given, real=answer_head._piece):
    run_out("head")
    return real(*given)

GeneralLearner._loss, LlamaMLP.forward, answer_head._piece = loss, mlp, piece
sys.exit(main(sys.argv[1:]))
"""
DIVIDED = {"path": "general", "divide_base_model": "yes", "micro_batch_size": 4, "epochs": 1}


@pytest.mark.parametrize("place", ["before the layers", "forward", "head", "backward", "computing again"])
def test_memory_that_runs_out_in_one_process_halves_the_micro_batches_of_all(job, place):
    chosen = DIVIDED | {"gradient_checkpointing": place == "computing again"}
    processes = fork_together(
        job("job", **chosen), program=RUNS_OUT.replace("PLACE", place).replace("ROWS_THAT_FIT", "1")
    )
    _, alone = run_here(job("alone", **chosen))
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said[1][1][-2000:]
    events = parse(said[0][0])
    warnings = [event["message"] for event in events if event.get("level") == "warning"]
    assert len(warnings) == 1
    assert "micro-batches of 1 rows" in warnings[0]
    assert losses(events) == pytest.approx(losses(alone), abs=1e-3)
    assert validation_losses(events) == pytest.approx(validation_losses(alone), abs=1e-3)


def test_where_one_process_has_no_room_for_a_row_all_fail_with_the_same_advice(job):
    program = RUNS_OUT.replace("PLACE", "forward").replace("ROWS_THAT_FIT", "0")
    processes = fork_together(job("job", **DIVIDED), program=program)
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [1, 1], said[1][1][-2000:]
    failures = [only(parse(out), "failed") for out, _complained in said]
    assert [failed["code"] for failed in failures] == ["out_of_memory"] * 2
    assert "one row at a time" in failures[0]["message"]


# In the second process the newest checkpoints cannot be read.
REFUSING = """
import os, sys
from gpu_worker.trainer import checkpoints
from gpu_worker.trainer.__main__ import main

def load(path, *, real=checkpoints.load, **given):
    if os.environ["RANK"] == "1" and checkpoints.step_of(path) >= STEP:
        raise checkpoints.CheckpointError("its disk is broken")
    return real(path, **given)

checkpoints.load = load
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("broken_from", "begin"), [(8, 4), (1, None)])
def test_all_go_on_from_a_checkpoint_that_all_can_read_or_all_begin_anew(job, broken_from, begin):
    chosen = {"path": "general", "checkpoint_every_steps": 4}
    _, whole = run_here(job("job", **chosen))
    processes = fork_together(job("job", resume=True, **chosen), program=REFUSING.replace("STEP", str(broken_from)))
    said = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said[1][1][-2000:]
    events = parse(said[0][0])
    assert only(events, "started")["resumed_from_step"] == begin
    warnings = [event["message"] for event in events if event.get("level") == "warning"]
    assert len(warnings) == (1 if begin else 2)
    assert "Checkpoint step-8 is refused by another process" in warnings[0]
    learned = {step: loss for step, loss in losses(whole).items() if step > (begin or 0)}
    assert losses(events) == pytest.approx(learned, abs=1e-3)


# There is time for answers in this one, however short the run is.
ANSWERING = """
import sys
from gpu_worker.trainer import loop, plan
from gpu_worker.trainer.__main__ import main
loop.VALIDATION_SHARE = 100.0
plan.FREE_VALIDATION_TOKENS = 10**9
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", [{}, {"dora": True}])
def test_the_first_process_answers_and_all_hear_how_good_it_was(job, kind):
    """Answers are too short to be exact, so of checks that asked the lower loss wins, until one is no better."""
    chosen = {"early_stopping_metric": "exact_match", "early_stopping_patience": 1, "epochs": 9, "keep_weights": "best"}
    folder = job("job", learning_rate=0.05, max_new_tokens=4, **chosen, **kind)
    processes = fork_together(folder, program=ANSWERING)
    said = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said[0][1][-2000:]
    assert said[1][0] == ""
    events = parse(said[0][0])
    asked = [event["step"] for event in events if event["event"] == "sample"]
    found = validation_losses(events)
    worse = [step for before, step in pairwise(asked) if found[step] >= found[before]]
    assert asked == list(range(4, asked[-1] + 1, 4))
    assert only(events, "finished")["step"] == asked[-1] == (worse or [36])[0]


def test_a_stop_is_taken_by_all_at_the_same_step(job):
    folder = job("job", epochs=90, evaluations_per_epoch=0)
    process = start_together(folder)
    events = []
    for line in process.stdout:
        events += parse(line)
        if events[-1].get("step", 0) >= 3:
            break
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 60
    out, _err = process.communicate(timeout=60)
    stopped = only(parse(out), "stopped")
    assert time.monotonic() < deadline
    assert checkpoints.newest_first(folder.checkpoints)[0].name == f"step-{stopped['step']}"
    assert (folder.adapter / "adapter_model.safetensors").exists()


def test_shares_cover_a_batch_once_with_nearly_equal_work():
    lengths = [5, 80, 20, 60, 40, 10, 70]
    shares = []
    for number in range(3):
        rank = object.__new__(ManyRanks)
        rank.number, rank.count = number, 3
        shares.append(rank.share(range(7), lengths))
    assert sorted(row for share in shares for row in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert Ranks().share([4, 2], lengths) == [4, 2]
