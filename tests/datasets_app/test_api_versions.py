"""Rows, changes, comparisons, downloads and restoring, by API: the same services as the pages."""

from __future__ import annotations

import pytest

from datasets_app import tasks
from datasets_app.models import DatasetVersion
from portal.rls import all_teams
from tests.datasets_app.test_derive import derive, fresh, rows_of

pytestmark = pytest.mark.django_db
JSON = "application/json"


@pytest.fixture
def base(ready_version) -> str:
    return f"/api/dataset-versions/{ready_version.pk}/"


def error_of(answer) -> dict:
    return answer.json()["error"]


def test_search(api, base):
    found = api.get(f"{base}rows/search/", {"q": "ticket 2", "page_size": "2"}).json()
    assert [one["id"] for one in found["results"]] == [3, 21]
    assert found["results"][1]["split"] == "validation"
    rest = api.get(f"{base}rows/search/", {"q": "ticket 2", "after": found["next"], "page_size": "200"}).json()
    assert ([one["id"] for one in rest["results"]], rest["next"]) == ([22, 23, 24], None)
    vpn = api.get(f"{base}rows/search/", {"field": "service", "value": "VPN", "split": "train"}).json()
    assert len(vpn["results"]) == 5
    assert [one["id"] for one in api.get(f"{base}rows/search/", {"ids": "4,99"}).json()["results"]] == [4]


@pytest.mark.parametrize(
    ("query", "param"),
    [({"split": "x"}, "split"), ({"after": "x"}, "after"), ({"ids": "1,x"}, "ids"), ({"page_size": "0"}, "page_size")],
)
def test_a_search_with_nonsense_is_refused(api, base, query, param):
    answer = api.get(f"{base}rows/search/", query)
    assert (answer.status_code, error_of(answer)["param"]) == (400, param)


def test_changes_are_noted_and_saved(api, base, ready_version):
    row = api.get(f"{base}rows/1/").json()
    assert (row["id"], row["split"], row["messages"][0]["content"]) == (1, "train", "Ticket 0: VPN is broken")
    noted = api.patch(f"{base}rows/1/", {"prompt": "New"}, content_type=JSON).json()
    assert (noted["row_id"], noted["texts"]) == (1, {"prompt": "New"})
    assert api.patch(f"{base}rows/1/", {"prompt": None}, content_type=JSON).status_code == 204
    changes = [{"id": 1, "prompt": "New"}, {"id": 2, "is_excluded": True}, {"id": 3, "split": "test"}]
    assert len(api.post(f"{base}changes/", {"changes": changes}, content_type=JSON).json()) == 3
    assert api.get(f"{base}changes/").json()["count"] == 3
    made = api.post(f"{base}derive/", {"note": "By program"}, content_type=JSON)
    assert made.status_code == 201
    version = made.json()
    assert (version["number"], version["parent"], version["note"]) == (2, str(ready_version.pk), "By program")
    assert version["changes"][0] == {"op": "exclude", "ids": [2]}
    tasks.import_version(version["id"])
    diff = api.get(f"/api/dataset-versions/{version['id']}/diff/").json()
    assert diff["counts"] == {"changed": 1, "added": 0, "removed": 1, "moved": 1, "same": 21}
    assert diff["results"][0]["before"]["messages"][0]["content"] == "Ticket 0: VPN is broken"
    assert diff["results"][0]["after"]["messages"][0]["content"] == "New"
    removed = api.get(
        f"/api/dataset-versions/{version['id']}/diff/", {"kind": "removed", "from": str(ready_version.pk)}
    )
    assert [(one["before"]["id"], one["after"]) for one in removed.json()["results"]] == [(2, None)]


def test_all_or_nothing(api, base, ready_version):
    answer = api.post(
        f"{base}changes/", {"changes": [{"id": 1, "prompt": "x"}, {"id": 99, "prompt": "x"}]}, content_type=JSON
    )
    assert (answer.status_code, error_of(answer)["param"]) == (404, "changes.99")
    api.patch(f"{base}rows/1/", {"is_excluded": True}, content_type=JSON)
    assert api.get(f"{base}changes/").json()["count"] == 1
    assert api.delete(f"{base}changes/").status_code == 204
    assert error_of(api.post(f"{base}derive/", {}, content_type=JSON))["code"] == "nothing_to_save"


def test_derive_by_operations(api, base, ready_version):
    refused = api.post(f"{base}derive/", {"changes": [{"op": "exclude"}]}, content_type=JSON)
    assert error_of(refused)["param"] == "changes.0.ids"
    made = api.post(f"{base}derive/", {"changes": [{"op": "exclude", "ids": [1]}]}, content_type=JSON).json()
    tasks.import_version(made["id"])
    with all_teams("test"):
        assert 1 not in rows_of(fresh(DatasetVersion.unscoped.get(pk=made["id"])))
    assert api.get(f"/api/dataset-versions/{made['id']}/derive/").status_code == 405


def test_downloads(api, base):
    answer = api.get(f"{base}download/")
    assert answer.getvalue().decode("utf-8-sig").startswith("tuneport_row,split,system,prompt,answer\r\n")
    assert api.get(f"{base}download/", {"split": "train", "as": "parquet"}).getvalue()[:4] == b"PAR1"
    assert api.get(f"{base}download/", {"split": "test", "as": "jsonl"}).status_code == 404
    assert api.get(f"{base}download/", {"as": "exe"}).status_code == 404


def test_delete_and_restore(api, ready_version, base, actor, stranger_api):
    second = derive(ready_version, actor, {"op": "exclude", "ids": [1]})
    assert api.delete(f"/api/dataset-versions/{second.pk}/").status_code == 204
    assert api.get(f"/api/dataset-versions/{second.pk}/").status_code == 404
    assert api.post(f"/api/dataset-versions/{second.pk}/restore/").status_code == 200
    assert api.delete(f"/api/datasets/{ready_version.dataset_id}/").status_code == 204
    assert [one["name"] for one in api.get("/api/datasets/deleted/").json()["results"]] == ["Tickets"]
    assert error_of(api.post(f"/api/dataset-versions/{second.pk}/restore/"))["code"] == "dataset_deleted"
    restored = api.post(f"/api/datasets/{ready_version.dataset_id}/restore/", {"name": "Back"}, content_type=JSON)
    assert (restored.json()["name"], len(restored.json()["versions"])) == ("Back", 2)


def test_versions_of_others_are_compared_with_nothing(api, stranger_api, base, ready_version, other_team):
    from tests.experiments.runs import make_version

    theirs = make_version(other_team)
    assert api.get(f"{base}diff/", {"from": str(theirs.pk)}).status_code == 404
    assert error_of(api.get(f"{base}diff/"))["param"] == "from"
    assert error_of(api.get(f"{base}diff/", {"from": "x"}))["param"] == "from"
    for path in ("rows/1/", "rows/search/", "changes/", "diff/", "download/"):
        assert stranger_api.get(base + path).status_code == 404
