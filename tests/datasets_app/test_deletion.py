"""Deleting with a way back: hidden everywhere, restorable for 30 days, refused while runs stand on it, then gone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from datasets_app import arrivals, deletion, tasks
from datasets_app.models import Dataset, DatasetVersion
from portal import usage
from portal.errors import IllegalTransition, InvalidInput
from portal.models import AuditEvent, Role
from portal.rls import all_teams, team_scope
from tests.datasets_app.test_derive import derive, fresh
from tests.datasets_app.test_pages import DATASETS, VERSIONS, text_of

pytestmark = pytest.mark.django_db


def delete(version: DatasetVersion, actor) -> None:
    with team_scope(version.team_id):
        deletion.delete_dataset(dataset=version.dataset, actor=actor)


def test_a_deleted_dataset_is_nowhere_and_comes_back(team, ready_version, actor, client_for, alice, api, base_model):
    browser = client_for(alice)
    with team_scope(team.pk):
        stored = usage.storage_bytes(team)
    delete(ready_version, actor)
    pages = [f"{DATASETS}{ready_version.dataset_id}/", f"{VERSIONS}{ready_version.pk}/"]
    pages += [f"{VERSIONS}{ready_version.pk}/rows/1/", f"{VERSIONS}{ready_version.pk}/rows/train.jsonl"]
    assert {browser.get(page).status_code for page in pages} == {404}
    assert api.get(f"/api/dataset-versions/{ready_version.pk}/rows/").status_code == 404
    assert api.get("/api/datasets/").json()["count"] == 0
    assert "Tickets v1" not in text_of(browser.get("/t/service-desk/experiments/new/"))
    with team_scope(team.pk):
        assert usage.storage_bytes(team) == stored  # until it is gone
    listed = text_of(browser.get(f"{DATASETS}deleted/"))
    assert "Tickets dataset" in listed
    assert "Alice" in listed
    answer = browser.post(f"{DATASETS}{ready_version.dataset_id}/restore/", {"name": "Tickets"})
    assert answer.headers["Location"] == pages[0]
    assert {browser.get(page).status_code for page in pages} == {200}
    assert ready_version.rows_path("train").exists()


def test_the_name_is_free_and_a_taken_one_asks_for_another(team, ready_version, actor, client_for, alice):
    delete(ready_version, actor)
    with team_scope(team.pk):
        team.datasets.create(name="Tickets")
    browser, url = client_for(alice), f"{DATASETS}{ready_version.dataset_id}/restore/"
    refused = browser.post(url, {"name": "Tickets"})
    assert refused.status_code == 400
    assert "another dataset named “Tickets”" in text_of(refused)
    for name in ("a\0b", "x" * 121):
        assert "1 to 120 characters" in text_of(browser.post(url, {"name": name}))
    assert browser.post(url, {"name": "Old tickets"}).status_code == 302
    with team_scope(team.pk):
        assert sorted(team.datasets.values_list("name", flat=True)) == ["Old tickets", "Tickets"]
        assert team.datasetversions.count() == 1


def test_a_version_goes_and_comes_back_alone(team, ready_version, actor, client_for, alice):
    second = derive(ready_version, actor, {"op": "exclude", "ids": [1]})
    with team_scope(team.pk):
        deletion.discard_version(version=ready_version, actor=actor)
        assert [one.number for one in team.datasetversions.all()] == [2]
    third = derive(second, actor, {"op": "exclude", "ids": [2]})
    assert third.number == 3
    browser = client_for(alice)
    # What was made from it still says so.
    assert "v1 (deleted)" in text_of(browser.get(f"{VERSIONS}{second.pk}/"))
    assert "Tickets v1 version" in text_of(browser.get(f"{DATASETS}deleted/"))
    browser.post(f"{VERSIONS}{ready_version.pk}/restore/")
    with team_scope(team.pk):
        assert team.datasetversions.count() == 3


def test_the_only_version_takes_its_dataset_along_and_brings_it_back(team, ready_version, actor):
    with team_scope(team.pk):
        deletion.discard_version(version=ready_version, actor=actor)
        assert team.datasets.count() == 0
        with pytest.raises(IllegalTransition):
            deletion.restore_version(version=ready_version, actor=actor)
        deletion.restore_dataset(dataset=ready_version.dataset, actor=actor)
        assert team.datasetversions.count() == 1
        assert AuditEvent.objects.filter(action="dataset.restored").count() == 1


def test_what_runs_stand_on_stays_and_says_why(team, world, ready_version, actor, client_for, alice, api):
    browser = client_for(alice)
    for url in (f"{DATASETS}{ready_version.dataset_id}/delete/", f"{VERSIONS}{ready_version.pk}/discard/"):
        for answer in (browser.get(url), browser.post(url)):
            assert answer.status_code == 409
            assert f'href="/t/service-desk/runs/{world.run.pk}/"' in answer.content.decode()
            assert "Question #1" in text_of(answer)
    error = api.delete(f"/api/datasets/{ready_version.dataset_id}/").json()["error"]
    assert error["code"] == "in_use"
    assert error["details"] == [{"kind": "run", "id": str(world.run.pk), "name": "Question #1"}]
    assert fresh(ready_version).deleted_at is None


def test_after_thirty_days_it_is_gone(team, ready_version, actor, django_capture_on_commit_callbacks):
    derived = derive(ready_version, actor, {"op": "exclude", "ids": [1]})
    with team_scope(team.pk):
        deletion.discard_version(version=ready_version, actor=actor)
    assert deletion.prune(now=timezone.now() + timedelta(days=29)) == 0
    assert ready_version.folder.exists()
    with all_teams("test"):
        old = timezone.now() - timedelta(days=31)
        DatasetVersion.with_deleted.filter(pk=ready_version.pk).update(deleted_at=old)
    with django_capture_on_commit_callbacks(execute=True):
        assert tasks.prune() == 1
    assert tasks.prune() == 0
    assert not ready_version.folder.exists()
    assert (fresh(derived).parent_id, fresh(derived).changes) == (None, [{"op": "exclude", "ids": [1]}])
    delete(derived, actor)
    with django_capture_on_commit_callbacks(execute=True):
        assert deletion.prune(now=timezone.now() + timedelta(days=31)) == 1
    with all_teams("test"):
        assert Dataset.with_deleted.count() == DatasetVersion.with_deleted.count() == 0
    assert not derived.folder.exists()


def test_only_admins_delete_for_good_and_type_the_name(
    team, ready_version, actor, client_for, alice, bob, django_capture_on_commit_callbacks
):
    url = f"{DATASETS}{ready_version.dataset_id}/purge/"
    assert client_for(alice).get(url).status_code == 404  # it is not deleted
    with team_scope(team.pk), pytest.raises(IllegalTransition):
        deletion.purge(row=ready_version.dataset, actor=actor, typed="Tickets")
    delete(ready_version, actor)
    with team_scope(team.pk):
        team.memberships.filter(user=bob).update(role=Role.EDITOR)
    assert client_for(bob).post(url, {"typed": "Tickets"}).status_code == 403
    refused = client_for(alice).post(url, {"typed": "tickets"})
    assert refused.status_code == 400
    assert "Type Tickets to delete it for good." in text_of(refused)
    assert ready_version.folder.exists()
    with django_capture_on_commit_callbacks(execute=True):
        assert client_for(alice).post(url, {"typed": "Tickets"}).status_code == 302
    assert not ready_version.folder.exists()
    with team_scope(team.pk), pytest.raises(InvalidInput):
        deletion.purge(row=ready_version, actor=actor, typed="v2")


def test_a_deleted_import_stops_and_goes_on_when_it_is_back(team, ready_version, actor):
    from datasets_app import lifecycle
    from datasets_app.derive import derive_version

    with team_scope(team.pk):
        made = derive_version(version=ready_version, actor=actor, changes=[{"op": "exclude", "ids": [1]}])
    delete(ready_version, actor)
    tasks.import_version(str(made.pk))
    assert lifecycle.requeue_stalled_imports() == 0
    with team_scope(team.pk):
        deletion.restore_dataset(dataset=ready_version.dataset, actor=actor)
    tasks.import_version(str(made.pk))
    assert fresh(made).status == DatasetVersion.Status.READY


def test_what_became_ready_meanwhile_is_hidden_not_removed(
    team, ready_version, actor, django_capture_on_commit_callbacks
):
    stale = fresh(ready_version)
    stale.status = DatasetVersion.Status.IMPORTING  # as the page had read it before the import ended
    with team_scope(team.pk), django_capture_on_commit_callbacks(execute=True):
        deletion.discard_version(version=stale, actor=actor)
    assert ready_version.rows_path("train").exists()
    with team_scope(team.pk):
        kept = team.datasetversions(manager="with_deleted").get()
        assert kept.deleted_at is not None
        assert not deletion.discard_version(version=stale, actor=actor)


def test_a_draft_that_became_ready_meanwhile_is_not_pruned(team, ready_version):
    stale = fresh(ready_version)
    stale.status = DatasetVersion.Status.DRAFT
    assert not arrivals._prune_draft(stale)
    assert fresh(ready_version).deleted_at is None
