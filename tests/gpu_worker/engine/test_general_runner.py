"""The general runner serves what the fast decoder does not: same engine, same answers as transformers."""

import json
import logging
import os
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine import self_check
from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.errors import BadAdapter, UnsupportedModel
from gpu_worker.engine.kernels import NativeKernels
from gpu_worker.engine.self_check import MADE_UP_RANKS, QUESTIONS, REFERENCE_FILE
from tests.gpu_worker.engine.driver import Driver
from tests.gpu_worker.engine.reference import Reference, make_adapter

pytestmark = pytest.mark.slow

CONFIG = EngineConfig(kv_cache_bytes=2**21, max_context=512)
WHO = (None, "one", "two")


@pytest.fixture(scope="module")
def gpt2_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is not llama-shaped, with the tiny model's tokenizer and template."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model_dir / name, folder / name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = GPT2Config(
            vocab_size=384, n_embd=48, n_layer=2, n_head=4, n_positions=512, eos_token_id=2, bos_token_id=1,
            pad_token_id=2, initializer_range=0.3,
        )  # fmt: skip
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2_adapters(gpt2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gpt2-adapters")
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    return {name: make_adapter(gpt2_dir, folder / name, seed=seed, **options) for seed, name in enumerate(WHO[1:])}


def load(core: EngineCore, adapters: dict[str, Path]) -> None:
    for name, path in adapters.items():
        core.add_adapter(name, core.read_adapter(path))


def test_mixed_requests_equal_transformers(gpt2_dir: Path, gpt2_adapters: dict[str, Path]) -> None:
    renderer = ChatRenderer.load(gpt2_dir)
    with pytest.raises(UnsupportedModel, match="GPT2"):
        build_core(gpt2_dir, renderer, CONFIG, kind="decoder")
    driver = Driver(build_core(gpt2_dir, renderer, CONFIG), renderer)
    load(driver.core, gpt2_adapters)
    reference = Reference(gpt2_dir, gpt2_adapters)
    expected = {}
    for number, adapter in enumerate((*WHO, *WHO)):
        ids = renderer.prompt_ids([{"role": "user", "content": "abc " * (number + 1)}])
        driver.submit(str(number), ids, adapter)
        driver.step()
        expected[str(number)] = reference.generate(ids, adapter, 12)
    assert len({tuple(ids) for ids in expected.values()}) > 3
    assert {name: answer.token_ids for name, answer in driver.run().items()} == expected
    for name in gpt2_adapters:
        driver.core.remove_adapter(name)
    assert driver.answer(ids, None).token_ids == reference.generate(ids, None, 12)


def test_an_adapter_that_does_not_fit_leaves_no_trace(
    gpt2_dir: Path, gpt2_adapters: dict[str, Path], adapter_dirs: dict[str, Path], tmp_path: Path
) -> None:
    renderer = ChatRenderer.load(gpt2_dir)
    driver = Driver(build_core(gpt2_dir, renderer, CONFIG), renderer)
    prompt = renderer.encode("hello there")
    before = driver.answer(prompt)
    misshapen = Path(shutil.copytree(gpt2_adapters["one"], tmp_path / "misshapen"))
    tensors = load_file(misshapen / "adapter_model.safetensors")
    last = sorted(tensors)[-1]
    save_file({**tensors, last: torch.ones(5, 5)}, misshapen / "adapter_model.safetensors")
    for path in (adapter_dirs["south"], misshapen):
        with pytest.raises(BadAdapter, match="does not fit"):
            load(driver.core, {"bad": path})
    assert driver.core.adapter_names() == []
    assert driver.answer(prompt).token_ids == before.token_ids
    load(driver.core, gpt2_adapters)
    with pytest.raises(BadAdapter, match="does not fit"):
        load(driver.core, {"bad": misshapen})
    expected = Reference(gpt2_dir, gpt2_adapters).generate(prompt, "two", 12)
    assert driver.answer(prompt, "two").token_ids == expected


@pytest.fixture(scope="module")
def first_start(model_dir: Path, renderer: ChatRenderer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder after a first start: transformers' answers, computed in a process of its own."""
    folder = tmp_path_factory.mktemp("state")
    build_core(model_dir, renderer, CONFIG, state_dir=folder)
    return folder


@pytest.fixture
def state_dir(first_start: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(first_start, tmp_path / "state"))


def kept_reference(state_dir: Path) -> Path:
    (kept,) = state_dir.iterdir()
    return kept / REFERENCE_FILE


def test_the_fast_decoder_passes_its_self_check_with_the_kept_reference(
    model_dir: Path, renderer: ChatRenderer, state_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    changed = kept_reference(state_dir).stat().st_mtime_ns
    core = build_core(model_dir, renderer, CONFIG, state_dir=state_dir)
    assert "fast decoder" in caplog.text
    assert core.self_check == "passed"
    assert core.adapter_names() == []
    assert core.stats().finished == {}
    assert kept_reference(state_dir).stat().st_mtime_ns == changed


@pytest.mark.parametrize(
    ("margin", "runner", "result"), [(1.0, "general runner", "failed"), (1e-5, "fast decoder", "passed")]
)
def test_a_decoder_that_differs_is_replaced_unless_it_was_a_tie(
    model_dir: Path,
    renderer: ChatRenderer,
    state_dir: Path,
    caplog: pytest.LogCaptureFixture,
    margin: float,
    runner: str,
    result: str,
) -> None:
    """The reference is falsified: what matters is that a difference is seen and acted upon."""
    kept = kept_reference(state_dir)
    entries = json.loads(kept.read_text())
    entries[2]["token_ids"][3] += 1
    entries[2]["margins"][3] = margin
    kept.write_text(json.dumps(entries))
    caplog.set_level(logging.INFO)
    core = build_core(model_dir, renderer, CONFIG, state_dir=state_dir)
    assert runner in caplog.text
    assert core.self_check == result


def test_the_made_up_adapters_change_what_is_said(state_dir: Path) -> None:
    """Else a decoder that forgot to apply them would pass."""
    entries = json.loads(kept_reference(state_dir).read_text())
    said = {(prompt, name): entry["token_ids"] for (prompt, name), entry in zip(QUESTIONS, entries, strict=True)}
    changed = {name for prompt, name in said if name is not None and said[prompt, name] != said[prompt, None]}
    assert changed == set(MADE_UP_RANKS)


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.parametrize("fault", ["nothing is added", "the second adapter gets the first one's rows"])
def test_a_wrong_adapter_kernel_is_found_at_the_start(
    compiled_kernels: None,
    model_dir: Path,
    renderer: ChatRenderer,
    state_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    """The compiled one, as a compiler that misjudges the processor would spoil it."""
    right = NativeKernels.low_rank

    def wrong(self: NativeKernels, x: Tensor, tiles: Tensor, banks: Tensor, ends: Tensor, y: Tensor) -> None:
        if fault != "nothing is added":
            right(self, x, torch.cat([tiles[:, :2], torch.zeros_like(tiles[:, 2:3]), tiles[:, 3:]], 1), banks, ends, y)

    assert build_core(model_dir, renderer, CONFIG, state_dir=state_dir).self_check == "passed"
    monkeypatch.setattr(NativeKernels, "low_rank", wrong)
    core = build_core(model_dir, renderer, CONFIG, state_dir=state_dir)
    assert core.self_check == "failed"


def test_a_damaged_reference_is_computed_anew(model_dir: Path, state_dir: Path, renderer: ChatRenderer) -> None:
    kept = kept_reference(state_dir)
    before = kept.read_text()
    kept.write_text("{")
    assert build_core(model_dir, renderer, CONFIG, state_dir=state_dir).self_check == "passed"
    assert kept.read_text() == before
    (next(kept.parent.glob("*/adapter_model.safetensors"))).write_bytes(b"")
    assert [build_core(model_dir, renderer, CONFIG, state_dir=state_dir).self_check for _start in range(2)] == [
        "unchecked",
        "passed",
    ]


@pytest.mark.parametrize("fault", ["raise MemoryError", "raise ModuleNotFoundError", "import os; os._exit(139)"])
def test_without_a_reference_it_is_said_that_nothing_was_compared(
    model_dir: Path, renderer: ChatRenderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The child that computes it runs out of memory, has no transformers or crashes; the next start tries again."""
    stub, state_dir = tmp_path / "stub", tmp_path / "state"
    stub.mkdir()
    (stub / "transformers.py").write_text(fault)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(stub))
        if "NotFound" in fault:
            patch.setattr(self_check, "version", no_such_package)
        core = build_core(model_dir, renderer, CONFIG, state_dir=state_dir)
    assert core.self_check == core.stats().self_check == "unchecked"
    assert list(state_dir.glob("self-check-*")) == []
    assert build_core(model_dir, renderer, CONFIG, state_dir=state_dir).self_check == "passed"


def no_such_package(name: str) -> str:
    raise PackageNotFoundError(name)


def test_what_a_killed_child_left_goes_and_what_another_one_writes_stays(
    model_dir: Path, renderer: ChatRenderer, tmp_path: Path
) -> None:
    name = f"self-check-{self_check.fingerprint(model_dir)}"
    left, young = tmp_path / f".{name}.1", tmp_path / f".{name}.2"
    for partial in (left, young):
        partial.mkdir()
    os.utime(left, (0, 0))
    assert build_core(model_dir, renderer, CONFIG, state_dir=tmp_path).self_check == "passed"
    assert {path.name for path in tmp_path.iterdir()} == {name, young.name}
