"""Checkpoints are written beside the steps: nobody waits for the disk, and nothing is told before it is safe."""

import threading
import time

import pytest
from safetensors.torch import load_file

from gpu_worker.trainer import checkpoints
from gpu_worker.trainer import job as job_module
from gpu_worker.trainer.checkpoint_writer import CheckpointWriter
from gpu_worker.trainer.errors import EXIT_STOPPED, TrainingError
from gpu_worker.trainer.events import Events
from gpu_worker.trainer.job import Job
from gpu_worker.trainer.stop import StopFlag
from tests.gpu_worker.trainer.jobs import only, run_here, ticket_rows, write_job

FULL = TrainingError("disk_full", "The disk is full. Free space, then resume.")


class Told(Events):
    """Keeps events with the thread that told them; `until` waits for one of them."""

    def __init__(self):
        self.events, self.threads, self._news = [], set(), threading.Condition()

    def emit(self, event, **fields):
        with self._news:
            self.events.append({"event": event, **fields})
            self.threads.add(threading.current_thread().name)
            self._news.notify_all()

    def until(self, condition, limit_s=30.0):
        with self._news:
            return self._news.wait_for(lambda: any(map(condition, self.events)), limit_s)


@pytest.fixture
def job(tmp_path, base_model):
    def job(name="job", **chosen):
        chosen = {"epochs": 2, "batch_size": 4, "checkpoint_every_steps": 2, "evaluations_per_epoch": 0} | chosen
        return write_job(tmp_path / name, base_model, train=ticket_rows(12), **chosen)

    return job


@pytest.mark.slow
def test_steps_go_on_while_a_checkpoint_is_written_and_do_not_change_it(job, monkeypatch):
    code, _events = run_here(job("calm", keep_weights="every"))
    assert code == 0
    told, save, overtaken = Told(), checkpoints.save, []

    def slow(folder, state, **more):
        if state.progress.step == 2:
            overtaken.append(told.until(lambda event: event.get("step") == 4 and "loss" in event))
            assert not any(event["event"] == "checkpoint" for event in told.events), "told before it was safe"
        return save(folder, state, **more)

    monkeypatch.setattr(checkpoints, "save", slow)
    slowly = job("slow", keep_weights="every")
    assert Job(slowly, told, StopFlag()).run() == 0
    assert overtaken == [True]
    assert [event["step"] for event in told.events if event["event"] == "checkpoint"] == [2, 4, 6]
    assert told.threads == {threading.current_thread().name}
    for step in (2, 4, 6):
        name = f"kept/step-{step}/adapter_model.safetensors"
        one, other = (load_file(root / name) for root in (slowly.root, slowly.root.parent / "calm"))
        assert all(one[key].equal(other[key]) for key in other)
    for name in ("step-4", "step-6"):
        one, other = (
            load_file(root / "checkpoints" / name / checkpoints.STATE)
            for root in (slowly.root, slowly.root.parent / "calm")
        )
        assert all(one[key].equal(other[key]) for key in other)


def test_a_disk_that_fills_up_while_writing_ends_the_run_soon(job, monkeypatch):
    def fail(*_args, **_more):
        raise FULL

    monkeypatch.setattr(checkpoints, "save", fail)
    told = Told()
    with pytest.raises(TrainingError) as caught:
        Job(job(epochs=50), told, StopFlag()).run()
    assert caught.value.code == "disk_full"
    assert max(event.get("step", 0) for event in told.events) <= 4, "no later than when the next one was due"
    assert not any(event["event"] == "checkpoint" for event in told.events)


def test_weights_are_kept_before_the_checkpoint_from_which_a_run_goes_on(job, monkeypatch):
    def fail(*_args, **_more):
        raise FULL

    monkeypatch.setattr(checkpoints, "save", fail)
    one = job(keep_weights="every")
    with pytest.raises(TrainingError):
        Job(one, Told(), StopFlag()).run()
    assert (one.root / "kept" / "step-2" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("ending", ["finished", "stopped"])
def test_the_end_waits_for_the_last_checkpoint(job, monkeypatch, ending):
    stop, save = StopFlag(), checkpoints.save

    def slow(folder, state, **more):
        if ending == "stopped":
            stop.request()
        time.sleep(0.1)
        return save(folder, state, **more)

    monkeypatch.setattr(checkpoints, "save", slow)
    told, one = Told(), job()
    assert Job(one, told, stop).run() == (EXIT_STOPPED if ending == "stopped" else 0)
    names = [event["event"] for event in told.events]
    assert names.index(ending) > max(place for place, name in enumerate(names) if name == "checkpoint")
    assert (one.checkpoints / f"step-{only(told.events, ending)['step']}").is_dir()


def test_a_checkpoint_that_fails_at_the_end_fails_the_run(job, monkeypatch):
    save = checkpoints.save

    def fail_at_the_end(folder, state, **more):
        if state.progress.step == 6:
            raise FULL
        return save(folder, state, **more)

    monkeypatch.setattr(checkpoints, "save", fail_at_the_end)
    told = Told()
    with pytest.raises(TrainingError, match="disk is full"):
        Job(job(), told, StopFlag()).run()
    assert not any(event["event"] == "finished" for event in told.events)


def test_a_copy_that_memory_has_no_room_for_is_written_at_once(job, monkeypatch):
    monkeypatch.setattr(job_module, "ROOM_FOR_COPY", 0.0)
    told, save, steps = Told(), checkpoints.save, []

    def slow(folder, state, **more):
        time.sleep(0.1)
        steps.append(max(event.get("step", 0) for event in told.events))
        return save(folder, state, **more)

    monkeypatch.setattr(checkpoints, "save", slow)
    assert Job(job(), told, StopFlag()).run() == 0
    assert steps == [2, 4, 6], "no step was taken meanwhile"


def test_what_failed_is_told_once_and_the_next_is_written(tmp_path):
    safe = []
    writer = CheckpointWriter(safe.append)

    def fail():
        raise FULL

    writer.begin(fail)
    with pytest.raises(TrainingError):
        writer.begin(lambda: tmp_path)
    writer.begin(lambda: tmp_path)
    writer.finish()
    writer.finish()
    assert safe == [tmp_path]
    writer.begin(fail)
    writer.let_end()
    writer.look()
