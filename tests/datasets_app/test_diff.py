"""Two versions compared: every row is in exactly one of the groups, and the page shows the words that changed."""

from __future__ import annotations

import random

import pytest

from datasets_app import services, tasks, version_diff
from datasets_app.models import Split
from portal.rls import team_scope
from tests.datasets_app.files import csv_upload, tickets
from tests.datasets_app.test_derive import derive, fresh, rows_of
from tests.datasets_app.test_pages import text_of

pytestmark = pytest.mark.django_db


def sides(pairs):
    return {one for one, _other in pairs}, {other for _one, other in pairs}


def test_rows_are_told_apart_by_their_ids(ready_version, actor, team):
    made = derive(
        ready_version,
        actor,
        {"op": "exclude", "ids": [2]},
        {"op": "replace", "id": 3, "prompt": "New words"},
        {"op": "move", "ids": [3, 4], "split": "test"},
        {"op": "add", "rows": [{"prompt": "Hi", "answer": "{}"}]},
    )
    with team_scope(team.pk):
        found = version_diff.compare(ready_version, made)
        assert found.counts == {"changed": 1, "added": 1, "removed": 1, "moved": 1, "same": 21}
        assert found.pairs("changed") == [(3, 3)]
        assert found.pairs("moved") == [(4, 4)]
        assert found.pairs("removed") == [(2, None)]
        assert found.pairs("added") == [(None, 25)]
        back = version_diff.compare(made, ready_version)
    assert (back.counts["added"], back.counts["removed"]) == (1, 1)


def test_chance_changes_are_found_exactly(ready_version, actor, team):
    luck = random.Random(7)
    version = ready_version
    for _round in range(3):
        ids = sorted(rows_of(version))
        out = luck.sample(ids, 2)
        edit = luck.choice([one for one in ids if one not in out])
        version = derive(
            version,
            actor,
            {"op": "exclude", "ids": out},
            {"op": "replace", "id": edit, "answer": f'{{"x": {luck.random()}}}'},
        )
    before, after = rows_of(ready_version), rows_of(version)
    with team_scope(team.pk):
        found = version_diff.compare(ready_version, version)
    assert sides(found.pairs("removed"))[0] == set(before) - set(after)
    assert sides(found.pairs("changed"))[1] == {one for one in after if after[one][1:] != before[one][1:]}
    assert found.counts["same"] == sum(after[one] == before[one] for one in after)


def test_separate_imports_are_matched_by_what_is_asked(ready_version, actor, team, api, tmp_path):
    rows = tickets(30)
    made = []
    for part in (rows, [rows[3], *rows[5:], (rows[4][0], '{"service": "Other"}'), rows[3]]):
        with team_scope(team.pk):
            one = services.import_files(
                team=team, actor=actor, name="", dataset=ready_version.dataset,
                files={Split.TRAIN: csv_upload(part), Split.TEST: csv_upload(tickets(35)[30:])},
            )  # fmt: skip
        tasks.import_version(str(one.pk))
        made.append(fresh(one))
    with team_scope(team.pk):
        counts = version_diff.compare(*made).counts
        # Rows 0 to 2 are gone, 4 has another answer, 3 stands there twice.
        assert counts == {"changed": 1, "added": 1, "removed": 3, "moved": 0, "same": 31}
        settings = version_diff.settings_changes(*made)
    assert ("service", "", "Other") in settings


def test_the_page(ready_version, actor, client_for, alice, bob):
    made = derive(ready_version, actor, {"op": "replace", "id": 1, "prompt": "Ticket 0: Mail is broken"}, note="Fixed")
    back = derive(
        made, actor, {"op": "replace", "id": 1, "prompt": rows_of(ready_version)[1][1]}, {"op": "exclude", "ids": [5]}
    )
    url = f"/t/service-desk/datasets/{ready_version.dataset_id}/diff/"
    page = client_for(bob).get(url, {"from": "1", "to": "2"})
    assert "v1 → v2" in text_of(page)
    assert "<del>VPN</del><ins>Mail</ins>" in page.content.decode()
    assert "v2 → v3" in text_of(client_for(alice).get(url))
    assert "Row 5" in text_of(client_for(alice).get(url, {"from": "1", "to": "3"}))
    derive(back, actor, {"op": "add", "rows": [{"prompt": "x", "answer": "{}"}]}, {"op": "exclude", "ids": [25]})
    assert "The same rows" in text_of(client_for(alice).get(url, {"from": "3", "to": "4"}))
    for nonsense in ({"from": "x"}, {"from": "1", "to": "1"}, {"kind": "x", "page": "99"}):
        assert client_for(alice).get(url, nonsense).status_code == 200


def test_one_version_alone_has_nothing_to_compare(ready_version, client_for, alice):
    url = f"/t/service-desk/datasets/{ready_version.dataset_id}/diff/"
    assert "Nothing to compare" in text_of(client_for(alice).get(url))
