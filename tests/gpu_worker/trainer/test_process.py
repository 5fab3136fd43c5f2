"""The trainer as the supervisor meets it: a process with events on standard output and an exit code."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from gpu_worker.trainer import checkpoints
from tests.gpu_worker.trainer.jobs import (
    ROOT,
    losses,
    only,
    parse,
    run_here,
    run_process,
    start_process,
    ticket_rows,
    write_job,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path, base_model):
    def job(folder="job", base=base_model, **chosen):
        return write_job(tmp_path / folder, base, train=ticket_rows(24), validation=ticket_rows(6, seed=9), **chosen)

    return job


def long_job(job, folder="job", **chosen):
    """A run that would take minutes."""
    return job(folder, batch_size=4, epochs=90, evaluations_per_epoch=0, checkpoint_every_steps=5, **chosen)


def read_until(process, event: str, at_least: int = 0) -> list[dict]:
    """Read events until one of that name and step has come."""
    events = []
    for line in process.stdout:
        events += parse(line)
        if events[-1]["event"] == event and events[-1].get("step", 0) >= at_least:
            return events
    raise AssertionError(f"ended without {event}: {process.stderr.read()}")


def test_a_run_from_beginning_to_end(job):
    code, events, err = run_process(job(epochs=2, batch_size=8))
    assert code == 0, err
    phases = [event["phase"] for event in events if event["event"] == "phase"]
    assert phases == ["loading", "tokenizing", "loading", "training", "saving"]
    started, finished = only(events, "started"), only(events, "finished")
    assert (started["total_steps"], started["rows"], started["path"]) == (6, 24, "fast")
    assert started["label_tokens_per_epoch"] < started["tokens_per_epoch"]
    assert finished["step"] == 6
    assert finished["trained_tokens"] == 2 * started["tokens_per_epoch"]
    assert finished["validation_loss"] < next(e["validation_loss"] for e in events if "validation_loss" in e)
    assert 50e6 < finished["peak_memory_bytes"] < 2e9
    assert set(losses(events)) == set(range(1, 7))
    assert all(isinstance(event["at"], float) for event in events)
    step = next(event for event in events if "loss" in event)
    assert {"epoch", "learning_rate", "grad_norm", "tokens_per_s", "eta_s", "memory_bytes"} <= step.keys()


def test_same_seed_same_run_whether_in_this_process_or_in_another(job):
    _, events, _ = run_process(job("one", epochs=1))
    _, again = run_here(job("two", epochs=1))
    _, other = run_here(job("three", epochs=1, seed=5))
    assert losses(events) == pytest.approx(losses(again), rel=1e-6)
    assert losses(other) != pytest.approx(losses(again), rel=1e-6)


def test_stop_saves_checkpoint_and_adapter_and_can_be_continued(job):
    process = start_process(long_job(job))
    read_until(process, "metric", at_least=3)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert time.monotonic() - asked < 30
    stopped = only(parse(out), "stopped")
    folder = long_job(job)
    assert stopped["checkpoint"] == f"checkpoints/step-{stopped['step']}"
    assert checkpoints.newest_first(folder.checkpoints)[0].name == f"step-{stopped['step']}"
    assert {path.name for path in folder.adapter.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    _, events = run_here(long_job(job, resume=True, max_minutes=0.1))
    assert only(events, "started")["resumed_from_step"] == stopped["step"]


def test_stop_before_anything_was_learned(job):
    process = start_process(job())
    read_until(process, "phase")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert only(parse(out), "stopped")["step"] == 0


def test_a_killed_run_resumes_as_if_nothing_had_happened(job):
    _, whole = run_here(job("whole", epochs=8, batch_size=4, checkpoint_every_steps=5))
    half = job("half", epochs=8, batch_size=4, checkpoint_every_steps=5)
    process = start_process(half)
    read_until(process, "checkpoint", at_least=10)
    process.kill()
    process.communicate(timeout=60)
    half = job("half", epochs=8, batch_size=4, checkpoint_every_steps=5, resume=True)
    code, events = run_here(half)
    assert code == 0
    assert only(events, "started")["resumed_from_step"] >= 10
    assert losses(events) == pytest.approx({step: losses(whole)[step] for step in losses(events)}, abs=1e-3)
    assert only(events, "finished")["train_loss"] == pytest.approx(only(whole, "finished")["train_loss"], abs=1e-3)


def test_a_run_with_noise_that_is_killed_anywhere_resumes_as_if_nothing_had_happened(job):
    """Dropout, DoRA and noise on the input draw random numbers in every step: they come again as they were."""
    chosen = {"epochs": 6, "batch_size": 4, "lora_r": 4, "dora": True, "neftune_alpha": 5, "lora_dropout": 0.2}
    chosen |= {"checkpoint_every_steps": 3, "evaluations_per_epoch": 1, "keep_weights": "best"}
    _, whole = run_here(job("whole", **chosen))
    process = start_process(job("half", **chosen))
    read_until(process, "metric", at_least=random.randint(4, 20))
    process.kill()
    process.communicate(timeout=60)
    code, events = run_here(job("half", **chosen, resume=True))
    assert code == 0
    assert only(events, "started")["resumed_from_step"] >= 3
    assert losses(events) == pytest.approx({step: losses(whole)[step] for step in losses(events)}, abs=1e-3)
    assert only(events, "finished")["validation_loss"] == pytest.approx(
        only(whole, "finished")["validation_loss"], abs=1e-3
    )


def test_it_dies_with_its_supervisor(job):
    folder = long_job(job)
    start_child_and_wait = (
        "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", start_child_and_wait, sys.executable, "-m", "gpu_worker.trainer", str(folder.root)],
        cwd=ROOT,
        env={**os.environ, "TUNEPORT_STANDALONE": "0"},
        stdout=subprocess.PIPE,
        text=True,
    )
    trainer_pid = int(supervisor.stdout.readline())
    read_until(supervisor, "metric", at_least=2)
    supervisor.kill()
    supervisor.wait()
    for _ in range(300):
        if not alive(trainer_pid):
            break
        time.sleep(0.1)
    assert not alive(trainer_pid)
    assert folder.adapter.exists()  # it was asked to stop, not killed


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_broken_base_model_is_noticed_at_the_first_loss(job, base_model, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in base_model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, broken / "model.safetensors")
    code, events, _ = run_process(job(base=broken))
    assert code == 1
    failed = only(events, "failed")
    assert failed["code"] == "nan_loss"
    assert "learning rate" in failed["message"]


def test_broken_data_and_missing_models_fail_with_a_code_and_a_sentence(job, tmp_path):
    folder = job()
    folder.train_rows.write_text('{"row": 2, "messages": [{"role": "user", "content": "secret"}]}')
    code, events, _ = run_process(folder)
    assert (code, only(events, "failed")["code"]) == (1, "bad_data")
    assert "secret" not in str(events)
    code, events, _ = run_process(job("other", base=tmp_path / "nowhere"))
    assert (code, only(events, "failed")["code"]) == (1, "bad_base_model")


def test_a_spec_that_makes_no_sense_names_the_field(job):
    folder = job(epochs=-1)
    code, events, _ = run_process(folder)
    assert (code, only(events, "failed")["code"]) == (1, "internal")
    assert "epochs" in only(events, "failed")["message"]


@pytest.mark.parametrize("visible", ["0", "-1", ""])
def test_a_gpu_that_cannot_be_used_is_told(tmp_path, base_model, monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    _code, events = run_here(write_job(tmp_path, base_model, train=ticket_rows(4), max_steps=1))
    told = [event["message"] for event in events if event["event"] == "log"]
    assert any("GPU" in message for message in told) == (visible == "0")
