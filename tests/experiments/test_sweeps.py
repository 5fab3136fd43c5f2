"""Sweeps: counted before the start, kept within limits, losers stopped, the best one marked, all stopped at once."""

from __future__ import annotations

import pytest

from experiments import lifecycle, sweeps
from experiments.hyperparameters import Hyperparameters
from experiments.models import Run, Sweep
from portal.errors import InvalidInput, QuotaExceeded
from portal.models import AuditEvent, Quota
from portal.rls import all_teams, team_scope
from tests.experiments.runs import change, fresh, make_version, put_to_work

pytestmark = pytest.mark.django_db


@pytest.fixture
def experiment(team):
    with team_scope(team.pk):
        return team.experiments.create(name="Which rank?")


@pytest.fixture
def version(team):
    return make_version(team, train=80)


def choice(**changes) -> sweeps.Choice:
    return sweeps.Choice(
        **{"values": {"lora_r": [4, 8], "learning_rate": [1e-3, 2e-3]}, "base": Hyperparameters(), **changes}
    )


@pytest.fixture
def sweep(experiment, actor, version, base_model) -> Sweep:
    with team_scope(experiment.team_id):
        return sweeps.start_sweep(
            experiment=experiment, actor=actor, choice=choice(), dataset_version=version, base_model=base_model
        )


def runs_of(sweep: Sweep) -> list[Run]:
    with all_teams("test"):
        return list(Run.unscoped.filter(sweep=sweep).order_by("number").select_related("team", "experiment"))


def check(step: int, loss: float) -> dict[str, object]:
    return {"event": "metric", "step": step, "total_steps": 10, "validation_loss": loss}


def test_every_combination_becomes_a_run_of_the_experiment(sweep):
    runs = runs_of(sweep)
    assert [(run.hyperparameters["lora_r"], run.hyperparameters["learning_rate"]) for run in runs] == [
        (4, 1e-3), (4, 2e-3), (8, 1e-3), (8, 2e-3),
    ]  # fmt: skip
    assert len({run.config_hash for run in runs}) == 4
    assert {run.experiment_id for run in runs} == {sweep.experiment_id}
    assert AuditEvent.objects.get(action="sweep.started").detail["runs"] == 4


def test_a_sweep_that_does_not_fit_starts_nothing(experiment, actor, version, base_model, team):
    where = {"dataset_version": version, "base_model": base_model}
    with team_scope(team.pk):
        team.teamlimits.create(kind=Quota.QUEUED_RUNS, value=3)
        plan = sweeps.plan_sweep(team=team, choice=choice(), **where)
        assert (len(plan.runs), plan.seconds) == (4, None)
        assert "limit is 3" in plan.refusal
        with pytest.raises(QuotaExceeded):
            sweeps.start_sweep(experiment=experiment, actor=actor, choice=choice(), **where)
        assert not team.runs.exists()
        assert not team.sweeps.exists()


def test_time_and_cost_are_told_before_and_held_against_the_gpu_time_that_is_left(
    sweep, team, version, base_model, settings
):
    settings.NODE_HOUR_PRICE = 36.0
    done = runs_of(sweep)[0]
    change(done, status="succeeded", total_steps=30, gpu_seconds=240.0, lease_token=None)
    change(done, ended_at=done.queued_at)
    with team_scope(team.pk):
        team.teamlimits.create(kind=Quota.GPU_SECONDS, value=1100)
        plan = sweeps.plan_sweep(team=team, choice=choice(), dataset_version=version, base_model=base_model)
    # 80 rows, read three times each: a second for each row, four runs.
    assert plan.seconds == pytest.approx(4 * 240.0)
    assert plan.cost == pytest.approx(9.6)
    assert "GPU time" in plan.refusal


def test_nonsense_names_the_hyperparameter(team, version, base_model):
    bad = choice(values={"lora_r": [4, 100_000]})
    with team_scope(team.pk), pytest.raises(InvalidInput, match="lora_r"):
        sweeps.plan_sweep(team=team, choice=bad, dataset_version=version, base_model=base_model)


def test_a_loser_is_asked_to_stop_and_the_winner_is_not(sweep, node):
    first, second, third, fourth = runs_of(sweep)
    for number, run in enumerate((first, second)):
        lease = put_to_work(run, node)
        lifecycle.record_events(lease, [check(step, 2.0 - 0.1 * step - 0.05 * number) for step in (0, 5, 10)])
        change(run, status="succeeded", lease_token=None, facts={"finished": {"validation_loss": 1.0 - number / 20}})
    lease = put_to_work(third, node)
    assert not lifecycle.record_events(lease, [check(2, 2.3)])
    assert lifecycle.record_events(lease, [check(5, 2.2)])
    assert fresh(third).cancel_requested_at is not None
    assert sweeps.was_stopped_early(third)
    assert AuditEvent.objects.filter(action="run.stopped_early").count() == 1
    lifecycle.stop_run(lease, adapter=None, step=5)
    lease = put_to_work(fourth, node)
    assert not lifecycle.record_events(lease, [check(2, 1.2), check(5, 0.9)])
    with all_teams("test"):
        assert sweeps.best_of(runs_of(sweep)).pk == second.pk


def test_halving_stops_the_worse_half_at_a_rung_and_tells_its_budget_before(sweep, node, team, version, base_model):
    with all_teams("test"):
        Sweep.unscoped.update(rule="halving")
    first, second, third, _fourth = runs_of(sweep)
    for run, loss in ((first, 1.0), (second, 2.0)):
        assert not lifecycle.record_events(put_to_work(run, node), [check(3, loss)])
        change(run, status="succeeded", lease_token=None)
    lease = put_to_work(third, node)
    assert not lifecycle.record_events(lease, [check(2, 9.0)])  # before the first rung, a quarter of the way
    assert lifecycle.record_events(lease, [check(3, 3.0)])
    assert fresh(third).facts["stopped_early"] == {"step": 3, "rule": "halving"}
    with team_scope(team.pk):
        halved = choice(rule="halving")
        plan = sweeps.plan_sweep(team=team, choice=halved, dataset_version=version, base_model=base_model)
    assert plan.expected_share == pytest.approx((4 / 4 + 2 / 4 + 1 / 2) / 4)


def test_without_the_rule_nobody_is_stopped(sweep, node):
    with all_teams("test"):
        Sweep.unscoped.update(rule="none")
    for run, loss in zip(runs_of(sweep), (1.0, 1.0, 9.0, 9.0), strict=True):
        lease = put_to_work(run, node)
        assert not lifecycle.record_events(lease, [check(step, loss) for step in (2, 5, 10)])
        change(run, status="succeeded", lease_token=None)


def test_stopping_a_sweep_stops_its_runs_only(sweep, node, client_for, alice, team):
    put_to_work(runs_of(sweep)[0], node)
    browser, address = client_for(alice), f"/t/service-desk/sweeps/{sweep.pk}/"
    assert "Stop all" in browser.get(address).content.decode()
    assert "Stop all runs" in browser.get(f"{address}cancel/").content.decode()
    browser.post(f"{address}cancel/")
    first, *others = runs_of(sweep)
    assert (first.status, first.cancel_requested_at is not None) == ("running", True)
    assert {run.status for run in others} == {"cancelled"}
    assert AuditEvent.objects.get(action="sweep.cancelled").detail["runs"] == 4


def test_the_page_shows_values_and_results_side_by_side(sweep, node, client_for, alice):
    first = runs_of(sweep)[0]
    lease = put_to_work(first, node)
    lifecycle.record_events(lease, [check(5, 0.8125)])
    change(first, status="succeeded", lease_token=None, facts={"finished": {"validation_loss": 0.8125}})
    page = client_for(alice).get(f"/t/service-desk/sweeps/{sweep.pk}/").content.decode()
    for words in ("0.8125", "Rank", "Learning rate", "star-filled", "best", "data-sources"):
        assert words in page, words
    listed = client_for(alice).get(f"/t/service-desk/experiments/{first.experiment_id}/").content.decode()
    assert f"/sweeps/{sweep.pk}/" in listed


def test_the_form_counts_first_and_starts_when_that_was_seen(client_for, alice, team, version, base_model):
    browser, address = client_for(alice), "/t/service-desk/experiments/new/"
    typed = {
        "name": "By form", "dataset_version": version.pk, "base_model": "tiny", "recipe": "fast",
        "sweep_values": "lora_r: 4, 8\nseed: 1, 2, 3", "sweep_method": "grid",
    }  # fmt: skip
    counted = browser.post(address, typed)
    assert counted.status_code == 200
    assert "Start 6 runs" in counted.content.decode()
    with team_scope(team.pk):
        assert not team.experiments.exists()
    # Values that were changed since are counted again.
    assert browser.post(address, {**typed, "sweep_seen": "4"}).status_code == 200
    started = browser.post(address, {**typed, "sweep_seen": "6"})
    with team_scope(team.pk):
        sweep = team.sweeps.get()
        assert started["Location"] == f"/t/service-desk/sweeps/{sweep.pk}/"
        assert team.runs.filter(sweep=sweep, experiment__name="By form").count() == 6
    wrong = browser.post(address, {**typed, "name": "Other", "sweep_values": "nonsense: 1"})
    assert wrong.status_code == 400
    assert "does not begin with the name" in wrong.content.decode()


def test_the_api_counts_starts_shows_and_stops(api, experiment, version, base_model):
    sent = {
        "experiment": str(experiment.pk), "dataset_version": str(version.pk), "base_model": "tiny", "recipe": "fast",
        "values": {"lora_r": ["4..64"], "schedule": ["cosine", "linear"]}, "method": "random", "runs": 5,
    }  # fmt: skip
    post = lambda path, **data: api.post(path, data, content_type="application/json")  # noqa: E731
    assert post("/api/sweeps/", **sent, only_count=True).json()["runs"] == 5
    made = post("/api/sweeps/", **sent)
    assert made.status_code == 201
    body = made.json()
    assert (len(body["runs"]), body["best_run"], body["method"]) == (5, None, "random")
    runs = api.get(f"/api/runs/?sweep={body['id']}").json()["results"]
    assert {run["id"] for run in runs} == set(body["runs"])
    assert all(4 <= run["hyperparameters"]["lora_r"] <= 64 for run in runs)
    assert api.post(f"/api/sweeps/{body['id']}/cancel/").status_code == 200
    assert {run["status"] for run in api.get(f"/api/runs/?sweep={body['id']}").json()["results"]} == {"cancelled"}
    for bad in ({"values": {"nonsense": [1, 2]}}, {"values": {"lora_r": [1, "x"]}, "method": "grid"}, {"values": 7}):
        assert post("/api/sweeps/", **{**sent, **bad}).status_code == 400
