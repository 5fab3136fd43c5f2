"""What each choice of a run changes: the adapter that plain peft loads gives the loss that was reported."""

import json

import pytest
import torch
from safetensors.torch import load_file

from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.general import GeneralLearner
from gpu_worker.trainer.learner import make_learner
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import losses, only, run_here, ticket_rows, validation_losses, write_job

pytestmark = pytest.mark.slow
SHORT = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "lora_r": 4, "evaluations_per_epoch": 0}


@pytest.fixture
def job(tmp_path, base_model):
    def job(folder="job", **chosen):
        train, validation = ticket_rows(12), ticket_rows(4, seed=9)
        return write_job(tmp_path / folder, base_model, train=train, validation=validation, **(SHORT | chosen))

    return job


@pytest.fixture
def loss_by_peft(base_model, renderer):
    """The validation loss that plain transformers + peft find for an adapter folder."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def loss_by_peft(job, adapter=None) -> float:
        base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, adapter or job.adapter).eval()
        total, count = 0.0, 0
        for row in encode_file(job.validation_rows, renderer, read_spec(job).hyperparameters).rows:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([row.token_ids])).logits[0]
            labels = torch.tensor(row.token_ids[row.prompt_length :])
            predicting = logits[row.prompt_length - 1 : -1]
            total += float(torch.nn.functional.cross_entropy(predicting, labels, reduction="sum"))
            count += row.label_tokens
        return total / count

    return loss_by_peft


CHOICES = {
    "dora": {"dora": True},
    "rslora, by hand": {"rslora": True},
    "rslora": {"rslora": True, "path": "general"},
    "gaussian": {"lora_init": "gaussian"},
    "pissa": {"lora_init": "pissa"},
    "pissa with rslora": {"lora_init": "pissa", "rslora": True},
    "olora": {"lora_init": "olora"},
    "mlp, by hand": {"lora_targets": "mlp"},
    "mlp": {"lora_targets": "mlp", "path": "general"},
    "own, by hand": {"lora_targets": "own", "lora_target_names": "o_proj, up_proj"},
    "one layer": {"frozen_layers": 1},
    "noise": {"neftune_alpha": 5},
    "full": {"training_kind": "full", "learning_rate": 0.001},
}


@pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES)
def test_it_learns_and_plain_peft_finds_the_loss_that_was_reported(job, loss_by_peft, chosen):
    folder = job(**chosen)
    code, events = run_here(folder)
    curve = validation_losses(events)
    assert code == 0
    assert curve[6] < curve[0] - 0.2
    assert loss_by_peft(folder) == pytest.approx(curve[6], rel=1e-4)


@pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES)
def test_before_the_first_step_nothing_is_changed(job, chosen):
    plain, other = (make_learner(read_spec(job(str(n), **c)), longest_row=60) for n, c in enumerate(({}, chosen)))
    rows = encode_file(job().validation_rows, _renderer(job()), read_spec(job()).hyperparameters).rows
    assert other.loss_sum(rows) == pytest.approx(plain.loss_sum(rows), rel=1e-4)


def _renderer(folder):
    from datasets_app.rendering import ChatRenderer

    return ChatRenderer.load(read_spec(folder).base_model.path)


@pytest.mark.parametrize(
    ("chosen", "path", "count"),
    [
        ({}, "fast", 2 * 4096),
        ({"rslora": True, "lora_init": "gaussian"}, "fast", 2 * 4096),
        ({"lora_targets": "mlp"}, "fast", 2 * 4 * 3 * 192),
        ({"lora_targets": "own", "lora_target_names": "up_proj"}, "fast", 2 * 4 * 192),
        ({"train_on_prompt": True, "adam_beta2": 0.95}, "fast", 2 * 4096),
        ({"dora": True}, "general", 2 * (4096 + 512)),
        ({"frozen_layers": 1}, "general", 4096),
        ({"training_kind": "full"}, "general", 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)),
        ({"training_kind": "full", "frozen_layers": 1}, "general", 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128),
    ],
)
def test_each_choice_trains_as_many_numbers_as_it_should(job, chosen, path, count):
    one = make_learner(read_spec(job(**chosen)), longest_row=60)
    assert (one.path, one.parameters.count) == (path, count)


def test_the_configuration_says_what_was_chosen(job):
    configs = {}
    for name in ("dora", "rslora, by hand", "pissa", "one layer", "full"):
        folder = job(name, **CHOICES[name], max_steps=1)
        run_here(folder)
        configs[name] = json.loads((folder.adapter / "adapter_config.json").read_text())
    assert configs["dora"]["use_dora"] is True
    assert configs["rslora, by hand"]["use_rslora"] is True
    assert (configs["pissa"]["r"], configs["pissa"]["lora_alpha"]) == (8, 64)
    assert configs["one layer"]["layers_to_transform"] == [1]
    assert (configs["full"]["r"], configs["full"]["lora_alpha"]) == (64, 64)


def test_a_low_rank_remainder_of_full_fine_tuning_is_told(job, monkeypatch):
    monkeypatch.setattr("gpu_worker.trainer.attach.MOST_SERVED_RANK", 2)
    _, events = run_here(job(training_kind="full", learning_rate=0.001))
    (remark,) = [event["message"] for event in events if event["event"] == "log"]
    share = float(remark.split("holds ")[1].split("%")[0])
    assert 30 < share < 99


def test_noise_is_as_large_as_the_paper_says_and_only_in_training(job, renderer):
    one = GeneralLearner(read_spec(job(neftune_alpha=5)), device="cpu", why="test")
    rows = encode_file(job().train_rows, renderer, read_spec(job()).hyperparameters).rows[:3]
    seen = []
    embedding = one._causal_lm.get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, out: seen.append((out - module.weight[inputs[0]]).detach()))
    one.accumulate(rows, 1.0)
    one.loss_sum(rows)
    noise, silence = seen
    for row, length in zip(noise, (len(row.token_ids) for row in rows), strict=True):
        bound = 5 / (length * 64) ** 0.5
        assert 0.98 * bound < float(row.abs().max()) <= bound * 1.0001
    assert not silence.any()


def test_the_start_tells_how_it_is_computed(job):
    found = [only(run_here(job(path, path=path, max_steps=1))[1], "started") for path in ("auto", "general")]
    assert [(f["precision"], f["attention"], f["processes"]) for f in found] == [
        ("fp32", "packed, by hand", 1), ("fp32", "sdpa", 1),
    ]  # fmt: skip


def test_too_many_layers_left_alone_are_refused_with_advice(job):
    with pytest.raises(TrainingError, match="at most 1 of them") as caught:
        run_here(job(frozen_layers=2))
    assert caught.value.code == "bad_settings"


def test_every_checkpoint_is_kept_as_an_adapter(job, loss_by_peft):
    folder = job(keep_weights="every", checkpoint_every_steps=2, evaluations_per_epoch=1)
    _, events = run_here(folder)
    assert sorted(path.name for path in folder.kept.iterdir()) == ["step-2", "step-4", "step-6"]
    curve = validation_losses(events)
    assert loss_by_peft(folder) == pytest.approx(curve[6], rel=1e-4)
    last = load_file(folder.kept / "step-6" / "adapter_model.safetensors")
    assert all(torch.equal(t, last[n]) for n, t in load_file(folder.adapter / "adapter_model.safetensors").items())


def test_the_8_bit_optimizer_learns_like_the_exact_one_and_resumes(job):
    pytest.importorskip("bitsandbytes")
    _, exact = run_here(job("exact"))
    _, whole = run_here(job("whole", optimizer="adamw_8bit"))
    assert losses(whole)[6] == pytest.approx(losses(exact)[6], abs=0.15)
    assert losses(whole)[6] != losses(exact)[6]
    half = {"optimizer": "adamw_8bit", "checkpoint_every_steps": 4}
    run_here(job("half", **half))
    (job("half", **half).checkpoints / "step-6").rename(job("half", **half).root / "lost")
    _, resumed = run_here(job("half", resume=True, **half))
    assert only(resumed, "started")["resumed_from_step"] == 4
    assert losses(resumed)[6] == pytest.approx(losses(whole)[6], abs=1e-4)


def test_the_paged_optimizer_is_refused_without_a_gpu_before_the_start(job):
    with pytest.raises(TrainingError, match="needs a GPU") as caught:
        run_here(job(optimizer="paged_adamw_8bit"))
    assert caught.value.code == "bad_settings"


def test_the_moments_reach_the_steps_of_both_ways(job):
    """The first step is the same whatever they are, since nothing is remembered yet; the later ones are not."""
    curves = {}
    for name, chosen in {"usual": {}, "quick": {"adam_beta1": 0.3}, "quick too": {"adam_beta1": 0.3}}.items():
        path = "general" if name == "quick too" else "auto"
        curves[name] = losses(run_here(job(name, path=path, max_steps=4, warmup_share=0, **chosen))[1])
    assert curves["quick"][2] == pytest.approx(curves["usual"][2], rel=1e-5)
    assert curves["quick"][4] != pytest.approx(curves["usual"][4], rel=1e-4)
    assert curves["quick"] == pytest.approx(curves["quick too"], rel=1e-4)
