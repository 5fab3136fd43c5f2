"""Limits of time, memory and disk, and the ways to end early."""

import errno
import os
import shutil
import sys
from collections import namedtuple

import pytest
import torch

from gpu_worker.trainer import loop, storage
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.fast.learner import FastLearner
from tests.forked import run
from tests.gpu_worker.trainer.jobs import losses, only, run_here, ticket_rows, validation_losses, write_job

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path, base_model):
    def job(folder="job", **chosen):
        return write_job(
            tmp_path / folder, base_model, train=ticket_rows(24), validation=ticket_rows(6, seed=9), **chosen
        )

    return job


def test_when_memory_runs_out_micro_batches_shrink_and_the_result_stays(job, monkeypatch):
    _, plain = run_here(job("plain"))
    accumulate = FastLearner.accumulate

    def small_memory(self, rows, scale):
        if len(rows) > 2:
            self.parameters.gradients += 1.0  # half a backward pass has been done already
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return accumulate(self, rows, scale)

    monkeypatch.setattr(FastLearner, "accumulate", small_memory)
    code, events = run_here(job())
    warnings = [event["message"] for event in events if event["event"] == "log"]
    assert code == 0
    assert ["micro-batches of 4" in warnings[0], "micro-batches of 2" in warnings[1]] == [True, True]
    assert len(warnings) == 2
    assert losses(events) == pytest.approx(losses(plain), rel=1e-4)


def test_when_one_row_is_too_much_the_run_fails_with_advice(job, monkeypatch):
    def no_memory(self, rows, scale):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(FastLearner, "accumulate", no_memory)
    with pytest.raises(TrainingError, match="one row at a time") as caught:
        run_here(job())
    assert caught.value.code == "out_of_memory"


def test_other_errors_are_not_mistaken_for_lack_of_memory(job, monkeypatch):
    def broken(self, rows, scale):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(FastLearner, "accumulate", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        run_here(job())


def test_a_loss_that_explodes_in_the_middle_stops_the_run_before_it_is_learned(job, monkeypatch):
    accumulate = FastLearner.accumulate
    calls = []

    def explode(self, rows, scale):
        calls.append(1)
        loss = accumulate(self, rows, scale)
        return float("nan") if len(calls) == 3 else loss

    monkeypatch.setattr(FastLearner, "accumulate", explode)
    with pytest.raises(TrainingError, match="step 3 is not a number") as caught:
        run_here(job(checkpoint_every_steps=1))
    assert caught.value.code == "nan_loss"
    assert (job().checkpoints / "step-2").exists()


def test_a_full_disk_is_refused_before_the_first_step(job, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 10**6))
    with pytest.raises(TrainingError, match="disk is full") as caught:
        run_here(job())
    assert caught.value.code == "disk_full"


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), Exception("Error: I/O error: No space left (os error 28)")],
)
def test_a_disk_that_fills_up_leaves_the_last_checkpoint_whole(job, monkeypatch, error):
    save_file, calls = storage.publish_folder, []

    def fill_up(target, write):
        calls.append(1)
        if len(calls) == 2:

            def write(aside):
                (aside / "half").write_text("x")
                raise error

        save_file(target, write)

    monkeypatch.setattr("gpu_worker.trainer.checkpoints.publish_folder", fill_up)
    with pytest.raises(TrainingError, match="resume") as caught:
        run_here(job(checkpoint_every_steps=1))
    assert caught.value.code == "disk_full"
    assert [path.name for path in job().checkpoints.iterdir()] == ["step-1"]


def test_the_time_limit_ends_the_run_with_a_result(job):
    code, events = run_here(job(epochs=100, max_minutes=0.1, batch_size=1, evaluations_per_epoch=0))
    finished = only(events, "finished")
    assert code == 0
    assert finished["step"] < 2400
    assert finished["step"] in validation_losses(events)
    assert any("time limit" in event.get("message", "") for event in events)


def test_early_stopping_and_best_weights(job):
    """A learning rate that spoils the adapter: the best state is an early one, and it is the one kept."""
    chosen = {"epochs": 30, "learning_rate": 0.1, "schedule": "constant", "max_grad_norm": 1000, "weight_decay": 0.9}
    code, events = run_here(job(early_stopping_patience=2, keep_weights="best", evaluations_per_epoch=3, **chosen))
    curve = validation_losses(events)
    finished = only(events, "finished")
    assert code == 0
    assert finished["step"] < 90
    assert finished["validation_loss"] == min(curve.values())
    assert list(curve.values())[-2:] > [min(curve.values())] * 2


def scripted_sampler(answers):
    """A sampler that finds these shares of exact answers, check by check; None where there was no time."""
    found = iter(answers)

    class Scripted:
        def __init__(self, *_arguments, **_options):
            pass

        def sample(self, _place, _limit_s):
            return next(found)

    return Scripted


def test_exact_answers_may_say_what_is_better(job, monkeypatch):
    """The loss falls all the time, but fewer answers are exact: the state with most of them is kept."""
    monkeypatch.setattr("gpu_worker.trainer.plan.FREE_VALIDATION_TOKENS", 10**9)  # a check after every step
    chosen = {"epochs": 30, "early_stopping_patience": 2, "keep_weights": "best", "evaluations_per_epoch": 3}
    chosen |= {"early_stopping_metric": "exact_match", "learning_rate": 1e-4, "schedule": "constant"}
    monkeypatch.setattr("gpu_worker.trainer.job.Sampler", scripted_sampler([0.2, 0.5, None, 0.4, 0.3, 0.1]))
    code, events = run_here(job(**chosen))
    curve = validation_losses(events)
    assert code == 0
    assert list(curve.values()) == sorted(curve.values(), reverse=True)
    assert max(curve) == 5
    assert only(events, "finished")["validation_loss"] == curve[2]
    assert any("share of exact answers has not improved" in event.get("message", "") for event in events)


def test_the_macro_f1_may_say_what_is_better_where_there_are_classes(job, monkeypatch):
    monkeypatch.setattr("gpu_worker.trainer.plan.FREE_VALIDATION_TOKENS", 10**9)  # a check after every step
    chosen = {"epochs": 30, "early_stopping_patience": 2, "keep_weights": "best", "evaluations_per_epoch": 3}
    chosen |= {"early_stopping_metric": "macro_f1", "learning_rate": 1e-4, "schedule": "constant"}
    sampler = scripted_sampler([0.2, 0.5, 0.4, 0.3])
    sampler.has_classes = True
    monkeypatch.setattr("gpu_worker.trainer.job.Sampler", sampler)
    _, events = run_here(job(**chosen))
    assert only(events, "finished")["validation_loss"] == validation_losses(events)[2]
    assert any("macro-F1 of the answers has not improved" in event.get("message", "") for event in events)
    sampler = scripted_sampler([0.2, 0.5, 0.4, 0.3])
    sampler.has_classes = False
    monkeypatch.setattr("gpu_worker.trainer.job.Sampler", sampler)
    _, events = run_here(job(**chosen | {"max_steps": 3}))
    assert any("no closed fields" in event.get("message", "") for event in events)
    assert only(events, "finished")["validation_loss"] == min(validation_losses(events).values())


def test_where_no_answers_are_sampled_the_loss_says_what_is_better(job):
    _, events = run_here(job(early_stopping_metric="exact_match", keep_weights="best", sample_rows=0, epochs=2))
    assert any("validation loss says what is better" in event.get("message", "") for event in events)
    assert only(events, "finished")["validation_loss"] == min(validation_losses(events).values())


def test_without_validation_rows_there_is_no_validation_loss(tmp_path, base_model):
    code, events = run_here(write_job(tmp_path / "job", base_model, train=ticket_rows(4), epochs=1))
    assert code == 0
    assert only(events, "finished")["validation_loss"] is None


def test_only_so_many_validation_rows_as_asked(job, monkeypatch):
    seen = set()
    loss_sum = FastLearner.loss_sum

    def watch(self, rows):
        seen.update(row.token_ids for row in rows)
        return loss_sum(self, rows)

    monkeypatch.setattr(FastLearner, "loss_sum", watch)
    run_here(job(validation_rows=3, epochs=0.1))
    assert len(seen) == 3


PIECES = """
import sys
from gpu_worker.trainer.limits import give_freed_memory_back, keep_freed_memory, memory_bytes
keep_freed_memory()
pieces = [bytearray(1_000_000) for _ in range(200)]
del pieces[:-1]  # the last one stands at the end of the heap, so nothing below it goes back by itself
kept = memory_bytes("cpu")
give_freed_memory_back()
print(kept - memory_bytes("cpu"))
"""


def test_freed_memory_is_kept_until_it_is_given_back():
    given_back = run([sys.executable, "-c", PIECES], env=os.environ)
    assert int(given_back.stdout) > 150e6, given_back.stderr


def test_memory_is_given_back_now_and_then_while_training(job, monkeypatch):
    given = []
    monkeypatch.setattr(loop, "give_freed_memory_back", lambda: given.append(1))
    monkeypatch.setattr(loop, "GIVE_BACK_EVERY", 16)
    run_here(job(epochs=10, batch_size=8, evaluations_per_epoch=0))
    assert len(given) == 30 // 16
