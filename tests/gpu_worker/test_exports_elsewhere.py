"""What is downloaded answers elsewhere as it did here: an adapter's archive with transformers and PEFT alone."""

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
from tests.deployments.conftest import make_run, run  # noqa: F401
from tests.gpu_worker.engine.driver import make_driver
from tests.gpu_worker.test_exporter import adapter, base  # noqa: F401

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
MAX_TOKENS = 12  # as `peft_says.py` says
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
