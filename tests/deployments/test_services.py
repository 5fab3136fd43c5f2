"""Deploying, promoting, stopping, starting, deleting: rows, placements and the audit trail."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from deployments import lifecycle, placing, services
from deployments.models import Deployment, Engine, Placement
from portal.errors import IllegalTransition, InvalidInput, Unavailable
from portal.models import AuditEvent, Node
from portal.rls import team_scope
from tests.deployments.conftest import SYSTEM


def test_a_run_is_deployed_as_the_first_version_and_waits_for_its_adapter(team, actor, run, node, scoped):
    version = services.deploy_run(team=team, actor=actor, run=run, name="demo-triage")
    deployment = team.deployments.get(name="demo-triage")
    assert (version.number, version.adapter) == (1, run.adapter)
    assert (deployment.live_version, deployment.next_version) == (None, version)
    assert [(p.node, p.status, p.wanted_until) for p in run.adapter.placements.all()] == [(node, "pending", None)]
    actions = list(AuditEvent.objects.filter(object_type="deployment").values_list("action", flat=True))
    assert sorted(actions) == ["deployment.created", "deployment.promotion_started"]


def test_the_system_prompt_of_all_training_rows_becomes_the_versions(team, actor, run, node, scoped):
    assert services.deploy_run(team=team, actor=actor, run=run, name="a").system_prompt == SYSTEM
    assert services.deploy_run(team=team, actor=actor, run=run, name="b", system_prompt="").system_prompt == ""


def test_deploying_again_makes_no_second_version_but_another_run_does(team, actor, run, make_run, node, scoped):
    first = services.deploy_run(team=team, actor=actor, run=run, name="demo")
    assert services.deploy_run(team=team, actor=actor, run=run, name="demo") == first
    second = services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo")
    assert second.number == 2
    assert second.deployment == first.deployment


@pytest.mark.parametrize("name", ["", " ", "with space", "a.b", "a" * 61, "name/slash", "ünï", "tiny", "TINY"])
def test_names_that_cannot_be_a_model_id_are_refused(name, team, actor, run, node, scoped):
    with pytest.raises(InvalidInput) as caught:
        services.deploy_run(team=team, actor=actor, run=run, name=name)
    assert caught.value.param == "name"
    assert not team.deployments.exists()


def test_a_run_without_an_adapter_cannot_be_deployed(team, actor, make_run, scoped):
    with pytest.raises(IllegalTransition) as caught:
        services.deploy_run(team=team, actor=actor, run=make_run(team, with_adapter=False), name="demo")
    assert caught.value.code == "run_has_no_adapter"


def test_without_any_node_the_answer_says_so(team, actor, run, scoped):
    Node.objects.all().delete()
    with pytest.raises(Unavailable) as caught:
        services.deploy_run(team=team, actor=actor, run=run, name="demo")
    assert caught.value.code == "no_node"


def test_the_old_version_serves_until_the_new_one_is_loaded(team, actor, deployed, make_run, node, load_placements):
    with team_scope(team.pk):
        second = services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo-triage")
        deployment = team.deployments.get()
        assert (deployment.live_version, deployment.next_version) == (deployed, second)
    load_placements(node)
    with team_scope(team.pk):
        deployment.refresh_from_db()
        assert (deployment.live_version, deployment.next_version) == (second, None)
        # answers in progress and a quick roll back still find the old adapter
        assert deployed.adapter.placements.get().wanted_until > timezone.now() + timedelta(minutes=1)
        promoted = AuditEvent.objects.filter(action="deployment.promoted", object_id=deployment.pk)
        assert [event.detail for event in promoted] == [{"version": 2, "before": 1}, {"version": 1, "before": None}]


def test_rolling_back_is_promoting_an_earlier_version(team, actor, deployed, make_run, node, load_placements):
    with team_scope(team.pk):
        services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo-triage")
    load_placements(node)
    with team_scope(team.pk):
        deployment = services.promote_version(version=deployed, actor=actor)
        assert deployment.live_version == deployed, "its adapter was still loaded, so it is live at once"
        assert deployment.next_version is None


def test_promoting_the_live_version_cancels_a_promotion_that_waits(team, actor, deployed, make_run, scoped):
    services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo-triage")
    deployment = services.promote_version(version=deployed, actor=actor)
    assert (deployment.live_version, deployment.next_version) == (deployed, None)


def test_stop_and_start_change_what_is_wanted(team, actor, deployed, node, scoped):
    deployment = services.stop_deployment(deployment=deployed.deployment, actor=actor)
    assert not deployment.is_running
    Placement.unscoped.update(wanted_until=None)
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [False]
    deployment = services.start_deployment(deployment=deployment, actor=actor)
    assert deployment.is_running
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [True]
    services.start_deployment(deployment=deployment, actor=actor)
    actions = AuditEvent.objects.filter(action__in=["deployment.stopped", "deployment.started"])
    assert actions.count() == 2, "a second call leaves no trace"


def test_a_stopped_deployment_can_be_switched_and_deploying_starts_it(team, actor, deployed, make_run, scoped):
    deployment = services.stop_deployment(deployment=deployed.deployment, actor=actor)
    version = services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo-triage")
    deployment.refresh_from_db()
    assert (deployment.is_running, deployment.next_version) == (True, version)
    services.stop_deployment(deployment=deployment, actor=actor)
    assert services.promote_version(version=version, actor=actor).live_version == version


def test_deleting_keeps_run_adapter_and_counts(team, actor, deployed, run, scoped):
    team.inferencerecords.create(version=deployed, model="demo-triage", status=200, duration_ms=5)
    services.delete_deployment(deployment=deployed.deployment, actor=actor)
    assert not team.deployments.exists()
    assert run.adapter.placements.exists(), "unloading is the agent's work"
    assert team.inferencerecords.get().version is None
    assert AuditEvent.objects.filter(action="deployment.deleted", object_name="demo-triage").exists()


def test_the_playground_keeps_an_adapter_for_half_an_hour_and_use_renews_it(team, run, node, scoped):
    placement = services.ensure_placement(adapter=run.adapter)
    assert timedelta(minutes=29) < placement.wanted_until - timezone.now() <= timedelta(minutes=30)
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [True]
    Placement.unscoped.update(wanted_until=timezone.now() - timedelta(seconds=1))
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [False]
    assert services.ensure_placement(adapter=run.adapter).pk == placement.pk
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [True]


def test_a_failed_placement_is_tried_again_when_somebody_asks(team, run, node, scoped):
    placement = services.ensure_placement(adapter=run.adapter)
    lifecycle.placement_failed(placement.pk, "The file is damaged.")
    assert services.ensure_placement(adapter=run.adapter).status == "pending"


def test_the_node_with_room_and_a_working_engine_is_chosen(team, run, make_run, base_model, node, scoped):
    spare = Node.objects.create(name="spare", heartbeat_at=timezone.now())
    Node.objects.create(name="gone", heartbeat_at=timezone.now() - timedelta(hours=1))
    assert placing.choose_node(base_model).name == "local", "equal load: by name"
    services.ensure_placement(adapter=run.adapter)
    assert placing.choose_node(base_model).name == "spare"
    Engine.objects.create(node=spare, base_model=base_model, status=Engine.Status.FAILED)
    assert placing.choose_node(base_model).name == "local"


def test_the_load_of_a_node_counts_all_teams(team, other_team, run, make_run, base_model, node):
    Node.objects.create(name="spare", heartbeat_at=timezone.now())
    theirs = make_run(other_team, "Theirs")
    with team_scope(other_team.pk):
        assert services.ensure_placement(adapter=theirs.adapter).node.name == "local"
    with team_scope(team.pk):
        assert services.ensure_placement(adapter=run.adapter).node.name == "spare"


def test_placements_of_a_lost_node_move_to_a_live_one(team, actor, deployed, node):
    spare = Node.objects.create(name="spare", heartbeat_at=timezone.now())
    assert lifecycle.move_from_lost_nodes(spare) == 0
    Node.objects.filter(pk=node.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=5))
    assert lifecycle.move_from_lost_nodes(spare) == 1
    with team_scope(team.pk):
        placement = deployed.adapter.placements.get()
        assert (placement.node, placement.status) == (spare, "pending")


def test_a_running_deployment_without_a_placement_gets_one(team, deployed, node):
    with team_scope(team.pk):
        deployed.adapter.placements.all().delete()
    assert lifecycle.place_missing() == 1
    assert lifecycle.place_missing() == 0
    with team_scope(team.pk):
        assert deployed.adapter.placements.get().node == node


def test_an_adapter_that_is_wanted_again_is_not_forgotten(team, actor, deployed, node):
    with team_scope(team.pk):
        placement = deployed.adapter.placements.get()
        services.stop_deployment(deployment=deployed.deployment, actor=actor)
    assert lifecycle.forget_placement(placement.pk) is False, "it drains"
    with team_scope(team.pk):
        Placement.unscoped.update(wanted_until=None)
        services.start_deployment(deployment=deployed.deployment, actor=actor)
    assert lifecycle.forget_placement(placement.pk) is False
    with team_scope(team.pk):
        services.stop_deployment(deployment=deployed.deployment, actor=actor)
        Placement.unscoped.update(wanted_until=None)
    assert lifecycle.forget_placement(placement.pk) is True
    assert lifecycle.forget_placement(placement.pk) is True


def test_no_row_of_the_other_team_can_be_deployed(team, other_team, make_run, actor, node):
    theirs = make_run(other_team, "Theirs")
    with team_scope(team.pk), pytest.raises(Exception, match=r"adapter|DoesNotExist|deploy"):
        services.deploy_run(team=team, actor=actor, run=theirs, name="mine")
    with team_scope(team.pk):
        assert not Deployment.unscoped.exists()


def test_one_deployment_too_many_is_refused_and_new_versions_are_not(team, actor, run, make_run):
    from portal.errors import QuotaExceeded
    from portal.models import Quota

    second = make_run(team, "Second")
    with team_scope(team.pk):
        team.teamlimits.create(kind=Quota.DEPLOYMENTS, value=1)
        services.deploy_run(team=team, actor=actor, run=run, name="one")
        with pytest.raises(QuotaExceeded, match="its limit is 1"):
            services.deploy_run(team=team, actor=actor, run=second, name="two")
        assert services.deploy_run(team=team, actor=actor, run=second, name="one").number == 2
        services.delete_deployment(deployment=team.deployments.get(), actor=actor)
        services.deploy_run(team=team, actor=actor, run=run, name="two")


@pytest.mark.django_db(transaction=True)
def test_many_at_the_last_deployment(team, actor, run):
    import threading
    from concurrent.futures import ThreadPoolExecutor

    from django.db import connection

    from portal.errors import QuotaExceeded
    from portal.models import Quota

    with team_scope(team.pk):
        team.teamlimits.create(kind=Quota.DEPLOYMENTS, value=3)
    barrier = threading.Barrier(12)

    def deploy(number: int) -> bool:
        try:
            barrier.wait()
            with team_scope(team.pk):
                services.deploy_run(team=team, actor=actor, run=run, name=f"name-{number}")
        except QuotaExceeded:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(12) as threads:
        assert sum(threads.map(deploy, range(12))) == 3
    with team_scope(team.pk):
        assert team.deployments.count() == 3
