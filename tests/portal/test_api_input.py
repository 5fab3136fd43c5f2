"""What an API caller may send: known query parameters only, and keys of the caller's own team."""

from __future__ import annotations

import uuid

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from portal.models import Role
from portal.rls import all_teams, team_scope
from tests.portal.test_route_matrix import API, address
from tests.stage import *  # noqa: F403

pytestmark = pytest.mark.slow

READS = [name for name in API if name not in ("openai:chat", "openai:completions")]


@pytest.mark.django_db
@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize(
    "parameter", ["team__name", "ordering", "created_by__password__startswith", "team_id", "api_key"]
)
def test_unknown_query_parameters_are_refused(world, api, name, parameter):
    answer = api.get(address(name, world), {parameter: "secret-value-4711"})
    assert answer.status_code in (400, 405)
    assert "secret-value-4711" not in answer.content.decode()
    if answer.status_code == 400:
        assert answer.json()["error"]["param"] == parameter


@pytest.mark.django_db
@pytest.mark.parametrize(("parameter", "value"), [("page", "0"), ("page", "x"), ("page", "-1"), ("page", "1e9")])
def test_pages_that_do_not_exist_are_404(world, api, parameter, value):
    for name in ("datasets-api:list", "experiments-api:runs", "deployments-api:deployments"):
        assert api.get(address(name, world), {parameter: value}).status_code == 404


@pytest.mark.django_db
def test_a_name_that_no_database_takes_is_the_name_of_nothing(world, api):
    body = {"name": "New", "base_model": "ti\0ny", "dataset_version": str(world.version.pk)}
    answer = api.post("/api/experiments/", body, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "base_model")


@pytest.mark.django_db
def test_a_filter_with_nonsense_is_refused(world, api):
    for query in ({"status": "everything"}, {"experiment": "1' OR '1'='1"}, {"status__in": "queued"}):
        assert api.get("/api/runs/", query).status_code == 400


@pytest.mark.django_db
def test_keys_of_other_teams_do_not_exist(world, api, other_team, charlie, base_model):
    """A stranger's key and a key that nobody has get the same answer, and nothing is made."""
    from tests.experiments.runs import make_version

    version = make_version(other_team)
    with team_scope(other_team.pk):
        experiment = other_team.experiments.create(name="Theirs")
    choice = {"name": "Mine", "base_model": base_model.slug}
    for path, body in (
        ("/api/experiments/", {**choice, "dataset_version": str(version.pk)}),
        ("/api/runs/", {**choice, "experiment": str(experiment.pk), "dataset_version": str(world.version.pk)}),
        ("/api/runs/", {**choice, "experiment": str(world.run.experiment_id), "dataset_version": str(version.pk)}),
        ("/api/deployments/", {"name": "mine", "run": str(_run_of(other_team, experiment, version, base_model).pk)}),
    ):
        answer = api.post(path, body, content_type="application/json")
        stranger = {key: value for key, value in body.items() if value}
        for key in ("dataset_version", "experiment", "run"):
            if key in stranger and stranger[key] not in (str(world.version.pk), str(world.run.experiment_id)):
                stranger[key] = str(uuid.uuid4())
        nobody = api.post(path, stranger, content_type="application/json")
        assert answer.status_code == nobody.status_code == 404, (path, answer.content, nobody.content)
        assert answer.json()["error"]["code"] == nobody.json()["error"]["code"]
    with all_teams("test"):
        assert world.team.runs.count() == 1


def _run_of(team, experiment, version, base_model):
    with team_scope(team.pk):
        return team.runs.create(
            experiment=experiment, number=1, dataset_version=version, base_model=base_model, base_revision="",
            hyperparameters={}, config_hash="", status="succeeded",
        )  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize("change", ["viewer", "removed", "inactive"])
def test_a_queued_import_needs_its_submitters_rights_of_today(team, alice, ready_version, change):
    from datasets_app import tasks
    from datasets_app.models import DatasetVersion

    with all_teams("test"):
        DatasetVersion.unscoped.filter(pk=ready_version.pk).update(status="importing", created_by=alice, claim=None)
        if change == "viewer":
            team.memberships.filter(user=alice).update(role=Role.VIEWER)
        elif change == "removed":
            team.memberships.filter(user=alice).delete()
        else:
            alice.is_active = False
            alice.save()
    tasks.import_version(str(ready_version.pk))
    with all_teams("test"):
        ready_version.refresh_from_db()
    assert ready_version.status == "failed"
    assert ready_version.report["error"]["code"] == "importer_lost_access"


@pytest.mark.django_db
def test_a_refused_query_costs_no_look_at_rows(world, api):
    with CaptureQueriesContext(connection) as sent:
        api.get("/api/runs/", {"team__name__startswith": "S"})
    assert not any("experiments_run" in query["sql"] for query in sent.captured_queries)
