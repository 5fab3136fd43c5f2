"""By API what pages can do with deployments: exports, the gate, the request log, waking."""

from __future__ import annotations

import json

import pytest

from deployments import inference, known_targets
from deployments.inference import Caller
from deployments.models import ModelExport
from portal.models import AuditEvent
from portal.rls import all_teams, team_scope
from tests.deployments.figures import evaluate

JSON = {"content_type": "application/json"}


@pytest.fixture(autouse=True)
def _nothing_known():
    known_targets._versions.clear()


def ask(team, content="VPN is down", request_id="req_1") -> None:
    body = {"model": "demo-triage", "messages": [{"role": "user", "content": content}]}
    target = inference.resolve(team, "demo-triage")
    inference.complete(inference.admit(target, body, Caller(team=team, request_id=request_id)))


def audited(action: str) -> int:
    with all_teams("test reads the audit trail"):
        return AuditEvent.objects.filter(action=action).count()


def test_an_export_is_ordered_watched_downloaded_and_deleted(api, stranger_api, team, run):
    url = f"/api/runs/{run.pk}/exports/"
    wrong = api.post(url, {"kind": "gguf"}, **JSON)
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "kind")
    made = api.post(url, {"kind": "gguf", "weights": "q8_0"}, **JSON)
    assert (made.status_code, made.json()["status"]) == (201, "queued")
    one = f"/api/exports/{made.json()['id']}/"
    assert api.get(f"{one}file/").status_code == 404
    with team_scope(team.pk):
        export = team.modelexports.select_related("team").get()
        export.folder.mkdir(parents=True)
        (export.folder / "model.gguf").write_bytes(b"GGUF")
        team.modelexports.update(status=ModelExport.Status.READY, file_name="model.gguf", progress=100)
    assert [(row["status"], row["file_name"]) for row in api.get(url).json()["results"]] == [("ready", "model.gguf")]
    answer = api.get(f"{one}file/")
    assert b"".join(answer.streaming_content) == b"GGUF"
    assert "attachment" in answer.headers["Content-Disposition"]
    assert audited("export.downloaded") == 1
    for address in (url, one, f"{one}file/"):
        assert stranger_api.get(address).status_code == 404
    assert stranger_api.delete(one).status_code == 404
    assert api.delete(one).status_code == 204
    assert api.get(one).status_code == 404


def test_a_push_needs_a_credential_of_the_team(api, run):
    order = {"kind": "hub", "repository": "acme/model", "credential": "none"}
    answer = api.post(f"/api/runs/{run.pk}/exports/", order, **JSON)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "credential")


def test_the_rules_are_read_and_replaced_by_admins(api, team, bob, make_token, client_for):
    assert api.get("/api/promotion-policy/").json() == {
        "is_on": True, "min_macro_f1": None, "max_f1_drop": 0.02, "max_recall_drop": 0.1, "max_invalid_json": 0.0,
        "max_median_ms": None, "max_median_rise": None, "needs_same_rows": True,
    }  # fmt: skip
    rules = {"is_on": True, "min_macro_f1": 0.8, "max_median_ms": 900}
    assert api.put("/api/promotion-policy/", rules, **JSON).json()["min_macro_f1"] == 0.8
    known = api.get("/api/promotion-policy/").json()
    assert (known["max_f1_drop"], known["max_median_ms"], known["needs_same_rows"]) == (None, 900, False)
    assert api.put("/api/promotion-policy/", {"is_on": True, "min_macro_f1": 8}, **JSON).status_code == 400
    assert audited("deployment.policy_changed") == 1


def test_a_version_is_checked_before_it_is_promoted(api, stranger_api, team, deployed, run, make_run):
    second = make_run(team, "Second")
    with team_scope(team.pk):
        evaluate(run, recalls={"a": 0.9})
        evaluate(second, recalls={"a": 0.5}, json_valid=0.9)
    api.post("/api/deployments/", {"run": str(second.pk), "name": "demo-triage"}, **JSON)
    url = f"/api/deployments/{deployed.deployment_id}/check/"
    found = api.get(url, {"version": 2}).json()
    assert (found["version"], found["has_passed"], found["is_same_rows"]) == (2, False, True)
    failed = {rule["code"]: (rule["candidate"], rule["live"]) for rule in found["rules"] if not rule["has_passed"]}
    assert set(failed) == {"max_invalid_json", "max_recall_drop"}
    assert failed["max_recall_drop"] == ("50.0%", "90.0%")
    assert api.get(url, {"version": 1}).json()["has_passed"] is True
    assert api.get(url, {"version": 3}).status_code == 404
    assert [api.get(url, {"version": value}).status_code for value in ("", "x", "²", "9" * 20)] == [400] * 4
    assert stranger_api.get(url, {"version": 1}).status_code == 404


def test_the_request_log_by_api(api, stranger_api, team, deployed):
    log = f"/api/deployments/{deployed.deployment_id}/log/"
    requests = f"/api/deployments/{deployed.deployment_id}/requests/"
    ask(team, request_id="req_before")
    assert api.get(log).json() == {"logs_text": False, "log_days": 30}
    assert api.put(log, {"logs_text": True, "log_days": 0}, **JSON).status_code == 400
    assert api.put(log, {"logs_text": True, "log_days": 7}, **JSON).json() == {"logs_text": True, "log_days": 7}
    known_targets._versions.clear()
    ask(team, request_id="req_kept")
    rows = api.get(requests).json()
    assert [(row["request_id"], row["has_text"], row["version"]) for row in rows["results"]] == [
        ("req_kept", True, 1),
        ("req_before", False, 1),
    ]
    assert rows["older"] is None
    assert "VPN" not in json.dumps(rows)
    first, last = rows["results"]
    for query, ids in (
        ({"before": first["id"]}, ["req_before"]),
        ({"request_id": "req_kept"}, ["req_kept"]),
        ({"version": 2}, []),
        ({"status": 200}, ["req_kept", "req_before"]),
        ({"corrected": "true"}, []),
    ):
        assert [row["request_id"] for row in api.get(requests, query).json()["results"]] == ids, query
    assert [api.get(requests, query).status_code for query in ({"before": "x"}, {"status": "9" * 9}, {"at": "1"})] == [
        400
    ] * 3

    one = f"{requests}{first['id']}/"
    assert api.get(one).json()["text"]["messages"][-1]["content"] == "VPN is down"
    assert audited("request.texts_read") == 1
    corrected = api.patch(one, json.dumps({"correction": "Network"}), **JSON)
    assert corrected.json()["text"]["correction"] == "Network"
    assert [row["request_id"] for row in api.get(requests, {"corrected": "true"}).json()["results"]] == ["req_kept"]
    assert api.get(f"{requests}{last['id']}/").json()["text"] is None
    assert api.patch(f"{requests}{last['id']}/", json.dumps({"correction": "x"}), **JSON).status_code == 404
    for address in (log, requests, one):
        assert stranger_api.get(address).status_code == 404
    assert api.delete(log).status_code == 204
    assert api.get(one).json()["text"] is None


def test_a_sleeping_deployment_is_woken(api, stranger_api, team, deployed):
    key = f"/api/deployments/{deployed.deployment_id}/"
    api.patch(key, json.dumps({"sleep_after_minutes": 5}), **JSON)
    with team_scope(team.pk):
        team.deployments.update(awake_until=None)
        team.placements.all().delete()
    assert api.get(key).json()["state"] == "asleep"
    assert stranger_api.post(f"{key}wake/").status_code == 404
    assert api.post(f"{key}wake/").json()["state"] == "pending"
    assert audited("deployment.woken") == 1
    api.post(f"{key}stop/")
    refused = api.post(f"{key}wake/")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "deployment_stopped")
