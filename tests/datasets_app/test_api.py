"""Datasets over the API: the same rules as on the pages, in JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from django.test import Client

from datasets_app import tasks
from datasets_app.models import Dataset, DatasetVersion
from portal.rls import all_teams
from tests.datasets_app.files import csv_bytes, csv_upload, tickets, upload, zip_bytes

pytestmark = pytest.mark.django_db


def post(api: Client, **fields):
    return api.post("/api/datasets/", {"name": "Tickets", **fields})


def error_of(response) -> dict:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) - {"details"} == {"message", "type", "param", "code"}
    return body["error"]


def nothing_is_left(settings) -> bool:
    with all_teams("test"):
        rows = Dataset.unscoped.count() + DatasetVersion.unscoped.count()
    files = [path for path in (Path(settings.DATA_DIR) / "teams").rglob("*") if path.is_file()]
    return rows == 0 and files == []


@pytest.mark.capped_child
def test_import_then_read_the_rows(api, team):
    created = post(api, train_file=csv_upload(tickets(60)), test_file=csv_upload(tickets(64)[60:], "test.csv"))
    assert created.status_code == 201
    body = created.json()
    assert (body["status"], body["number"], body["dataset_name"]) == ("importing", 1, "Tickets")
    assert body["mapping"]["prompt"] == "prompt"
    assert [(one["split"], one["name"]) for one in body["sources"]] == [("test", "test.csv"), ("train", "tickets.csv")]

    tasks.import_version(body["id"])
    version = api.get(f"/api/dataset-versions/{body['id']}/").json()
    assert (version["status"], version["train_rows"], version["test_rows"]) == ("ready", 60, 4)
    assert [field["name"] for field in version["report"]["answer_fields"]] == ["service", "urgency"]
    assert version["report"]["error"] == ""

    rows = api.get(f"/api/dataset-versions/{body['id']}/rows/?split=train&page=2&page_size=25").json()
    assert (rows["count"], len(rows["results"]), rows["results"][0]["row"]) == (60, 25, 27)
    assert rows["results"][0]["messages"][0]["content"].startswith("Ticket 25:")

    listed = api.get("/api/datasets/").json()
    assert [(one["name"], one["versions"][0]["id"]) for one in listed["results"]] == [("Tickets", body["id"])]
    detail = api.get(f"/api/datasets/{body['dataset']}/").json()
    assert detail["versions"][0]["status"] == "ready"


def test_mapping_and_options_are_json(api):
    response = post(
        api,
        file=csv_upload([("a", "b", "c"), ("d", "", "f")] * 3, header=("who", "question", "label")),
        mapping=json.dumps({"prompt": "question", "response": "label", "system_prompt": "Answer shortly."}),
        options=json.dumps({"skip_faulty": True, "test_share": 0}),
    )
    assert response.status_code == 201, response.content
    version = response.json()
    assert version["options"] == {
        "skip_faulty": True,
        "validation_share": 0.1,
        "test_share": 0.0,
        "seed": 1,
        "split_by": "random",
        "stratify": "auto",
        "keep_together": "near",
    }
    tasks.import_version(version["id"])
    ready = api.get(f"/api/dataset-versions/{version['id']}/").json()
    assert ready["train_rows"] + ready["validation_rows"] == 3
    assert ready["report"]["fault_count"] == 3
    assert ready["report"]["faults"][0]["message"].startswith("Line 3, column “question”")


def test_new_version_of_a_dataset(api):
    first = post(api, file=csv_upload(tickets(5))).json()
    second = api.post(f"/api/datasets/{first['dataset']}/versions/", {"file": csv_upload(tickets(9))})
    assert second.status_code == 201
    assert (second.json()["number"], second.json()["dataset"]) == (2, first["dataset"])
    assert api.get(f"/api/datasets/{first['dataset']}/versions/").status_code == 405


BAD = {
    "wrong column": (csv_bytes(tickets(3)), {"mapping": '{"prompt": "nope", "response": "response"}'}, 400, "mapping"),
    "unknown entry of the mapping": (csv_bytes(tickets(3)), {"mapping": '{"promt": "prompt"}'}, 400, "mapping"),
    "mapping is no JSON": (csv_bytes(tickets(3)), {"mapping": "{prompt"}, 400, "mapping"),
    "mapping is no object": (csv_bytes(tickets(3)), {"mapping": "[1]"}, 400, "mapping"),
    "mapping cannot be guessed": (csv_bytes([("a",)], header=("text",)), {}, 400, "mapping"),
    "unknown option": (csv_bytes(tickets(3)), {"options": '{"skip": true}'}, 400, "options"),
    "empty file": (b"", {}, 400, "train_file"),
    "header only": (b"prompt,response\n", {}, 400, "train_file"),
    "broken quotes": (b'prompt,response\na,b\n"open,b\nc,d\n', {}, 400, "train_file"),
    "not UTF-8": (csv_bytes([("Не могу войти", "Доступ")] * 3, encoding="cp1251"), {}, 400, "train_file"),
    "unknown encoding": (csv_bytes(tickets(3)), {"encoding": "ebcdic"}, 400, "encoding"),
    "ZIP without a table": (zip_bytes(), {}, 400, "train_file"),
    "empty answers": (csv_bytes([("a", "b"), ("c", "")]), {}, 400, "train_file"),
    "endless cell": (b"prompt,response\n" + b"x" * 6_000_000 + b",b\n", {}, 400, "train_file"),
    "no name": (csv_bytes(tickets(3)), {"name": " "}, 400, "name"),
    "endless name": (csv_bytes(tickets(3)), {"name": "x" * 200}, 400, "name"),
    "NUL in the name": (csv_bytes(tickets(3)), {"name": "a\0b"}, 400, "name"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_explained_and_leaves_nothing(api, settings, case):
    content, fields, status, param = BAD[case]
    response = post(api, file=upload(content), **fields)
    assert response.status_code == status, response.content
    error = error_of(response)
    assert error["param"] == param
    assert error["message"].endswith((".", "}")), error["message"]
    assert nothing_is_left(settings)


def test_faulty_rows_are_named_by_line(api):
    error = error_of(post(api, file=upload(csv_bytes([("a", "b"), ("c", ""), ("", "d")]))))
    assert error["code"] == "faulty_rows"
    assert [(one["line"], one["column"], one["code"]) for one in error["details"]] == [
        (3, "response", "empty_answer"),
        (4, "prompt", "empty_prompt"),
    ]
    assert error["message"].startswith("“tickets.csv”: Line 3, column “response”: the answer is empty.")


def test_missing_file(api, settings):
    error = error_of(post(api))
    assert (error["param"], error["code"]) == ("train_file", "file_missing")
    assert nothing_is_left(settings)


def test_the_training_file_under_two_names(api, settings):
    error = error_of(post(api, file=csv_upload(tickets(3)), train_file=csv_upload(tickets(3))))
    assert error["param"] == "file"
    assert nothing_is_left(settings)


def test_duplicate_name(api):
    post(api, file=csv_upload(tickets(3)))
    response = post(api, file=csv_upload(tickets(3)))
    assert response.status_code == 400
    assert error_of(response)["code"] == "name_taken"


@pytest.mark.parametrize("over", ["the portal's limit", "the limit with slack"])
def test_over_the_limit(api, settings, over):
    settings.MAX_UPLOAD_BYTES = 1000
    size = 5_000 if over == "the portal's limit" else 3_000_000
    response = post(api, file=upload(b"prompt,response\n" + b"a,b\n" * (size // 4)))
    assert response.status_code == 413
    assert error_of(response)["code"] in ("file_too_large", "request_too_large")
    assert nothing_is_left(settings)


def test_other_content_types_are_refused(api):
    response = api.post("/api/datasets/", "name: x", content_type="text/yaml")
    assert response.status_code == 415
    error_of(response)


def test_delete(api, settings, django_capture_on_commit_callbacks):
    version = post(api, file=csv_upload(tickets(3))).json()
    with django_capture_on_commit_callbacks(execute=True):
        assert api.delete(f"/api/datasets/{version['dataset']}/").status_code == 204
    assert api.get(f"/api/datasets/{version['dataset']}/").status_code == 404
    assert nothing_is_left(settings)


def test_rows_need_a_ready_version_and_a_known_split(api):
    version = post(api, file=csv_upload(tickets(3))).json()
    response = api.get(f"/api/dataset-versions/{version['id']}/rows/")
    assert response.status_code == 409
    assert error_of(response)["code"] == "not_ready"
    assert error_of(api.get(f"/api/dataset-versions/{version['id']}/rows/?split=x"))["param"] == "split"


def test_strangers_see_nothing(api, stranger_api):
    version = post(api, file=csv_upload(tickets(3))).json()
    assert stranger_api.get("/api/datasets/").json()["count"] == 0
    addresses = [
        ("get", f"/api/datasets/{version['dataset']}/"),
        ("delete", f"/api/datasets/{version['dataset']}/"),
        ("get", f"/api/dataset-versions/{version['id']}/"),
        ("delete", f"/api/dataset-versions/{version['id']}/"),
        ("get", f"/api/dataset-versions/{version['id']}/rows/"),
    ]
    for method, address in addresses:
        assert getattr(stranger_api, method)(address).status_code == 404, (method, address)
    theirs = stranger_api.post(f"/api/datasets/{version['dataset']}/versions/", {"file": csv_upload(tickets(3))})
    assert theirs.status_code == 404
    assert api.get(f"/api/datasets/{version['dataset']}/").status_code == 200


def test_scopes(team, alice, make_token):
    reader = Client(headers={"Authorization": f"Bearer {make_token(team, alice, scopes=['datasets:read'])}"})
    caller = Client(headers={"Authorization": f"Bearer {make_token(team, alice, scopes=['inference'], name='b')}"})
    assert reader.get("/api/datasets/").status_code == 200
    response = post(reader, file=csv_upload(tickets(3)))
    assert (response.status_code, error_of(response)["code"]) == (403, "insufficient_scope")
    assert caller.get("/api/datasets/").status_code == 403
    assert Client().get("/api/datasets/").status_code == 401
