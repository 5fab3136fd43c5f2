"""The doctor over the API: report, rows of a finding, fixes, schema."""

from __future__ import annotations

import json

import numpy as np
import pytest

from datasets_app.answer_schemas.words import DIALECT
from datasets_app.doctor.report import write_ids
from datasets_app.models import AnswerSchema, DatasetVersion, DoctorReport
from portal.models import Scope
from portal.rls import team_scope
from tests.datasets_app.test_answer_schemas import INFERRED

pytestmark = pytest.mark.django_db
FOUND = {"split": "train", "id": 3, "row": 4, "field": "", "params": {}}
OTHER = {"other_id": 1, "other_split": "train", "other_row": 2}


@pytest.fixture
def report(team, base_model, ready_version) -> DoctorReport:
    """A ready report with one finding of three rows."""
    examples = [{**FOUND, "params": OTHER}]
    finding = {"code": "duplicate", "severity": "warning", "count": 3, "params": {}, "examples": examples}
    found = {"rows": {"train": 20}, "findings": [finding | {"fixes": ["exclude_found"]}], "schema": INFERRED}
    found |= {"balance": {}, "tokens": None, "languages": {}, "timings": {}}
    with team_scope(team.pk):
        ready_version.doctor_reports.all().delete()
        report = team.doctorreports.create(
            version=ready_version, base_model=base_model, status=DoctorReport.Status.READY, report=found
        )
        ready_version.schemas.all().delete()
        team.answerschemas.create(version=ready_version, number=1, origin=AnswerSchema.Origin.INFERRED, schema=INFERRED)
        report.folder.mkdir(parents=True)
        write_ids(report.folder, "duplicate", np.array([3, 4, 5]))
    return report


@pytest.fixture
def address(report) -> str:
    return f"/api/dataset-versions/{report.version_id}"


def test_report_and_rows_of_a_finding(api, address, report):
    shown = api.get(f"{address}/doctor/").json()
    assert (shown["id"], shown["status"], shown["base_model"]) == (str(report.pk), "ready", "tiny")
    assert shown["verdict"] == "Ready to train. One thing to look at."
    finding = shown["findings"][0]
    assert (finding["title"], finding["fixes"][0]["name"]) == ("Repeated rows: 3", "exclude")
    assert finding["examples"][0] == {
        "id": 3, "split": "train", "row": 4, "field": "", "detail": "like row 1 (train, line 2)"
    }  # fmt: skip
    rows = api.get(f"{address}/doctor/findings/duplicate/", {"page_size": "2"}).json()
    assert (rows["count"], rows["results"]) == (3, [3, 4])
    assert api.get(f"{address}/doctor/findings/leak/").status_code == 404


def test_examine_again_and_cancel(api, address):
    sent = {"base_model": "tiny", "options": {"max_length": 64}}
    made = api.post(f"{address}/doctor/", sent, content_type="application/json")
    assert (made.status_code, made.json()["status"], made.json()["verdict"]) == (201, "queued", "")
    twice = api.post(f"{address}/doctor/", sent, content_type="application/json")
    assert (twice.status_code, twice.json()["error"]["code"]) == (409, "report_open")
    wrong = api.post(f"{address}/doctor/", {"options": {"x": 1}}, content_type="application/json")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "options")
    assert api.delete(f"{address}/doctor/").status_code == 204
    assert api.delete(f"{address}/doctor/").status_code == 409


def test_fixes_make_a_version(api, address, report, team):
    def sent(**more: object):
        body = json.dumps({"report": str(report.pk), **more})
        return api.post(f"{address}/doctor/fixes/", body, content_type="application/json")

    made = sent(fixes={"duplicate": "exclude"}, note="tidied")
    assert (made.status_code, made.json()["status"], made.json()["number"]) == (201, "importing", 2)
    with team_scope(team.pk):
        derived = DatasetVersion.unscoped.get(pk=made.json()["id"])
    assert (derived.parent_id, derived.note) == (report.version_id, "tidied")
    assert sent().json()["error"]["code"] == "no_fix"
    assert sent(fixes={"leak": "exclude"}).json()["error"]["code"] == "unknown_fix"
    assert sent(labels={"x": "accept"}).status_code == 400
    assert sent(report=str(report.version_id), fixes={"duplicate": "exclude"}).json()["error"]["code"] == "report_old"


def test_schema(api, address):
    shown = api.get(f"{address}/schema/").json()
    assert (shown["revision"], shown["origin"]) == (1, "inferred")
    assert shown["schema"] == {"$schema": DIALECT, "title": "Tickets v1", **INFERRED}

    def put(schema: object, based_on: int = 1):
        body = json.dumps({"schema": schema, "based_on": based_on})
        return api.put(f"{address}/schema/", body, content_type="application/json")

    assert put({**shown["schema"], "description": "A ticket"}).json()["revision"] == 2
    assert put(shown["schema"]).json()["error"]["code"] == "schema_changed"
    refused = put({"type": "object", "properties": {"a": {"type": "x"}}}, 2).json()["error"]
    assert (refused["code"], refused["param"]) == ("invalid_schema", "schema.properties.a.type")


def test_reading_needs_no_right_to_write(team, alice, address, make_token, client):
    headers = {"Authorization": f"Bearer {make_token(team, alice, scopes=[Scope.DATASETS_READ])}"}
    assert client.get(f"{address}/doctor/", headers=headers).status_code == 200
    for method, path in (("post", "doctor/"), ("delete", "doctor/"), ("post", "doctor/fixes/"), ("put", "schema/")):
        assert getattr(client, method)(f"{address}/{path}", headers=headers).status_code == 403
