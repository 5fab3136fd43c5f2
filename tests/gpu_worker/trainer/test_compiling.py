"""torch.compile changes how steps are computed and nothing that they compute; attention is chosen and told."""

import functools
import shutil

import pytest
import torch

from datasets_app.learned_rows import EncodedRow
from gpu_worker.trainer import base_loading
from gpu_worker.trainer.compiling import CompiledForward
from gpu_worker.trainer.learner import make_learner
from gpu_worker.trainer.spec import read_spec
from tests.gpu_worker.trainer.jobs import losses, only, run_here, ticket_rows, validation_losses, write_job

pytestmark = pytest.mark.slow
COMMON = {"path": "general", "max_steps": 4, "batch_size": 4, "lora_r": 4, "learning_rate": 0.01, "sample_rows": 0}

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch's inductor needs a C++ compiler")


def trained(folder, base_model, **chosen):
    job = write_job(folder, base_model, train=ticket_rows(12), validation=ticket_rows(3, seed=1), **COMMON | chosen)
    code, events = run_here(job)
    assert code == 0
    return events


@needs_compiler
def test_a_compiled_model_has_the_loss_curve_of_any_other(tmp_path, base_model):
    has_the_loss_curve_of_any_other(tmp_path, base_model)


def test_what_is_computed_again_is_compiled_too(tmp_path, base_model, without_kernels):
    has_the_loss_curve_of_any_other(tmp_path, base_model, dora=True, gradient_checkpointing=True)


@pytest.fixture
def without_kernels(monkeypatch):
    """Everything of the compiler but the C++, which takes most of a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def has_the_loss_curve_of_any_other(tmp_path, base_model, **chosen):
    torch._dynamo.reset()
    plain = trained(tmp_path / "plain", base_model, **chosen)
    compiled = trained(tmp_path / "compiled", base_model, torch_compile=True, **chosen)
    assert "compiled by torch" in only(compiled, "started")["why"]
    assert "compiled" not in only(plain, "started")["why"]
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-4)
    assert validation_losses(compiled) == pytest.approx(validation_losses(plain), abs=1e-4)


def test_what_cannot_be_compiled_is_trained_without(tmp_path, base_model, monkeypatch):
    def fail(_self, **_given):
        raise RuntimeError("no compiler")

    plain = trained(tmp_path / "plain", base_model)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", lambda *_a, **_b: fail)
        without = trained(tmp_path / "without", base_model, torch_compile=True)
    assert "not compiled: TypeError" in only(without, "started")["why"]
    assert losses(without) == losses(plain)
    noisy = trained(tmp_path / "noisy", base_model, torch_compile=True, neftune_alpha=5)
    assert "not compiled: its input is noisy" in only(noisy, "started")["why"]


def test_packed_rows_stay_apart_in_a_compiled_model(tmp_path, base_model, without_kernels):
    """Where rows begin is told by positions alone, which a compiler might take for ordinary ones."""
    torch._dynamo.reset()
    found = {}
    for torch_compile in (False, True):
        job = write_job(tmp_path, base_model, train=ticket_rows(2), **COMMON | {"torch_compile": torch_compile})
        learner = make_learner(read_spec(job), longest_row=100)
        rows = [EncodedRow(tuple(range(5, 5 + tokens)), 4) for tokens in (60, 9, 8, 7)]
        lengths = [len(row.token_ids) for row in rows]
        assert learner.computed_tokens(lengths) == sum(lengths), "these rows are to be packed"
        learner.make_room(rows[0])
        loss = learner.accumulate(rows, 0.1)
        found[torch_compile] = loss, learner.parameters.gradients.clone()
        assert ("compiled by torch" in learner.why) is torch_compile
        assert loss == pytest.approx(sum(learner.loss_sum([row]) for row in rows), rel=1e-4)
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    torch.testing.assert_close(found[True][1], found[False][1], rtol=1e-3, atol=1e-5)


def test_where_it_is_computed_by_hand_nothing_is_left_to_compile(tmp_path, base_model):
    fast = {"path": "auto", "torch_compile": True, "max_steps": 1}
    started = only(trained(tmp_path, base_model, **fast), "started")
    assert started["path"] == "fast"
    assert "torch.compile left out" in started["why"]


def test_without_a_gradient_nothing_is_compiled(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda module, **_options: lambda **given: calls.append(1) or module(**given))
    forward = CompiledForward(lambda **given: given["x"] * 2)
    with torch.no_grad():
        assert forward(x=2) == 4
    with forward.as_it_is():
        assert forward(x=3) == 6
    assert calls == []
    assert forward(x=4) == 8
    assert calls == [1]


def test_attention_is_chosen_and_told(tmp_path, base_model, monkeypatch):
    events = trained(tmp_path / "cpu", base_model)
    assert only(events, "started")["attention"] == "sdpa"
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: True)
    flash = {"attn_implementation": base_loading.FLASH}
    assert base_loading.attention_option(device="cuda", bf16=True) == flash
    assert base_loading.attention_option(device="cuda", bf16=False) == {}
    assert base_loading.attention_option(device="cpu", bf16=True) == {}
    # Asked for all the same, as on a GPU with a model that has none: it is loaded without.
    monkeypatch.setattr(base_loading, "attention_option", lambda **_where: flash)
    assert only(trained(tmp_path / "refused", base_model), "started")["attention"] == "sdpa"
