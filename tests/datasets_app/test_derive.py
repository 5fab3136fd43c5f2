"""New versions from old ones: what each change does to the rows, what is refused, and that the parent stays."""

from __future__ import annotations

import json

import pytest

from datasets_app import reports, services, store, tasks
from datasets_app.derive import derive_version
from datasets_app.models import DatasetVersion, Split
from portal import usage
from portal.errors import IllegalTransition, InvalidInput, QuotaExceeded
from portal.models import AuditEvent, Quota
from portal.rls import all_teams, team_scope

Status = DatasetVersion.Status


def derive(version: DatasetVersion, actor, *changes: dict, note: str = "") -> DatasetVersion:
    """Derive, let the queue work, and return how it ended."""
    with team_scope(version.team_id):
        made = derive_version(version=version, actor=actor, changes=list(changes), note=note)
    tasks.import_version(str(made.pk))
    return fresh(made)


def fresh(version: DatasetVersion) -> DatasetVersion:
    with all_teams("test"):
        return DatasetVersion.unscoped.select_related("dataset", "team").get(pk=version.pk)


def rows_of(version: DatasetVersion) -> dict[int, tuple[str, str, str]]:
    """The rows by id: (split, prompt, answer)."""
    return {
        row.id: (split.value, row.prompt, row.answer)
        for split in Split
        if version.row_count(split)
        for row in store.read_rows(version.rows_path(split))
    }


def test_each_change_does_what_it_says(ready_version, actor):
    before = rows_of(ready_version)
    assert sorted(before) == list(range(1, 25))
    made = derive(
        ready_version,
        actor,
        {"op": "exclude", "ids": [2, 3]},
        {"op": "replace", "id": 1, "prompt": "New", "answer": '{"service": "VPN", "urgency": "Low"}'},
        {"op": "replace", "id": 4, "system": "Be brief."},
        {"op": "move", "ids": [5, 21], "split": "test"},
        {"op": "add", "rows": [{"prompt": "Hi", "answer": "{}", "split": "validation"}]},
        note="  a first\n pass ",
    )
    assert (made.status, made.number, made.parent_id) == (Status.READY, 2, ready_version.pk)
    assert (made.train_rows, made.validation_rows, made.test_rows) == (17, 4, 2)
    assert made.note == "a first pass"
    after = rows_of(made)
    assert set(before) - set(after) == {2, 3}
    assert set(after) - set(before) == {25}
    assert after[25] == ("validation", "Hi", "{}")
    assert after[1] == ("train", "New", '{"service": "VPN", "urgency": "Low"}')
    assert {split for split, _prompt, _answer in (after[5], after[21])} == {"test"}
    assert [row.messages[0]["content"] for row in store.read_ids(made.rows_path("train"), [4])] == ["Be brief."]
    assert {key: row for key, row in after.items() if key not in (1, 5, 21, 25)} == {
        key: row for key, row in before.items() if key not in (1, 2, 3, 5, 21)
    }
    assert made.content_hash != ready_version.content_hash
    assert [field["name"] for field in made.report["fields"]] == ["service", "urgency"]
    # The parent is what it was.
    assert rows_of(fresh(ready_version)) == before
    with all_teams("test"):
        event = AuditEvent.objects.get(action="dataset.version_derived")
    assert event.detail == {"parent": str(ready_version.pk), "changes": 5}


def test_undoing_a_change_gives_the_same_hash(ready_version, actor):
    prompt = rows_of(ready_version)[7][1]
    changed = derive(ready_version, actor, {"op": "replace", "id": 7, "prompt": "Other"})
    assert changed.content_hash != ready_version.content_hash
    back = derive(changed, actor, {"op": "replace", "id": 7, "prompt": prompt})
    assert back.content_hash == ready_version.content_hash


def test_numbers_of_added_rows_are_given_once(ready_version, actor):
    row = {"prompt": "Hi", "answer": "{}"}
    one = derive(ready_version, actor, {"op": "add", "rows": [row, row]})
    other = derive(ready_version, actor, {"op": "add", "rows": [row]})
    assert sorted(set(rows_of(one)) - set(rows_of(ready_version))) == [25, 26]
    assert sorted(set(rows_of(other)) - set(rows_of(ready_version))) == [27]


def test_a_thousand_edits_are_one_walk(ready_version, actor):
    edits = [{"op": "replace", "id": 1 + number % 24, "prompt": f"Text {number}"} for number in range(2400)]
    made = derive(ready_version, actor, *edits)
    assert rows_of(made)[24][1] == "Text 2399"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({}, "changes.0.op"),
        ({"op": "drop"}, "changes.0.op"),
        ({"op": "exclude"}, "changes.0.ids"),
        ({"op": "exclude", "ids": []}, "changes.0.ids"),
        ({"op": "exclude", "ids": [0]}, "changes.0.ids"),
        ({"op": "exclude", "ids": [True]}, "changes.0.ids"),
        ({"op": "exclude", "ids": [1], "split": "test"}, "changes.0.split"),
        ({"op": "move", "ids": [1], "split": "exam"}, "changes.0.split"),
        ({"op": "replace", "id": 1}, "changes.0.prompt"),
        ({"op": "replace", "id": 1, "prompt": "  "}, "changes.0.prompt"),
        ({"op": "replace", "id": 1, "answer": "a\0b"}, "changes.0.answer"),
        ({"op": "replace", "id": 1, "answer": "\ud800"}, "changes.0.answer"),
        ({"op": "replace", "id": 1, "answer": "x" * 40_000}, "changes.0.answer"),
        ({"op": "replace", "id": 1, "promt": "x", "answer": "x"}, "changes.0.promt"),
        ({"op": "add", "rows": [{"prompt": "x"}]}, "changes.0.rows.0.answer"),
        ("exclude", "changes.0"),
    ],
)
def test_nonsense_is_refused_with_its_place(ready_version, actor, change, param):
    with team_scope(ready_version.team_id), pytest.raises(InvalidInput) as refused:
        derive_version(version=ready_version, actor=actor, changes=[change])
    assert refused.value.param == param
    with all_teams("test"):
        assert DatasetVersion.unscoped.count() == 1


def test_a_change_that_does_not_fit_fails_with_a_sentence(ready_version, actor):
    for change, words in (
        ({"op": "exclude", "ids": [1, 99]}, "There is no row 99"),
        ({"op": "exclude", "ids": list(range(1, 21))}, "No training row is left"),
    ):
        made = derive(ready_version, actor, change)
        assert (made.status, made.size_bytes) == (Status.FAILED, 0)
        assert words in reports.error_in_words(made.report)
        assert not list(made.folder.glob("*"))


def test_answers_stay_json_where_they_have_to_be(ready_version, actor):
    with all_teams("test"):
        mapping = ready_version.mapping | {"json_answers": True}
        DatasetVersion.unscoped.filter(pk=ready_version.pk).update(mapping=mapping)
    made = derive(fresh(ready_version), actor, {"op": "replace", "id": 1, "answer": "VPN"})
    assert (made.status, made.report["error"]["code"]) == (Status.FAILED, "answer_must_be_json")


def test_missing_rows_of_the_parent_are_said(ready_version, actor):
    ready_version.rows_path("train").unlink()
    with team_scope(ready_version.team_id):
        made = derive_version(version=ready_version, actor=actor, changes=[{"op": "exclude", "ids": [1]}])
    tasks.import_version(str(made.pk))
    assert "missing on this server" in reports.error_in_words(fresh(made).report)


def test_only_a_ready_version_can_be_changed(ready_version, actor):
    with team_scope(ready_version.team_id):
        made = derive_version(version=ready_version, actor=actor, changes=[{"op": "exclude", "ids": [1]}])
        with pytest.raises(IllegalTransition):
            derive_version(version=made, actor=actor, changes=[{"op": "exclude", "ids": [1]}])
        with pytest.raises(IllegalTransition):
            services.begin_import(version=made, actor=actor, mapping=None)  # type: ignore[arg-type]


def test_a_full_storage_refuses(ready_version, actor, team):
    with all_teams("test"):
        team.teamlimits.create(kind=Quota.STORAGE_BYTES, value=1)
    with team_scope(team.pk), pytest.raises(QuotaExceeded):
        derive_version(version=ready_version, actor=actor, changes=[{"op": "exclude", "ids": [1]}])


def test_what_waits_to_be_made_is_counted(ready_version, actor, team):
    change = {"op": "exclude", "ids": [1]}
    with team_scope(team.pk):
        limit = usage.storage_bytes(team) + ready_version.size_bytes * 3 // 2
        team.teamlimits.create(kind=Quota.STORAGE_BYTES, value=limit)
        derive_version(version=ready_version, actor=actor, changes=[change])
        with pytest.raises(QuotaExceeded):
            derive_version(version=ready_version, actor=actor, changes=[change])


def test_a_worker_that_died_is_followed_by_another(ready_version, actor):
    from datasets_app import lifecycle

    with team_scope(ready_version.team_id):
        made = derive_version(version=ready_version, actor=actor, changes=[{"op": "exclude", "ids": [1]}])
    job = lifecycle.claim_import(made.pk)
    assert job is not None
    assert job.derivation is not None
    tasks.import_version(str(made.pk))  # claimed by another: nothing happens
    assert fresh(made).status == Status.IMPORTING
    with all_teams("test"):
        DatasetVersion.unscoped.filter(pk=made.pk).update(heartbeat_at=None)
    assert lifecycle.requeue_stalled_imports() == 1
    tasks.import_version(str(made.pk))
    assert fresh(made).status == Status.READY
    assert json.loads(json.dumps(fresh(made).changes)) == [{"op": "exclude", "ids": [1]}]
