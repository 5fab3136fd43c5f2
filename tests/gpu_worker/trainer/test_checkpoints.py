"""A checkpoint is trusted only if every byte of it is what was written, for the same run, and never runs code."""

import json
import re
import shutil
from pathlib import Path

import pytest

from gpu_worker.trainer import checkpoints
from gpu_worker.trainer.errors import EXIT_STOPPED
from tests.gpu_worker.trainer.jobs import ROOT, losses, only, run_here, ticket_rows, validation_losses, write_job

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path, base_model):
    def job(folder="job", **chosen):
        settings = {"batch_size": 4, "epochs": 2, "checkpoint_every_steps": 2, **chosen}
        train, validation = ticket_rows(16), ticket_rows(4, seed=9)
        return write_job(tmp_path / folder, base_model, train=train, validation=validation, **settings)

    return job


def resume(job, job_folder="job", **chosen):
    return run_here(job(job_folder, resume=True, **chosen))


def test_the_last_step_is_saved_and_old_ones_are_pruned(job):
    code, events = run_here(job(checkpoint_every_steps=3))
    folder = job().checkpoints
    assert code == 0
    assert [path.name for path in checkpoints.newest_first(folder)] == ["step-8", "step-6"]
    assert [event["path"] for event in events if event["event"] == "checkpoint"] == [
        "checkpoints/step-3", "checkpoints/step-6", "checkpoints/step-8",
    ]  # fmt: skip
    assert only(events, "finished")["step"] == 8
    assert sorted(path.name for path in folder.iterdir()) == ["step-6", "step-8"]


def test_a_resumed_run_repeats_the_uninterrupted_one_exactly(job):
    _, whole = run_here(job("whole"))
    run_here(job("half"))
    newest = job("half").checkpoints / "step-8"
    newest.rename(newest.with_name("lost"))
    code, events = resume(job, "half")
    assert code == 0
    assert only(events, "started")["resumed_from_step"] == 6
    assert losses(events) == {step: losses(whole)[step] for step in (7, 8)}
    assert validation_losses(events) == {step: loss for step, loss in validation_losses(whole).items() if step > 6}
    finished, uninterrupted = only(events, "finished"), only(whole, "finished")
    assert finished["trained_tokens"] == uninterrupted["trained_tokens"]
    assert finished["train_loss"] == uninterrupted["train_loss"]
    adapters = [(job(folder).adapter / "adapter_model.safetensors").read_bytes() for folder in ("whole", "half")]
    assert adapters[0] == adapters[1]


def test_of_a_checkpoint_alone_a_result_is_made(job):
    run_here(job("whole"))
    whole = job("whole")
    result = (whole.adapter / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(whole.adapter)
    newest = whole.checkpoints / "step-8"
    (newest / "state.safetensors").write_bytes(b"cut short")
    spec = whole.root / "spec.json"
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "resume": True, "keep_only": True}))
    code, events = run_here(whole)
    assert (code, only(events, "stopped")["step"]) == (EXIT_STOPPED, 6)
    assert losses(events) == {}
    assert (whole.adapter / "adapter_model.safetensors").read_bytes() != result
    shutil.rmtree(whole.checkpoints)
    _, events = run_here(whole)
    assert only(events, "stopped")["step"] == 0


def test_dropout_is_repeated_too(job):
    chosen = {"lora_dropout": 0.3, "epochs": 1, "checkpoint_every_steps": 3}
    _, whole = run_here(job("whole", **chosen))
    run_here(job("half", **chosen))
    (job("half", **chosen).checkpoints / "step-4").rename(job("half", **chosen).root / "lost")
    _, events = resume(job, "half", **chosen)
    assert only(events, "started")["resumed_from_step"] == 3
    assert losses(events)[4] == pytest.approx(losses(whole)[4], abs=1e-6)


def test_a_finished_run_that_is_resumed_only_writes_its_result(job):
    run_here(job())
    _, events = resume(job)
    assert only(events, "started")["resumed_from_step"] == 8
    assert losses(events) == {}
    assert only(events, "finished")["step"] == 8


def change_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def set_step(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "step": 7}))


@pytest.mark.parametrize(
    ("file", "spoil", "reason"),
    [
        ("state.safetensors", change_byte, "changed since"),
        ("progress.json", set_step, "changed since"),
        ("manifest.json", set_step, "different steps"),
        ("state.safetensors", Path.unlink, "incomplete"),
        ("manifest.json", Path.unlink, "incomplete"),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_refused_and_the_one_before_taken(job, file, spoil, reason):
    run_here(job())
    spoil(job().checkpoints / "step-8" / file)
    code, events = resume(job)
    warning = next(event for event in events if event["event"] == "log")
    assert code == 0
    assert "step-8 is refused" in warning["message"]
    assert reason in warning["message"]
    assert only(events, "started")["resumed_from_step"] == 6


def test_what_could_only_be_put_back_in_part_is_forgotten(job, monkeypatch):
    """As where a release has changed what an optimizer remembers: the adapter is in place before that is found out."""
    _, whole = run_here(job())

    def fail(*_arguments, **_options):
        raise KeyError("mean")

    with monkeypatch.context() as patch:
        patch.setattr("gpu_worker.trainer.optimizers.AdamW.load_state", fail)
        _, events = resume(job)
    assert only(events, "started")["resumed_from_step"] is None
    assert losses(events) == losses(whole)


@pytest.mark.parametrize("change", [{"learning_rate": 0.05}, {"seed": 1}, {"lora_r": 4}])
def test_a_checkpoint_of_other_settings_is_refused(job, change):
    run_here(job())
    _, events = resume(job, **change)
    assert only(events, "started")["resumed_from_step"] is None


def test_what_was_refused_pushes_no_later_checkpoint_out(job):
    run_here(job())
    _, events = resume(job, seed=1, max_steps=4)
    assert only(events, "started")["resumed_from_step"] is None
    assert [path.name for path in checkpoints.newest_first(job().checkpoints)] == ["step-4", "step-2"]
    _, events = resume(job, seed=1, max_steps=4)
    assert only(events, "started")["resumed_from_step"] == 4


def test_limits_may_change_between_stop_and_resume(job):
    run_here(job())
    _, events = resume(job, max_minutes=5, micro_batch_size=2, checkpoint_every_steps=100)
    assert only(events, "started")["resumed_from_step"] == 8


def test_a_checkpoint_of_other_rows_is_refused(job):
    run_here(job())
    folder = job(resume=True)
    with folder.train_rows.open("a") as file:
        file.write(json.dumps(ticket_rows(1, seed=77)[0]) + "\n")
    assert only(run_here(folder)[1], "started")["resumed_from_step"] is None


def test_nothing_in_the_package_unpickles_or_runs_foreign_code():
    forbidden = re.compile(r"pickle|torch\.load|torch\.save|eval\(|exec\(|trust_remote_code=True|shell=True")
    files = list((ROOT / "gpu_worker" / "trainer").rglob("*.py"))
    assert len(files) > 15
    for path in files:
        text = path.read_text().replace(".eval()", "")  # a torch module's evaluation mode
        assert not forbidden.search(text), path
