"""The set-up script: what it refuses, what it skips, what it pins."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bootstrap


def pip_report(monkeypatch: pytest.MonkeyPatch, *needs: str, code: int = 0) -> None:
    """Let pip answer that torch would bring these requirements."""
    report = json.dumps({"install": [{"metadata": {"requires_dist": list(needs)}}]})
    answer: Any = subprocess.CompletedProcess([], code, stdout=report, stderr="no such version")
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda *_, **__: answer)


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A Linux machine without GPU and without wishes."""
    monkeypatch.delenv("TUNEPORT_ACCEPT_CUDA", raising=False)
    monkeypatch.setattr(bootstrap, "GPU_DEVICE", tmp_path / "nvidia0")
    monkeypatch.setattr(sys, "platform", "linux")


def test_a_torch_that_brings_cuda_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pip_report(monkeypatch, "sympy", 'nvidia-cudnn-cu12==9.1; platform_system == "Linux"')
    with pytest.raises(bootstrap.SetupError, match="TORCH_INDEX_URL"):
        bootstrap.refuse_cuda(["pip"])


def test_a_torch_that_brings_cuda_is_taken_when_asked_for_or_of_use(monkeypatch: pytest.MonkeyPatch) -> None:
    pip_report(monkeypatch, "nvidia-cudnn-cu12==9.1")
    with monkeypatch.context() as asked:
        asked.setenv("TUNEPORT_ACCEPT_CUDA", "1")
        bootstrap.refuse_cuda(["pip"])
    bootstrap.GPU_DEVICE.touch()
    bootstrap.refuse_cuda(["pip"])


def test_a_cpu_build_of_torch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pip_report(monkeypatch, "sympy", 'nvidia-ml-py; extra == "gpu"')
    bootstrap.refuse_cuda(["pip"])


def test_a_torch_that_is_not_to_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pip_report(monkeypatch, code=1)
    with pytest.raises(bootstrap.SetupError, match="not found by pip"):
        bootstrap.refuse_cuda(["pip"])


def test_a_failed_step_shows_the_end_of_its_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "LOG", tmp_path / "setup.log")
    bootstrap.step("good", [sys.executable, "-c", "print('fine')"])
    assert "good: " in capsys.readouterr().out
    with pytest.raises(bootstrap.SetupError, match=r"(?s)bad: failed.*no disk left"):
        bootstrap.step("bad", [sys.executable, "-c", "import sys; sys.exit('no disk left')"])


@pytest.mark.parametrize("is_root", [True, False])
def test_a_program_that_tests_need_is_installed_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_root: bool
) -> None:
    present, steps = {"apt-get", "google-chrome"}, []
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: f"/usr/bin/{name}" if name in present else None)
    monkeypatch.setattr(bootstrap.os, "geteuid", lambda: 0 if is_root else 1000)
    monkeypatch.setattr(bootstrap, "step", lambda title, command: steps.append(command))
    bootstrap.find_programs()
    assert [command[-1] for command in steps] == (["-q", "nodejs"] if is_root else [])
    assert ("the JavaScript examples will be skipped" in capsys.readouterr().out) != is_root
    present.add("node")
    bootstrap.find_programs()
    assert len(steps) == (2 if is_root else 0)


def test_every_declared_package_is_pinned() -> None:
    pinned = {line.partition("==")[0] for line in bootstrap.LOCK.read_text().splitlines() if "==" in line}
    declared = {
        bootstrap.re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower().replace("_", "-")
        for line in bootstrap.requirements(("test", "benchmark"))
    }
    assert declared <= pinned
    assert not any("+" in line for line in bootstrap.LOCK.read_text().splitlines())
