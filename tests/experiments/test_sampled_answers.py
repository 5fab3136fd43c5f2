"""Answers during training reach the database once for each step, bounded, and the API shows them."""

from __future__ import annotations

import pytest

from experiments import lifecycle
from experiments.models import MetricPoint, RunSample
from experiments.run_events import digest
from portal.rls import all_teams
from tests.experiments.runs import make_version, put_to_work, submit

ROW = {"row": 2, "prompt": "Hi", "expected": "{}", "answer": "no", "exact": False, "score": 0.0, "fields": {"a": True}}


@pytest.fixture
def run(team, actor, base_model, node):
    return submit(team, actor, make_version(team), base_model)


@pytest.fixture
def lease(run, node):
    return put_to_work(run, node)


@pytest.mark.django_db
def test_a_step_told_again_replaces_what_was_there(run, lease):
    lifecycle.record_events(lease, [{"event": "sample", "step": 4, "rows": [ROW]}])
    lifecycle.record_events(lease, [{"event": "sample", "step": 4, "rows": [ROW | {"answer": "yes", "exact": True}]}])
    lifecycle.record_events(lease, [{"event": "metric", "step": 4, "validation_exact_match": 1.0}])
    with all_teams("test"):
        (kept,) = RunSample.unscoped.filter(run=run)
        assert (kept.step, kept.team_id, kept.rows[0]["answer"]) == (4, run.team_id, "yes")
        assert MetricPoint.unscoped.get(run=run).values["validation_exact_match"] == 1.0


@pytest.mark.parametrize(
    "event", [{"step": 1}, {"step": -1, "rows": [ROW]}, {"step": 1, "rows": ["x"]}, {"rows": [ROW]}]
)
def test_what_is_no_sample_is_passed_over(event):
    assert digest([{"event": "sample", **event}]).samples == {}


def test_answers_are_bounded_and_harmless():
    wild = {
        "row": "x",
        "answer": "\x00" + "y" * 10_000,
        "score": float("nan"),
        "exact": 1,
        "fields": {"a": 1, "b": True},
    }
    (rows,) = digest([{"event": "sample", "step": 1, "rows": [wild] * 50}]).samples.values()
    assert len(rows) == 8
    assert len(rows[0]["answer"]) <= 600
    assert "\x00" not in rows[0]["answer"]
    assert (rows[0]["row"], rows[0]["score"], rows[0]["exact"]) == (0, None, False)
    assert rows[0]["fields"] == {"a": False, "b": True}
    assert "bound" not in rows[0]
    (rows,) = digest([{"event": "sample", "step": 1, "rows": [wild | {"bound": "\x00" + "z" * 999}]}]).samples.values()
    assert (rows[0]["bound"], rows[0]["bound_exact"]) == ("z" * 600, False)


@pytest.mark.django_db
def test_answers_within_the_schema_stand_beside_the_free_ones(run, lease, client_for, alice):
    told = ROW | {"bound": '{"service": "VPN"}', "bound_exact": True}
    figures = {"validation_exact_match": 0.25, "validation_bound_exact_match": 0.75}
    lifecycle.record_events(lease, [{"event": "sample", "step": 4, "rows": [told]}])
    lifecycle.record_events(lease, [{"event": "metric", "step": 4, **figures}])
    page = client_for(alice).get(f"/t/service-desk/runs/{run.pk}/").content.decode()
    assert "With schema" in page
    assert "{&quot;service&quot;: &quot;VPN&quot;}" in page
    assert "validation_bound_exact_match=Exact match with schema" in page
