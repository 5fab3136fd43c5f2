"""The playground: what can be talked to, streaming to the chat's script, samples, and life without JavaScript."""

from __future__ import annotations

import json
import threading
import time

import pytest

from deployments import lifecycle, playground
from deployments.models import InferenceRecord, Placement
from portal.errors import PortalError
from portal.models import AuditEvent
from portal.rls import all_teams, team_scope
from tests.deployments.conftest import SYSTEM


@pytest.fixture
def url(team) -> str:
    return f"/t/{team.slug}/playground/"


def ask(browser, url: str, model: str, text: str = "hi", **options: object):
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": True, **options}
    return browser.post(f"{url}chat/", json.dumps(body), "application/json")


def streamed(response) -> str:
    assert response.status_code == 200, response.content
    frames = b"".join(response.streaming_content).decode().strip().split("\n\n")
    assert frames.pop() == "data: [DONE]"
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_everything_that_can_answer_is_offered(team, deployed, run, base_model, scoped):
    assert playground.choices(team) == [
        ("deployment:demo-triage", "demo-triage (deployed, version 1)"),
        (f"run:{run.pk}", "First try #1"),
        ("base:tiny", "Tiny (untuned)"),
    ]


def test_the_page_without_anything_explains_itself(team, client_for, bob, url):
    response = client_for(bob).get(url)
    assert response.status_code == 200
    assert "There is no model to talk to yet" in response.content.decode()


def test_the_page_chooses_what_the_address_names(team, client_for, bob, deployed, run, url):
    browser = client_for(bob)
    for query, chosen in (
        ("", "deployment:demo-triage"),
        (f"?run={run.pk}", f"run:{run.pk}"),
        ("?deployment=demo-triage", "deployment:demo-triage"),
        ("?run=nonsense", "deployment:demo-triage"),
        ("?model=base:tiny", "base:tiny"),
        ("?deployment=../x", "deployment:demo-triage"),
    ):
        body = browser.get(url + query).content.decode()
        assert f'<option value="{chosen}" selected>' in body
        assert (SYSTEM in body) == (not chosen.startswith("base")), "the prompt from training is filled in"


def test_answers_are_streamed_from_every_kind_of_model(client_for, bob, deployed, run, load_placements, node, url):
    browser = client_for(bob)
    name = deployed.adapter.engine_name
    assert streamed(ask(browser, url, "deployment:demo-triage")) == f"{name} heard: hi "
    assert streamed(ask(browser, url, f"run:{run.pk}")) == f"{name} heard: hi "
    assert streamed(ask(browser, url, "base:tiny")) == "tiny heard: hi "
    with all_teams("test reads counts"):
        assert [(record.status, record.token_id) for record in InferenceRecord.unscoped.all()] == [(200, None)] * 3


def test_a_run_is_asked_as_it_was_taught(client_for, bob, run, engine, node, load_placements, url, team):
    with team_scope(team.pk):
        playground.warm(team, f"run:{run.pk}")
    load_placements(node)
    streamed(ask(client_for(bob), url, f"run:{run.pk}"))
    assert engine.requests[0]["messages"][0] == {"role": "system", "content": SYSTEM}


@pytest.mark.django_db(transaction=True)
def test_who_asks_while_the_adapter_is_loading_waits_for_it(client_for, bob, run, engine, node, load_placements, url):
    def load_soon() -> None:
        from django.db import connection

        time.sleep(0.8)
        load_placements(node)
        connection.close()

    agent = threading.Thread(target=load_soon)
    agent.start()
    assert "heard: hi" in streamed(ask(client_for(bob), url, f"run:{run.pk}"))
    agent.join()


def test_who_waits_in_vain_is_told(monkeypatch, client_for, bob, run, engine, url):
    monkeypatch.setattr(playground, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("deployments.playground.resolve.__kwdefaults__", {"patience_s": 0.05})
    response = ask(client_for(bob), url, f"run:{run.pk}")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_loading")


def test_warming_loads_a_run_and_says_when_it_is_ready(client_for, bob, run, node, engine, load_placements, url, team):
    browser = client_for(bob)
    wanted = {"model": f"run:{run.pk}"}
    first = browser.post(f"{url}warm/", wanted)
    assert "The model is being loaded" in first.content.decode()
    assert browser.post(f"{url}warm/", {**wanted, "again": "1"}).status_code == 204
    load_placements(node)
    ready = browser.post(f"{url}warm/", {**wanted, "again": "1"})
    assert (ready.status_code, ready.content.strip()) == (200, b"")
    with team_scope(team.pk):
        placement = Placement.unscoped.get()
    lifecycle.placement_failed(placement.pk, "The file is damaged.")
    prompt = browser.post(f"{url}warm/", {"model": "deployment:x"}).content.decode()
    assert prompt.count("<textarea") == 1, "the settings of the chat get the model's own system prompt"
    assert "does not exist" in browser.post(f"{url}warm/", {"model": "run:x"}).content.decode()


def test_a_sample_is_a_validation_row_with_its_expected_answer(client_for, bob, run, url):
    row = client_for(bob).get(f"{url}sample/?model=run:{run.pk}").json()
    number = int(row["prompt"].removeprefix("validation ticket "))
    assert row["expected"] == json.dumps({"queue": number})
    assert row["system"] == SYSTEM
    assert row["messages"][-1] == {"role": "user", "content": row["prompt"]}


def test_samples_come_from_the_whole_file(team, actor, run, scoped):
    seen = {playground.sample(team, f"run:{run.pk}", actor).prompt for _ in range(200)}
    assert AuditEvent.objects.filter(action="dataset.rows_read", object_id=str(run.dataset_version_id)).count() == 200
    assert seen == {f"validation ticket {number}" for number in range(3)}


def test_without_validation_rows_the_sample_says_so(client_for, bob, run, team, url):
    with team_scope(team.pk):
        run.dataset_version.rows_path("validation").unlink()
    response = client_for(bob).get(f"{url}sample/?model=run:{run.pk}")
    assert (response.status_code, response.json()["error"]["message"]) == (404, "There are no validation rows to take.")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ("{", None),
        ("[]", None),
        ('{"model": "base:tiny"}', "messages"),
        ('{"model": "base:tiny", "messages": [], "x": 1}', "x"),
    ],
)
def test_nonsense_is_refused_as_the_chat_expects_it(client_for, bob, team, url, body, param):
    response = client_for(bob).post(f"{url}chat/", body, "application/json")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_other_teams_runs_cannot_be_talked_to(client_for, charlie, other_team, run, engine):
    browser, url = client_for(charlie), f"/t/{other_team.slug}/playground/"
    for model in (f"run:{run.pk}", "deployment:demo-triage", "nonsense", "run:", ":"):
        response = ask(browser, url, model)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
    assert browser.get(f"{url}sample/?model=run:{run.pk}").status_code == 404
    assert "First try" not in browser.get(f"{url}?run={run.pk}").content.decode()
    assert engine.requests == []


def test_the_chat_needs_the_csrf_token(team, bob, url):
    from django.test import Client

    browser = Client(enforce_csrf_checks=True)
    browser.force_login(bob)
    assert ask(browser, url, "base:tiny").status_code == 403


def test_without_javascript_a_question_gets_a_whole_answer(client_for, bob, deployed, run, url):
    browser = client_for(bob)
    sampled = browser.get(f"{url}?model=run:{run.pk}&sample=1").content.decode()
    assert "validation ticket" in sampled
    assert "Expected answer" in sampled
    form = {
        "model": "deployment:demo-triage",
        "system": "",
        "prompt": "<b>hi</b>",
        "temperature": "0",
        "max_tokens": "9",
    }
    body = browser.post(url, {**form, "expected": "{}"}).content.decode()
    assert "heard: &lt;b&gt;hi&lt;/b&gt;" in body
    assert "Expected answer" in body
    refused = browser.post(url, {**form, "max_tokens": "many"}).content.decode()
    assert "numbers have to be in their range" in refused
    assert "does not exist" in browser.post(url, {**form, "model": "deployment:none"}).content.decode()


def test_no_transaction_is_open_while_a_model_answers(team, deployed, fake_engine, monkeypatch):
    from deployments import engine_client, inference

    seen: list[bool] = []
    original = engine_client.chat

    def watched(*args: object, **options: object):
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('app.team_id', true)")
            seen.append(bool(cursor.fetchone()[0]))
        return original(*args, **options)

    monkeypatch.setattr(engine_client, "chat", watched)
    body = {"messages": [{"role": "user", "content": "x"}]}
    inference.complete(inference.admit(inference.resolve(team, "demo-triage"), body, inference.Caller(team, "r")))
    assert seen == [False], "no team's rows are in reach while the engine works"
    with pytest.raises(PortalError):
        inference.resolve(team, "nobody")
