"""Deploying a run when it has finished: once, with the submitter's rights of today, never under a taken name."""

from __future__ import annotations

import uuid

import pytest

from deployments import services
from deployments.tasks import deploy_finished_run
from portal.models import Role
from portal.rls import team_scope


@pytest.fixture
def finished(run, team, alice, node):
    with team_scope(team.pk):
        run.deploy_as, run.created_by = "demo-triage", alice
        run.save()
    return run


def events(team, run) -> list[str]:
    with team_scope(team.pk):
        return [event.message for event in run.events.all()]


def test_it_is_deployed_once_and_the_log_says_so(finished, team, alice):
    deploy_finished_run(str(finished.pk))
    deploy_finished_run(str(finished.pk))
    with team_scope(team.pk):
        version = team.deploymentversions.get()
        assert (version.deployment.name, version.created_by) == ("demo-triage", alice)
    assert events(team, finished) == ["Deployed as demo-triage, version 1."]


def test_a_late_second_message_does_not_undo_a_roll_back(finished, team, actor, make_run):
    deploy_finished_run(str(finished.pk))
    with team_scope(team.pk):
        newer = services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo-triage")
    deploy_finished_run(str(finished.pk))
    with team_scope(team.pk):
        assert team.deployments.get().next_version == newer


def test_who_lost_the_right_meanwhile_deploys_nothing(finished, team, alice):
    with team_scope(team.pk):
        team.memberships.filter(user=alice).update(role=Role.VIEWER)
    deploy_finished_run(str(finished.pk))
    with team_scope(team.pk):
        assert not team.deployments.exists()
    assert events(team, finished) == ["Not deployed: the person who submitted this run may no longer deploy models."]


def test_a_name_that_cannot_be_used_is_explained_in_the_log(finished, team):
    with team_scope(team.pk):
        finished.deploy_as = "tiny"
        finished.save()
    deploy_finished_run(str(finished.pk))
    assert events(team, finished) == ["Not deployed: This is the name of a base model. Choose another one."]


def test_unknown_runs_and_runs_without_a_wish_are_left_alone(db, run, team):
    deploy_finished_run(str(uuid.uuid4()))
    deploy_finished_run(str(run.pk))
    with team_scope(team.pk):
        assert not team.deployments.exists()
