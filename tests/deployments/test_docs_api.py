"""Every example of docs/api.md is run, in order, against a running portal with the fake engine.

What differs from the page: the portal's address and token, the name of the base model, and where webhooks go. The queue
is a thread that calls the queue's tasks; nothing is trained here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection

from deployments import tasks
from deployments.models import BatchJob, FineTuningJob
from portal.rls import all_teams
from tests.deployments.receiver import Receiver
from tests.deployments.test_conformity_jobs import chat_lines

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture
def queue(work_in_process) -> Iterator[None]:
    """What waits is worked on, as the queue does."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(0.2):
            with all_teams("test"):
                jobs = list(FineTuningJob.unscoped.filter(state="validating").values_list("pk", flat=True))
                batches = list(BatchJob.unscoped.filter(status__in=BatchJob.OPEN).values_list("pk", flat=True))
            for pk in jobs:
                tasks.prepare_fine_tuning(str(pk))
            for pk in batches:
                tasks.run_batch(str(pk))
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    is_over.set()
    thread.join()


def test_every_example_runs_as_it_stands(live_server, token, deployed, queue, settings, tmp_path, monkeypatch, capsys):
    settings.OUTBOUND_ALLOW = ["127.0.0.1"]
    monkeypatch.chdir(tmp_path)
    Path("tickets.jsonl").write_bytes(chat_lines())
    ask = {"model": "demo-triage", "messages": [{"role": "user", "content": "VPN"}]}
    line = {"custom_id": "a1", "method": "POST", "url": "/v1/chat/completions", "body": ask}
    Path("asks.jsonl").write_text(json.dumps(line))
    here = {"http://127.0.0.1:8000": live_server.url, "tnp_…": token, "smollm2-135m-instruct": "tiny"}
    names: dict = {}
    told = []
    with Receiver() as receiver:
        for name, value in {"PORTAL": live_server.url, "TOKEN": token, "HOOK": receiver.url}.items():
            monkeypatch.setenv(name, value)
        for language, text in BLOCK.findall(PAGE.read_text()):
            for shown, meant in here.items():
                text = text.replace(shown, meant)
            if language == "bash":
                shell = ["bash", "-euo", "pipefail", "-c", text]
                done = subprocess.run(shell, capture_output=True, text=True, timeout=60, env=os.environ)
                assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
                told.append(done.stdout)
            else:
                exec(compile(text, str(PAGE), "exec"), names)
                told.append(capsys.readouterr().out)
        (sample,) = receiver.received
        names["receive"](sample.body, sample.headers)
        assert capsys.readouterr().out.startswith("batch_")
    said = "\n".join(told)
    assert said.count("heard: VPN drops every hour, login anna.k") == 1
    assert said.count("heard: VPN") == 2, "the question, and the one of the batch"
    assert '"object": "list"' in said or '"object":"list"' in said
    assert '"fine_tuning.job"' in said
    assert '"predicate"' in said
    with all_teams("test"):
        assert FineTuningJob.unscoped.count() == 2
