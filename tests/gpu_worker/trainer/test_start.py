"""A run that continues from another one's adapter begins exactly where that one ended."""

import pytest

from gpu_worker.trainer.errors import TrainingError
from tests.gpu_worker.trainer.jobs import losses, only, run_here, ticket_rows, validation_losses, write_job

pytestmark = pytest.mark.slow
SHORT = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "lora_r": 4, "evaluations_per_epoch": 0}


@pytest.fixture
def job(tmp_path, base_model):
    def job(folder, **chosen):
        train, validation = ticket_rows(12), ticket_rows(4, seed=9)
        return write_job(tmp_path / folder, base_model, train=train, validation=validation, **(SHORT | chosen))

    return job


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        ({}, {}),
        ({"path": "general"}, {"lora_alpha": 5, "rslora": True}),
        ({"dora": True}, {"dora": True}),
        ({"lora_init": "pissa"}, {"lora_r": 8, "learning_rate": 0.002}),
        ({"frozen_layers": 1}, {"frozen_layers": 1}),
        ({"training_kind": "full", "learning_rate": 0.001}, {"lora_r": 64}),
    ],
    ids=["plain", "another scale", "dora", "pissa", "one layer", "full"],
)
def test_the_first_validation_loss_is_the_last_one_of_its_parent(job, parent, child):
    first = job("parent", **parent)
    _, before = run_here(first)
    code, after = run_here(job("child", start=first.adapter, **child))
    end, begin = validation_losses(before)[6], validation_losses(after)
    assert code == 0
    assert begin[0] == pytest.approx(end, rel=1e-4)
    assert begin[6] < begin[0]


def test_a_continued_run_resumes_from_its_own_checkpoint(job):
    first = job("parent")
    run_here(first)
    chosen = {"start": first.adapter, "checkpoint_every_steps": 2}
    _, whole = run_here(job("child", **chosen))
    (job("child", **chosen).checkpoints / "step-6").rename(first.root / "lost")
    _, again = run_here(job("child", resume=True, **chosen))
    assert only(again, "started")["resumed_from_step"] == 4
    assert losses(again) == {step: losses(whole)[step] for step in (5, 6)}


@pytest.mark.parametrize("child", [{"lora_r": 8}, {"lora_targets": "mlp"}, {"dora": True}, {"training_kind": "full"}])
def test_an_adapter_that_does_not_fit_is_refused_with_advice(job, child):
    first = job("parent", max_steps=1)
    run_here(first)
    with pytest.raises(TrainingError, match="does not fit") as caught:
        run_here(job("child", start=first.adapter, **child))
    assert caught.value.code == "bad_settings"


def test_an_adapter_outside_of_the_job_folder_is_never_read(job, tmp_path):
    first = job("parent", max_steps=1)
    run_here(first)
    folder = job("child")
    spec = folder.root / "spec.json"
    spec.write_text(spec.read_text().replace('"start_adapter": null', f'"start_adapter": "{first.adapter}"'))
    with pytest.raises(TrainingError, match="does not fit"):
        run_here(folder)
