"""A trial of a few steps: typical rows and the longest ones, honest arithmetic, and nothing kept."""

import json

import pytest

from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.plan import TrainingPlan
from gpu_worker.trainer.preflight import LONGEST_STEPS, STEPS, PreflightPlan, seconds_per_token
from tests.gpu_worker.trainer.jobs import only, run_here, ticket_rows, write_job


@pytest.fixture
def job(tmp_path, base_model):
    made = write_job(
        tmp_path / "job", base_model, train=ticket_rows(60), validation=ticket_rows(6, seed=9), batch_size=4, epochs=3
    )
    spec = json.loads((made.root / "spec.json").read_text())
    (made.root / "spec.json").write_text(json.dumps({**spec, "preflight": True}))
    return made


def test_a_trial_measures_and_leaves_nothing(job):
    code, events = run_here(job)
    measured, started = only(events, "preflight"), only(events, "started")
    assert code == 0
    assert only(events, "finished")["step"] == STEPS
    assert len([event for event in events if "loss" in event]) == STEPS
    assert (measured["total_steps"], measured["validation_checks"]) == (45, 7)
    # The steps of an epoch read all of its tokens, so the whole run is steps times tokens of a step.
    assert measured["tokens_per_step"] * 15 == pytest.approx(started["tokens_per_epoch"])
    assert measured["tokens_per_row"] * 60 == pytest.approx(started["tokens_per_epoch"])
    assert measured["peak_memory_bytes"] > 50e6
    assert 0 < measured["seconds_per_token"] < 1
    assert 0 < measured["validation_s"] < 5
    assert measured["checkpoints"] == 1
    assert 0 < measured["checkpoint_s"] < 5
    # six validation rows are all there is to ask: three of them are left to calibrate by
    assert (measured["sampled_rows"], measured["evaluated_rows"], measured["calibration_rows"]) == (6, 3, 3)
    assert measured["sure_rows"] == 3
    assert measured["answering_build_s"] > 0
    for name in ("answering_row_s", "untuned_row_s", "scored_row_s", "baseline_s"):
        assert 0 < measured[name] < 10, name
    assert measured["likelihood_row_s"] == 0  # answers are JSON
    assert list((job.root / "tmp").iterdir()) == []
    assert not job.adapter.exists()
    assert not job.checkpoints.exists()


def test_where_the_learning_model_answers_itself_that_is_measured(tmp_path, base_model):
    chosen = {"train": ticket_rows(24), "validation": ticket_rows(6, seed=9), "dora": True, "sample_rows": 5}
    made = write_job(tmp_path / "job", base_model, **chosen)
    spec = json.loads((made.root / "spec.json").read_text())
    (made.root / "spec.json").write_text(json.dumps({**spec, "preflight": True}))
    code, events = run_here(made)
    measured = only(events, "preflight")
    assert code == 0
    assert measured["sampled_rows"] == 5
    assert 0 < measured["answering_row_s"] < 10
    assert "evaluated_rows" not in measured  # the quality report is a matter of the engine
    assert [event for event in events if event["event"] == "sample"] == []


def test_what_cannot_be_asked_costs_the_trial_only_its_figures_of_answers(job, monkeypatch):
    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("no engine")

    monkeypatch.setattr("gpu_worker.evaluator.rehearsal.build_core", fail)
    code, events = run_here(job)
    assert code == 0
    assert "answering_row_s" not in only(events, "preflight")
    assert any("could not be measured: RuntimeError" in event.get("message", "") for event in events)


def test_the_last_steps_read_the_longest_rows_and_the_others_are_spread_over_an_epoch():
    lengths = [10 + number % 7 for number in range(95)] + [500] * 5
    chosen = Hyperparameters(batch_size=5, epochs=2)
    plan, whole = PreflightPlan(lengths, chosen), TrainingPlan(lengths, chosen)
    for step in range(STEPS - LONGEST_STEPS, STEPS):
        assert sorted(plan.batch(step)) == [95, 96, 97, 98, 99]
    typical = [plan.batch(step) for step in range(STEPS - LONGEST_STEPS)]
    assert all(batch in [whole.batch(step) for step in range(whole.steps_per_epoch)] for batch in typical)
    assert len({row for batch in typical for row in batch}) == 75
    assert plan.whole_steps == whole.total_steps == 40
    assert plan.tokens_per_step == whole.tokens_per_step


def test_fewer_rows_than_a_batch_and_fewer_steps_than_a_trial():
    plan = PreflightPlan([12, 20], Hyperparameters(batch_size=8, epochs=1))
    assert [sorted(plan.batch(step)) for step in range(STEPS)] == [[0, 1]] * STEPS
    assert plan.whole_steps == 1


def test_the_pace_comes_from_the_typical_steps():
    """Warm-up and longest rows do not count, nor do the slowest and the fastest step."""
    typical = [(0.5 + 0.01 * number, 100) for number in range(12)]
    typical[4], typical[9] = (9.0, 100), (0.01, 100)
    recorded = [(5.0, 100)] * 3 + typical + [(8.0, 400)] * 5
    counted = [seconds for seconds, _ in typical if seconds not in (9.0, 0.01)]
    assert seconds_per_token(recorded) == pytest.approx(sum(counted) / 1000)
