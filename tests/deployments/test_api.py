"""The resource API of deployments."""

from __future__ import annotations

import json

import pytest
from django.core.management import call_command
from django.test import Client

from portal.rls import team_scope


def post(api: Client, path: str, body: object = None):
    return api.post(f"/api/deployments/{path}", json.dumps(body or {}), "application/json")


def test_a_run_is_deployed_and_becomes_ready(api, run, node, engine, load_placements, team):
    made = post(api, "", {"run": str(run.pk), "name": "demo"})
    assert made.status_code == 201
    body = made.json()
    assert (body["name"], body["state"], body["live_version"]) == ("demo", "pending", None)
    assert body["next_version"]["run"] == str(run.pk)
    assert body["next_version"]["system_prompt"] == "Turn the ticket into JSON."
    load_placements(node)
    shown = api.get(f"/api/deployments/{body['id']}/").json()
    assert (shown["state"], shown["live_version"]["number"], shown["next_version"]) == ("ready", 1, None)
    assert [version["number"] for version in shown["versions"]] == [1]
    listed = api.get("/api/deployments/").json()
    assert [row["name"] for row in listed["results"]] == ["demo"]


def test_what_is_exposed_is_an_allow_list(api, deployed):
    body = api.get(f"/api/deployments/{deployed.deployment_id}/").json()
    assert set(body) == {
        "id", "name", "state", "error", "is_running", "created_at", "live_version", "next_version", "versions",
        "sleep_after_minutes", "canary_version", "canary_share",
    }  # fmt: skip
    version = {"id", "number", "run", "step", "adapter", "base_model", "system_prompt", "created_at", "response_schema",
               "thresholds", "temperatures", "max_tokens", "note", "first_live_at"}  # fmt: skip
    assert set(body["versions"][0]) == set(body["live_version"]) == version
    assert deployed.adapter.engine_name not in json.dumps(body)


def test_promote_stop_start_delete(api, deployed, make_run, team, node, load_placements):
    key = deployed.deployment_id
    second = post(api, "", {"run": str(make_run(team, "Second").pk), "name": "demo-triage", "system_prompt": ""}).json()
    assert (second["id"], second["live_version"]["number"], second["next_version"]["number"]) == (str(key), 1, 2)
    load_placements(node)
    assert api.get(f"/api/deployments/{key}/").json()["live_version"]["number"] == 2
    assert post(api, f"{key}/promote/", {"version": 1}).json()["live_version"]["number"] == 1
    assert post(api, f"{key}/stop/").json()["state"] == "stopped"
    assert post(api, f"{key}/start/").json()["state"] == "ready"
    assert api.delete(f"/api/deployments/{key}/").status_code == 204
    assert api.get(f"/api/deployments/{key}/").status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "run"),
        ({"run": "x", "name": "a"}, "run"),
        ({"name": "a b"}, "run"),
        ({"run": "RUN", "name": "a b"}, "name"),
        ({"run": "RUN", "name": "tiny"}, "name"),
        ({"run": "RUN", "name": "a", "system_prompt": "x" * 20_001}, "system_prompt"),
    ],
)
def test_bad_input_names_the_field(api, run, node, body, param):
    body = {key: str(run.pk) if value == "RUN" else value for key, value in body.items()}
    answer = post(api, "", body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_version_that_does_not_exist_cannot_be_promoted(api, deployed):
    assert post(api, f"{deployed.deployment_id}/promote/", {"version": 9}).status_code == 404
    assert post(api, f"{deployed.deployment_id}/promote/", {"version": "a"}).status_code == 400


def test_another_teams_deployment_answers_like_none_at_all(stranger_api, deployed, run, team):
    for path in ("", "promote/", "stop/", "start/"):
        answers = [
            getattr(stranger_api, "post" if path else "get")(f"/api/deployments/{key}/{path}")
            for key in (deployed.deployment_id, run.pk)
        ]
        assert answers[0].status_code == answers[1].status_code == 404
        assert answers[0].content == answers[1].content
    theirs, nobody = (
        post(stranger_api, "", {"run": str(key), "name": "mine"}) for key in (run.pk, deployed.deployment_id)
    )
    assert theirs.status_code == nobody.status_code == 404
    assert theirs.content.replace(str(run.pk).encode(), b"") == nobody.content.replace(
        str(deployed.deployment_id).encode(), b""
    )
    with team_scope(team.pk):
        assert team.deployments.get().is_running


def test_reading_needs_one_scope_and_changing_the_other(team, alice, make_token, deployed):
    reader = Client(headers={"Authorization": f"Bearer {make_token(team, alice, scopes=['deployments:read'])}"})
    assert reader.get("/api/deployments/").status_code == 200
    for answer in (post(reader, ""), post(reader, f"{deployed.deployment_id}/stop/")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope")
    assert reader.delete(f"/api/deployments/{deployed.deployment_id}/").status_code == 403


@pytest.mark.slow
def test_the_schema_describes_deployments_without_warnings(capsys, tmp_path):
    call_command("spectacular", "--file", str(tmp_path / "schema.yml"))
    complaints = [
        line for line in capsys.readouterr().err.splitlines() if "deployments" in line.lower() or "/v1" in line
    ]
    assert complaints == []
    assert "/api/deployments/{id}/promote/" in (tmp_path / "schema.yml").read_text()
