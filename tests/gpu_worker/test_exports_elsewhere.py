"""What is exported answers elsewhere as it did here: PEFT alone on the archive, llama.cpp on the GGUF file."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from datasets_app.rendering import ChatRenderer
from gpu_worker.exporter.__main__ import make
from tests.deployments.conftest import make_run, run  # noqa: F401
from tests.gpu_worker.engine.driver import make_driver
from tests.gpu_worker.engine.reference import make_adapter
from tests.gpu_worker.engine.test_real_model import MODEL
from tests.gpu_worker.test_exporter import adapter, base, job  # noqa: F401

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
MAX_TOKENS = 12  # as the two programs say
ROUNDING = 2e-3
"""Most by which log probabilities differ for the order of 32-bit sums: seen are 4e-6 and, of the real model, 3e-4."""
PROMPTS = (
    "I cannot sign in to the portal.",
    "Не могу войти в личный кабинет, 12 раз пробовал.",
    'Return {"queue": "Access"} and nothing else.',
    "Invoice 4711-0815:   three blanks, a tab\tand\n\nan empty line.",
    "<b>Hello</b> & goodbye, 你好 🙂",
)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(PROMPTS))
    return file


def said_by(*command: object) -> list[dict[str, Any]]:
    """Return what a program of its own prints, in a folder from where it cannot import this project."""
    ran = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd="/", timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    assert len(found) == len(PROMPTS)
    return found


def said_by_peft(base: Path, folder: Path, prompts: Path) -> list[dict[str, Any]]:  # noqa: F811
    return said_by("-I", HERE / "peft_says.py", base, folder, prompts)


@pytest.mark.django_db
def test_the_archive_of_an_adapter_answers_with_transformers_and_peft_alone(
    tmp_path, base, adapter, run, team, client_for, bob, prompts  # noqa: F811
):  # fmt: skip
    shutil.copytree(adapter, run.adapter.folder, dirs_exist_ok=True)
    download = client_for(bob).get(f"/t/{team.slug}/runs/{run.pk}/adapter.zip")
    with zipfile.ZipFile(io.BytesIO(b"".join(download.streaming_content))) as bundle:
        bundle.extractall(tmp_path / "unpacked")
    (config,) = (tmp_path / "unpacked").rglob("adapter_config.json")
    found = said_by_peft(base, config.parent, prompts)
    renderer = ChatRenderer.load(base)
    here = make_driver(base, renderer, {"ours": adapter})
    for prompt, answer in zip(PROMPTS, found, strict=True):
        ids = renderer.prompt_ids([{"role": "user", "content": prompt}])
        ours = here.answer(ids, "ours", max_tokens=MAX_TOKENS)
        assert answer["prompt"] == ids
        assert answer["tokens"] == ours.token_ids
        assert answer["text"] == ours.text
        assert ours.token_ids != here.answer(ids, max_tokens=MAX_TOKENS).token_ids, "the adapter is at work"


@pytest.mark.skipif(not MODEL.exists(), reason="the embedded base model has not been made yet")
def test_a_gguf_file_of_the_real_model_answers_in_llama_cpp_as_the_original(tmp_path, prompts):
    options = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    tuned = make_adapter(MODEL, tmp_path / "tuned", seed=1, scale=0.02, **options)
    assert hold_llama_cpp_to_peft(tmp_path, MODEL, tuned, prompts) >= MAX_TOKENS


def test_a_gguf_file_answers_in_llama_cpp_as_the_original(tmp_path, base, adapter, prompts):  # noqa: F811
    hold_llama_cpp_to_peft(tmp_path, base, adapter, prompts)


def hold_llama_cpp_to_peft(tmp_path: Path, base: Path, adapter: Path, prompts: Path) -> int:  # noqa: F811
    """By its own tokenizer and chat template: what is read is the same, token by token, and so is what is said.

    An answer may part only where the two likeliest tokens are as likely as each other but for rounding. Returns of how
    many tokens the log probabilities were compared: llama.cpp tells none of tokens that are only a part of a letter.
    """
    pytest.importorskip("xllamacpp", reason="llama.cpp is installed with the test extra on Linux x86-64 only")
    folder = job(tmp_path, base, adapter, kind="gguf", weights="f32")
    found = said_by(HERE / "llamacpp_says.py", folder / make(folder, lambda share: None), prompts)
    compared = 0
    for ours, theirs in zip(said_by_peft(base, adapter, prompts), found, strict=True):
        assert theirs["prompt"] == ours["prompt"]
        same = common(ours["tokens"], theirs["tokens"])
        if same < len(ours["tokens"]):
            best, second = sorted(ours["logprobs"][same].values())[-1:-3:-1]
            assert best - second < ROUNDING, f"{theirs['tokens']} is not {ours['tokens']}"
        else:
            assert theirs["text"].strip("\ufffd") == ours["text"].strip("\ufffd")
        if len(theirs["logprobs"]) == len(theirs["tokens"]):
            for expected, told in zip(ours["logprobs"][:same], theirs["logprobs"], strict=False):
                shared = expected.keys() & told.keys()
                assert len(shared) > len(expected) / 2
                assert max(abs(expected[token] - told[token]) for token in shared) < ROUNDING
                compared += 1
    return compared


def common(ours: list[int], theirs: list[int]) -> int:
    """Return how many tokens two answers begin alike with."""
    return next((n for n, pair in enumerate(zip(ours, theirs, strict=False)) if len(set(pair)) > 1), len(ours))
