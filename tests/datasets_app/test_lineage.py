"""The picture of a dataset: every version once, with its runs and deployments beside it."""

from __future__ import annotations

import pytest

from datasets_app import deletion, lineage
from portal.rls import team_scope
from tests.datasets_app.test_derive import derive
from tests.datasets_app.test_pages import text_of

pytestmark = pytest.mark.django_db


def numbers(lines) -> list:
    """The picture as nested lists: [[1, 2, [[3]]]]: version 3 leaves the main line at 2."""
    return [[(stop.version.number, numbers(stop.branches)) for stop in line] for line in lines]


def test_versions_runs_and_deployments(team, world, ready_version, actor, client_for, bob):
    second = derive(ready_version, actor, {"op": "exclude", "ids": [1, 2]}, {"op": "replace", "id": 3, "prompt": "x"})
    derive(ready_version, actor, {"op": "move", "ids": [4], "split": "test"})
    derive(second, actor, {"op": "add", "rows": [{"prompt": "x", "answer": "{}"}]}, note="More of it")
    with team_scope(team.pk):
        lines = lineage.picture(ready_version.dataset)
    # The newest child goes on, the other one begins a line of its own.
    assert numbers(lines) == [[(1, [[(2, []), (4, [])]]), (3, [])]]
    first = lines[0][0]
    assert first.files == ["train.csv", "validation.csv"]
    assert [one.run.label for one in first.runs] == ["Question #1"]
    assert first.runs[0].adapter is not None
    assert [one.label for one in first.runs[0].deployments] == ["triage"]
    page = client_for(bob).get(f"/t/service-desk/datasets/{ready_version.dataset_id}/")
    words = text_of(page)
    for expected in ("2 rows excluded, 1 edit", "1 row moved", "More of it", "Question #1", "triage"):
        assert expected in words
    assert f'href="/t/service-desk/runs/{world.run.pk}/"' in page.content.decode()


def test_a_deleted_version_stays_in_the_picture_while_something_comes_from_it(team, ready_version, actor):
    second = derive(ready_version, actor, {"op": "exclude", "ids": [1]})
    third = derive(second, actor, {"op": "exclude", "ids": [2]})
    with team_scope(team.pk):
        deletion.discard_version(version=second, actor=actor)
        lines = lineage.picture(ready_version.dataset)
        assert [(stop.version.number, stop.version.deleted_at is None) for stop in lines[0]] == [
            (1, True), (2, False), (3, True),
        ]  # fmt: skip
        deletion.discard_version(version=third, actor=actor)
        assert numbers(lineage.picture(ready_version.dataset)) == [[(1, [])]]


def test_a_run_on_an_old_version_can_be_repeated_after_edits(team, world, ready_version, actor):
    from experiments import services

    derive(ready_version, actor, {"op": "exclude", "ids": [1]})
    with team_scope(team.pk):
        again = services.rerun(run=world.run, actor=actor)
        assert again.dataset_version_id == ready_version.pk
        assert again.dataset_version.content_hash == ready_version.content_hash
