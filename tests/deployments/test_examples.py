"""The examples on a deployment's page work as they are shown: copied, pasted and run. And a switch loses nothing."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import httpx
import pytest

from deployments import services
from portal.rls import team_scope

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def example(page: str, language: str) -> str:
    found = re.search(rf'data-tab="{language}">.*?<code[^>]*>(.*?)</code>', page, re.DOTALL)
    assert found is not None, language
    return html.unescape(re.sub(r"<[^>]+>", "", found[1]))


def test_curl_python_and_javascript_work_as_shown(live_server, client_for, bob, team, token, deployed):
    answer = client_for(bob).get(
        f"/t/{team.slug}/deployments/{deployed.deployment_id}/", headers={"host": live_server.url.split("//")[1]}
    )
    page = answer.content.decode()
    environment = {**os.environ, "TUNEPORT_TOKEN": token}
    shell = ["bash", "-ec", example(page, "curl")]
    said = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "heard: Can't reset the password for anna@example.com" in said
    python = [sys.executable, "-c", example(page, "python")]
    said = subprocess.run(python, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.strip().endswith("heard: Can't reset the password for anna@example.com")
    node = shutil.which("node")
    if node is None:
        assert not os.environ.get("REQUIRE_NODE"), "node was not found, and this run must not skip what needs it"
        pytest.skip("the JavaScript example needs node: apt-get install nodejs")
    script = [node, "--input-type=module", "-e", example(page, "javascript")]
    said = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.strip().endswith("heard: Can't reset the password for anna@example.com")


def test_promoting_and_rolling_back_fails_no_request(
    live_server, team, actor, token, deployed, make_run, node, load_placements
):
    with team_scope(team.pk):
        second = services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo-triage")
    statuses: list[int] = []
    answers: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        body = {"model": "demo-triage", "messages": [{"role": "user", "content": "VPN"}]}
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=20) as http:
            while not stop.is_set():
                answer = http.post(f"{live_server.url}/v1/chat/completions", json=body)
                statuses.append(answer.status_code)
                answers.append(answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else "")

    def answers_with(version) -> bool:
        return bool(answers) and answers[-1].startswith(version.adapter.engine_name)

    threads = [threading.Thread(target=ask) for _number in range(3)]
    for thread in threads:
        thread.start()
    took = {}
    try:
        for name, version in (("promote", second), ("roll back", deployed), ("again", second)):
            began = time.monotonic()
            with team_scope(team.pk):
                services.promote_version(version=version, actor=actor)
            load_placements(node)
            while not answers_with(version) and time.monotonic() - began < 5:
                time.sleep(0.01)
            took[name] = time.monotonic() - began
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert len(statuses) > 5
    assert max(took.values()) < 5, took
