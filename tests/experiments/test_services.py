"""People start, cancel and repeat runs; what is frozen, what is refused, what is left in audit and queue."""

import threading

import pytest
from django.db import connection

from experiments import services
from experiments.hyperparameters import Hyperparameters
from experiments.models import Experiment, Run
from experiments.recipes import advise
from experiments.situations import situation_of
from portal.errors import Forbidden, IllegalTransition, InvalidInput, NotFound
from portal.models import AuditEvent
from portal.rls import all_teams, team_scope
from tests.experiments.runs import change, fresh, make_version, put_to_work, queued_tasks, submit

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(team):
    return make_version(team)


@pytest.fixture
def run(team, actor, version, base_model):
    return submit(team, actor, version, base_model)


def start(team, actor, version, base_model, **choice):
    arguments = {"name": "Higher rank?", "recipe": "fast", **choice}
    with team_scope(team.pk):
        return services.start_experiment(
            team=team, actor=actor, dataset_version=version, base_model=base_model, **arguments
        )


def actions(team):
    return list(AuditEvent.objects.filter(team_id=team.pk).order_by("at").values_list("action", flat=True))


def test_a_run_freezes_what_it_was_ordered_with(team, actor, version, base_model):
    chosen = Hyperparameters(epochs=2, lora_r=8)
    run = start(team, actor, version, base_model, recipe="", hyperparameters=chosen, deploy_as="triage")
    base_model.revision = "f" * 40
    base_model.save()
    fresh(run)
    assert (run.status, run.number, run.dataset_version_id) == ("queued", 1, version.pk)
    assert run.base_revision == "0" * 40
    assert Hyperparameters.model_validate(run.hyperparameters) == chosen
    assert run.deploy_as == "triage"
    assert run.created_by == actor.user


def advised(recipe, team, version, base_model):
    with team_scope(team.pk):
        return advise(recipe, situation_of(version, base_model)).hyperparameters.model_dump(mode="json")


def test_without_hyperparameters_the_recipe_decides(team, actor, version, base_model):
    run = start(team, actor, version, base_model, recipe="best")
    assert run.hyperparameters == advised("best", team, version, base_model)
    second = start(team, actor, version, base_model, recipe="", name="Default")
    assert second.recipe == "balanced"


def test_submitting_is_audited_and_wakes_the_dispatcher(
    team, actor, version, base_model, django_capture_on_commit_callbacks
):
    with django_capture_on_commit_callbacks(execute=True):
        start(team, actor, version, base_model)
    assert actions(team)[-2:] == ["experiment.created", "run.submitted"]
    assert ("default", "experiments.tasks.dispatch", ()) in queued_tasks()


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        ({"name": "  "}, "name"),
        ({"name": "x" * 121}, "name"),
        ({"recipe": "turbo"}, "recipe"),
        ({"deploy_as": "not a slug"}, "deploy_as"),
        ({"deploy_as": "x" * 61}, "deploy_as"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(team, actor, version, base_model, choice, param):
    with pytest.raises(InvalidInput) as refused:
        start(team, actor, version, base_model, **choice)
    assert refused.value.param == param
    with all_teams("test"):
        assert not Experiment.unscoped.exists()
        assert not Run.unscoped.exists()


def test_what_no_node_can_do_is_refused_before_it_waits(team, actor, version, base_model, node):
    paged = Hyperparameters(optimizer="paged_adamw_8bit")
    node.device = "CPU · 2 × Processor"
    node.save()
    with pytest.raises(InvalidInput, match="no node has one") as caught:
        start(team, actor, version, base_model, hyperparameters=paged)
    assert caught.value.param == "optimizer"
    node.device = "1 × NVIDIA L4"
    node.save()
    assert start(team, actor, version, base_model, hyperparameters=paged).status == "queued"


def test_what_cannot_be_served_is_not_promised_a_deployment(team, actor, version, base_model):
    with pytest.raises(InvalidInput, match="cannot be deployed") as caught:
        start(team, actor, version, base_model, hyperparameters=Hyperparameters(dora=True), deploy_as="triage")
    assert caught.value.param == "deploy_as"
    assert start(team, actor, version, base_model, hyperparameters=Hyperparameters(dora=True)).status == "queued"


def test_a_name_is_used_once_in_a_team(team, other_team, actor, version, base_model):
    start(team, actor, version, base_model)
    with pytest.raises(InvalidInput, match="already an experiment named"):
        start(team, actor, version, base_model)
    assert start(other_team, actor, make_version(other_team), base_model).number == 1


def test_a_version_that_is_not_ready_is_refused(team, actor, version, base_model):
    version.status = "importing"
    with pytest.raises(InvalidInput, match="not ready") as refused:
        start(team, actor, version, base_model)
    assert refused.value.param == "dataset_version"


def test_a_model_that_is_not_allowed_is_refused(team, actor, version, base_model):
    base_model.is_allowed = False
    with pytest.raises(Forbidden, match="not allowed") as refused:
        start(team, actor, version, base_model)
    assert (refused.value.status, refused.value.param) == (403, "base_model")


def test_another_teams_dataset_does_not_exist(team, other_team, actor, base_model):
    theirs = make_version(other_team)
    with pytest.raises(NotFound):
        start(team, actor, theirs, base_model)


def test_a_rerun_repeats_everything(team, actor, version, base_model):
    run = start(team, actor, version, base_model, hyperparameters=Hyperparameters(lora_r=4), deploy_as="triage")
    with team_scope(team.pk):
        again = services.rerun(run=run, actor=actor)
    assert (again.experiment, again.number, again.status) == (run.experiment, 2, "queued")
    for name in ("hyperparameters", "config_hash", "recipe", "deploy_as", "dataset_version_id", "base_model_id"):
        assert getattr(again, name) == getattr(run, name)


def test_a_clone_changes_only_what_is_named(team, actor, version, base_model):
    run = start(team, actor, version, base_model, hyperparameters=Hyperparameters(lora_r=4), deploy_as="triage")
    with team_scope(team.pk):
        changes = services.Changes(hyperparameters=Hyperparameters(lora_r=8), deploy_as="")
        clone = services.clone_run(run=run, actor=actor, changes=changes)
        by_recipe = services.clone_run(run=run, actor=actor, changes=services.Changes(recipe="best"))
    assert clone.hyperparameters == {**run.hyperparameters, "lora_r": 8}
    assert (clone.deploy_as, clone.dataset_version_id) == ("", run.dataset_version_id)
    assert by_recipe.hyperparameters == advised("best", team, version, base_model)


def test_a_run_whose_settings_are_no_longer_allowed_is_not_repeated(team, actor, run):
    change(run, hyperparameters={**run.hyperparameters, "retired_setting": 1})
    with team_scope(team.pk), pytest.raises(InvalidInput, match="no longer allowed"):
        services.rerun(run=run, actor=actor)


@pytest.mark.parametrize("status", ["queued", "assigned"])
def test_a_run_that_has_not_begun_is_cancelled_at_once(team, actor, run, node, status):
    if status == "assigned":
        put_to_work(run, node, status="assigned")
    with team_scope(team.pk):
        services.cancel_run(run=run, actor=actor)
    assert (run.status, run.lease_token) == ("cancelled", None)
    assert run.ended_at is not None
    assert actions(team)[-1] == "run.cancelled"


def test_a_running_run_is_asked_to_stop_once(team, actor, run, node):
    put_to_work(run, node)
    with team_scope(team.pk):
        services.cancel_run(run=run, actor=actor)
        asked_at = run.cancel_requested_at
        services.cancel_run(run=run, actor=actor)
    assert (run.status, run.cancel_requested_at) == ("running", asked_at)
    assert asked_at is not None
    assert actions(team).count("run.cancel_requested") == 1


@pytest.mark.parametrize("status", Run.TERMINAL)
def test_a_run_that_has_ended_cannot_be_cancelled(team, actor, run, status):
    change(run, status=status)
    with team_scope(team.pk), pytest.raises(IllegalTransition, match="already ended"):
        services.cancel_run(run=run, actor=actor)
    assert fresh(run).status == status


@pytest.mark.django_db(transaction=True)
def test_numbers_are_unique_when_runs_are_submitted_at_once(team, actor, base_model):
    version = make_version(team)
    first = submit(team, actor, version, base_model)

    def once_more():
        try:
            with team_scope(team.pk):
                services.rerun(run=Run.unscoped.select_related("experiment__team").get(pk=first.pk), actor=actor)
        finally:
            connection.close()

    threads = [threading.Thread(target=once_more) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with all_teams("test"):
        assert sorted(Run.unscoped.values_list("number", flat=True)) == list(range(1, 10))
