"""Files of strangers are read by a child with hard limits: it ends with an answer or a typed error, never later."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datasets_app.capped import ENVIRONMENT, PROJECT, WorkRefused, run_capped
from datasets_app.readers import FileRefused
from portal.process_table import process_entry

MIB = 1 << 20


def work(name, on_message=None, memory_bytes=512 * MIB, cpu_seconds=20, file_bytes=MIB, **arguments):
    path = f"tests.datasets_app.capped_work:{name}"
    limits = {"memory_bytes": memory_bytes, "cpu_seconds": cpu_seconds, "file_bytes": file_bytes}
    return run_capped(path, arguments, on_message=on_message, **limits)


def test_answers_and_messages_come_back():
    said = []
    assert work("echo", said.append, text="Привет", rows=[1, None]) == {"text": "Привет", "rows": [1, None]}
    assert said == [{"step": 1}, {"step": 2}]


def test_a_refusal_comes_back_as_the_same_error():
    with pytest.raises(FileRefused) as refused:
        work("refuse", code="too_many_rows")
    assert refused.value.code == "too_many_rows"
    assert "more than 7 rows" in refused.value.message


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("eat_memory", "work_memory", "more than 512 MiB"),
        ("write_much", "work_file_too_large", "larger than 1 MiB"),
        ("segfault", "work_crashed", "damaged"),
        ("crash", "work_crashed", "damaged"),
        ("lie", "work_crashed", "damaged"),
    ],
)
def test_a_limit_is_a_typed_error_with_a_sentence(name, code, words, tmp_path):
    arguments = {"path": str(tmp_path / "out")} if name == "write_much" else {}
    with pytest.raises(WorkRefused) as refused:
        work(name, **arguments)
    assert refused.value.code == code
    assert words in refused.value.message


@pytest.mark.slow
def test_endless_work_is_stopped():
    begin = time.monotonic()
    with pytest.raises(WorkRefused) as refused:
        work("burn_cpu", cpu_seconds=1)
    assert refused.value.code == "work_too_long"
    assert time.monotonic() - begin < 30


def test_a_full_disk_stays_a_full_disk():
    with pytest.raises(OSError, match="No space left"):
        work("full_disk")


def test_a_crash_is_logged_without_the_words_of_the_file(caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(WorkRefused):
        work("crash")
    assert "ValueError" in caplog.text
    assert "capped_work.py" in caplog.text
    assert "secret" not in caplog.text


def test_the_child_knows_no_secrets(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgres://someone:canary@localhost/tuneport")
    monkeypatch.setenv("SECRET_KEY", "canary")
    found = work("surroundings")
    assert set(found["environment"]) <= {*ENVIRONMENT, "LC_CTYPE"}
    assert "canary" not in json.dumps(found)
    assert found["core"] == 0


def test_a_parent_that_changes_its_mind_leaves_no_child():
    pids = []

    def stop(message):
        pids.append(message["pid"])
        raise KeyError("changed its mind")

    with pytest.raises(KeyError):
        work("sleep", stop)
    assert process_entry(pids[0]) is None


def test_a_killed_parent_leaves_no_child():
    program = (
        "from datasets_app.capped import run_capped\n"
        "run_capped('tests.datasets_app.capped_work:sleep', {}, memory_bytes=1 << 30, cpu_seconds=60,"
        " on_message=lambda said: print(said['pid'], flush=True))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    assert process_entry(child) is not None
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    until = time.monotonic() + 10
    while process_entry(child) is not None and time.monotonic() < until:
        time.sleep(0.05)
    assert process_entry(child) is None


def test_the_child_imports_no_django():
    script = "import sys, datasets_app.capped; print('django' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(PROJECT), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
