"""Several processes behind one wall, seen as one: the curve of one, one ending, and nobody left behind."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gpu_worker import private_network
from gpu_worker.child_process import ChildProcess, Surroundings
from gpu_worker.trainer import checkpoints
from portal.process_table import group_is_alive, living_processes
from tests.gpu_worker.trainer.jobs import ROOT, job_for_several, losses, only, parse, run_here, validation_losses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not private_network.is_offered(), reason="this kernel gives processes no network of their own"),
]
TRAINER = (sys.executable, "-m", "gpu_worker.trainer")


@pytest.fixture
def job(tmp_path, base_model):
    return lambda folder, **chosen: job_for_several(tmp_path / folder, base_model, **chosen)


@pytest.fixture
def start(base_model):
    """Start the trainer as a supervisor does, behind the wall, in several processes."""
    started = []

    def start(job, count=2, program=TRAINER):
        lock = os.open(job.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        around = Surroundings(
            job=job.root, project=ROOT, slot=0, slots=count, lock=lock, base_model=base_model,
            more_slots=tuple(range(1, count)), processes=count,
        )  # fmt: skip
        command = (sys.executable, "-m", "gpu_worker.trainer.together", str(count), *program)
        child = ChildProcess(command, around, output=job.root / "events.jsonl", log=job.root / "log")
        os.close(lock)
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()


def wait_for(condition, job, limit_s=300.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, (job.root / "log").read_text()[-3000:]
        time.sleep(0.02)


def end_of(child, job):
    wait_for(lambda: child.poll() is not None, job)
    return child.poll()


def said(job):
    return parse((job.root / "events.jsonl").read_text())


def ranks_of(child):
    return [entry.pid for entry in living_processes() if entry.parent == child.pid]


def test_two_processes_behind_the_wall_have_the_loss_curve_of_one(job, start):
    folder = job("together")
    child = start(folder)
    _, alone = run_here(job("alone"))
    assert end_of(child, folder) == 0, (folder.root / "log").read_text()[-3000:]
    events = said(folder)
    assert only(events, "started")["processes"] == 2
    assert losses(events) == pytest.approx(losses(alone), abs=1e-3)
    assert validation_losses(events) == pytest.approx(validation_losses(alone), abs=1e-3)
    assert (folder.adapter / "adapter_model.safetensors").exists()


def test_a_divided_base_model_works_behind_the_wall(job, start):
    chosen = {"path": "general", "epochs": 1}
    folder = job("divided", divide_base_model="yes", **chosen)
    child = start(folder)
    _, alone = run_here(job("alone", **chosen))
    assert end_of(child, folder) == 0, (folder.root / "log").read_text()[-3000:]
    assert "FSDP2" in only(said(folder), "started")["why"]
    assert losses(said(folder)) == pytest.approx(losses(alone), abs=1e-3)


def test_a_trial_measures_steps_that_several_take_together(job, start):
    folder = job("trial", epochs=20)
    spec = json.loads((folder.root / "spec.json").read_text())
    (folder.root / "spec.json").write_text(json.dumps({**spec, "preflight": True}))
    child = start(folder)
    assert end_of(child, folder) == 0, (folder.root / "log").read_text()[-3000:]
    assert only(said(folder), "preflight")["seconds_per_token"] > 0


def test_a_stop_is_handed_on_to_all(job, start):
    folder = job("job", epochs=90, evaluations_per_epoch=0)
    child = start(folder)
    wait_for(lambda: said(folder) and said(folder)[-1].get("step", 0) >= 3, folder)
    child.stop(60)
    assert end_of(child, folder) == 75
    stopped = only(said(folder), "stopped")
    assert checkpoints.newest_first(folder.checkpoints)[0].name == f"step-{stopped['step']}"
    assert not group_is_alive(child.pid)


@pytest.mark.parametrize("victim", [0, 1])
def test_one_that_is_killed_ends_all_as_if_it_had_been_alone(job, start, victim):
    folder = job("job", epochs=90, evaluations_per_epoch=0, checkpoint_every_steps=2)
    child = start(folder)
    wait_for(lambda: any(event["event"] == "checkpoint" for event in said(folder)), folder)
    os.kill(sorted(ranks_of(child))[victim], signal.SIGKILL)
    assert end_of(child, folder) == -signal.SIGKILL
    assert not [event for event in said(folder) if event["event"] == "failed"]
    assert not group_is_alive(child.pid)


def test_none_outlives_the_one_that_started_them(job, start):
    folder = job("job", epochs=90, evaluations_per_epoch=0)
    child = start(folder)
    wait_for(lambda: said(folder) and said(folder)[-1].get("step", 0) >= 1, folder)
    ranks = ranks_of(child)
    assert len(ranks) == 2
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: not group_is_alive(child.pid), folder)


# --- endings, by programs that are over at once ---------------------------------------------------------------------


def ended(tmp_path, *programs):
    """Run one program for each process; return the exit code and what was said."""
    choose = "import os, sys; exec(sys.argv[1:][int(os.environ['RANK'])])"
    command = [sys.executable, "-m", "gpu_worker.trainer.together", str(len(programs)), sys.executable, "-c", choose]
    done = subprocess.run([*command, *programs], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, parse(done.stdout)


FAIL = 'print(\'{"event": "phase"}\'); print(\'{"event": "failed", "code": "%s"}\'); sys.exit(1)'
WAIT = "import time; time.sleep(600)"
LOST = "sys.exit(76)"


def test_what_another_than_the_first_fails_of_is_said_once(tmp_path):
    assert ended(tmp_path, LOST, FAIL % "disk_full") == (1, [{"event": "failed", "code": "disk_full"}])
    assert ended(tmp_path, WAIT, FAIL % "disk_full") == (1, [{"event": "failed", "code": "disk_full"}])
    code, events = ended(tmp_path, FAIL % "bad_data", FAIL % "bad_data")
    assert code == 1
    assert [event["event"] for event in events] == ["phase", "failed"]


@pytest.mark.parametrize(
    ("programs", "code"),
    [
        (("pass", "pass"), 0),
        (("sys.exit(75)", LOST), 75),
        ((LOST, "sys.exit(75)"), 75),
        ((LOST, LOST), 75),
        ((LOST, "os.kill(os.getpid(), 9)"), -9),
        ((WAIT, "os.kill(os.getpid(), 15)"), -15),
        (("pass", "sys.exit(1)"), 0),
    ],
)
def test_they_end_as_the_one_that_ended_the_others(programs, code, tmp_path):
    assert ended(tmp_path, *programs) == (code, [])


def test_each_knows_its_place(tmp_path):
    show = "import json; print(json.dumps({n: os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')}))"
    code, events = ended(tmp_path, show, "sys.exit(0 if os.environ['RANK'] == '1' else 9)")
    assert (code, events) == (0, [{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}])
