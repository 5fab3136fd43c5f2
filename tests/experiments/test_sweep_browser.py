"""A sweep's page and a trial's in a real browser: the comparison by value, the chart, the prediction; all fits."""

from __future__ import annotations

import pytest

from experiments import lifecycle, sweeps
from experiments.hyperparameters import Hyperparameters
from experiments.models import Run
from portal.rls import all_teams, team_scope
from tests.browser import fits
from tests.experiments.runs import change, make_version, put_to_work, submit

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.django_db(transaction=True)]


def check(step: int, loss: float) -> dict[str, object]:
    return {"event": "metric", "step": step, "total_steps": 40, "validation_loss": loss}


def test_a_sweep_is_compared_while_it_works(team, actor, base_model, node, open_page):
    with team_scope(team.pk):
        choice = sweeps.Choice(
            values={"lora_r": [4, 16], "schedule": ["cosine", "constant", "linear"]},
            base=Hyperparameters(), rule="none",
        )  # fmt: skip
        experiment = team.experiments.create(name="Which rank, and how fast?")
        sweep = sweeps.start_sweep(
            experiment=experiment, actor=actor, choice=choice, dataset_version=make_version(team), base_model=base_model
        )
    with all_teams("test"):
        runs = list(Run.unscoped.filter(sweep=sweep).order_by("number"))
        for run in runs[:-1]:
            lease = put_to_work(run, node)
            end = 0.4 + 0.03 * run.number % 0.25
            lifecycle.record_events(lease, [check(step, end + 2 / (1 + step)) for step in range(0, 41, 8)])
            change(run, status="succeeded", lease_token=None, facts={"finished": {"validation_loss": end}})
            report = {"tuned": {"exact_match": 1 - end}}
            team.evaluations.create(run=run, split="test", rows=100, report=report)
    page = open_page(f"/t/service-desk/sweeps/{sweep.pk}/")
    assert "By value: Rank" in page.locator("#sweep-runs").inner_text()
    # The part that asks for itself sees the end, and asks no more.
    change(runs[-1], status="cancelled", ended_at=runs[-1].queued_at)
    sync_api.expect(page.locator("#sweep-runs[hx-get]")).to_have_count(0, timeout=10_000)
    sync_api.expect(page.locator("[data-chart] canvas").first).to_be_visible(timeout=10_000)
    fits(page, "sweep")


def test_a_trial_says_what_the_whole_run_takes(team, actor, base_model, node, open_page):
    trial = submit(team, actor, make_version(team), base_model, name="How long?", kind=Run.Kind.PREFLIGHT)
    put_to_work(trial, node)
    measured = {
        "seconds_per_token": 0.0011, "tokens_per_step": 640.0, "total_steps": 750, "start_up_s": 9.0,
        "peak_memory_bytes": 2.1e9, "validation_s": 4.0, "validation_checks": 5,
    }  # fmt: skip
    change(
        trial, status="succeeded", lease_token=None, step=20, total_steps=20, ended_at=trial.queued_at,
        facts={"preflight": measured},
    )  # fmt: skip
    page = open_page(f"/t/service-desk/runs/{trial.pk}/")
    sync_api.expect(page.locator("#run-status")).to_contain_text("The whole run")
    fits(page, "trial")
