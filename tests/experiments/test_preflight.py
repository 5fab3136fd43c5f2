"""Trials: what they predict, that they stay apart from the runs of an experiment, and what they lead to."""

from __future__ import annotations

import pytest
from django.utils import timezone

from experiments import lifecycle
from experiments.models import Run
from experiments.preflight import predict, prediction_of
from portal.models import Node
from portal.rls import all_teams
from tests.experiments.runs import change, fresh, make_version, put_to_work, submit

# As a trial on two cores told it: 2,000 rows of 77 tokens in 750 steps of 8 rows.
MEASURED = {
    "seconds_per_token": 1 / 340,
    "tokens_per_step": 614.4,
    "total_steps": 750,
    "validation_s": 14.0,
    "validation_checks": 7,
    "start_up_s": 9.0,
    "peak_memory_bytes": 2_700_000_000,
}


def test_the_prediction_adds_up_what_was_measured():
    found = predict(MEASURED, max_minutes=None, price_per_hour=2.0, currency="EUR")
    seconds = 9.0 + 7 * 14.0 + 750 * 614.4 / 340
    assert found.seconds == pytest.approx(seconds)
    assert (found.least_seconds, found.most_seconds) == (pytest.approx(0.75 * seconds), pytest.approx(1.25 * seconds))
    assert found.cost == pytest.approx(2.0 * seconds / 3600)
    assert found.tokens_per_s == pytest.approx(340)
    assert found.peak_memory_bytes == 2_700_000_000


ANSWERING = {
    "checkpoints": 15, "checkpoint_s": 0.2, "imports_s": 4.0, "answering_build_s": 2.0, "answering_row_s": 0.25,
    "untuned_row_s": 0.75, "scored_row_s": 0.5, "likelihood_row_s": 0.1, "baseline_s": 7.0, "sampled_rows": 16,
    "evaluated_rows": 100, "calibration_rows": 80,
}  # fmt: skip


def test_answers_checkpoints_and_the_report_are_counted():
    plain = predict(MEASURED, max_minutes=None, price_per_hour=0.0)
    found = predict({**MEASURED, **ANSWERING}, max_minutes=None, price_per_hour=0.0)
    asking = 100 * (0.25 + 0.75)
    report = 4.0 + 2.0 + asking + 180 * 0.5 + 100 * 0.1 + 7.0
    assert plain.evaluation_s is None
    assert found.evaluation_s == pytest.approx(report)
    # the adapter is written once more; six checks after the first one ask 16 rows each
    assert found.seconds - plain.seconds == pytest.approx(report + 16 * 0.2 + 6 * (2.0 + 16 * 0.25))
    # the report is made after a time limit, too
    short = predict({**MEASURED, **ANSWERING}, max_minutes=5, price_per_hour=0.0)
    assert short.seconds == pytest.approx(9.0 + 300.0 + 16 * 0.2 + report)


@pytest.mark.parametrize(
    ("row_s", "scoring_s"),
    [
        (0.5, 180 * 0.5),  # there is time for all, calibration rows included
        (0.6, 100.0),  # … for the needed ones: the rest until asking has taken as long
        (0.7, 8 * 0.7),  # … not even for those, as it turns out after a few
    ],
)
def test_scoring_takes_no_longer_than_asking(row_s, scoring_s):
    measured = {**MEASURED, **ANSWERING}
    without = predict({**measured, "scored_row_s": 0.0}, max_minutes=None, price_per_hour=0.0)
    found = predict({**measured, "scored_row_s": row_s}, max_minutes=None, price_per_hour=0.0)
    assert found.seconds - without.seconds == pytest.approx(scoring_s)


def test_all_rows_are_asked_as_long_as_there_is_time():
    """2,010 s of training leave half of that for answers of one second a row, twice as many each time."""
    known = {**MEASURED, **ANSWERING, "validation_checks": 0, "total_steps": 1112, "imports_s": 0.1}
    known |= dict.fromkeys(("scored_row_s", "likelihood_row_s", "baseline_s", "answering_build_s"), 0.0)

    def asked(every, sure=128, **changes):
        measured = {**known, **changes, "evaluated_rows": every, "sure_rows": sure}
        return predict(measured, max_minutes=None, price_per_hour=0.0).evaluation_s - 0.1

    assert asked(1_000) == pytest.approx(1_000)
    assert asked(3_000) == pytest.approx(512)
    assert asked(3_000, untuned_row_s=20.0) == pytest.approx(128 * 20.25)
    assert asked(3_000, sure=3_000) == pytest.approx(3_000)


def test_answers_never_take_more_than_their_share():
    slow = {**MEASURED, **ANSWERING, "answering_row_s": 60.0, "evaluated_rows": 0}
    found = predict(slow, max_minutes=None, price_per_hour=0.0)
    learning = found.seconds - 9.0 - 3.2
    answers = learning - 750 * 614.4 / 340 - 7 * 14.0
    assert answers + 7 * 14.0 == pytest.approx(0.15 * learning)


def test_a_time_limit_ends_the_run_and_without_a_price_there_is_no_cost():
    found = predict(MEASURED, max_minutes=5, price_per_hour=0.0)
    assert found.seconds == pytest.approx(309.0)
    assert found.cost is None


@pytest.mark.parametrize("missing", sorted(set(MEASURED) - {"validation_s", "validation_checks"}))
def test_without_all_figures_nothing_is_predicted(missing):
    assert predict({**MEASURED, missing: "nonsense"}, max_minutes=None, price_per_hour=1.0) is None


@pytest.fixture
def trial(team, actor, base_model, node) -> Run:
    return submit(team, actor, make_version(team), base_model, name="Question", kind=Run.Kind.PREFLIGHT)


@pytest.fixture
def finished(trial, node) -> Run:
    lease = put_to_work(trial, node)
    lifecycle.record_events(lease, [{"event": "preflight", **MEASURED}])
    lifecycle.finish_preflight(lease)
    return fresh(trial)


pytestmark = pytest.mark.django_db


def test_a_trial_goes_first_is_tried_once_and_stays_out_of_the_lists(trial, api, client_for, alice):
    assert (trial.number, trial.priority, trial.max_attempts) == (1, 1, 1)
    assert api.get("/api/runs/").json()["results"] == []
    assert [run["id"] for run in api.get("/api/runs/?kind=preflight").json()["results"]] == [str(trial.pk)]
    assert api.get("/api/experiments/").json()["results"][0]["run_count"] == 0
    page = client_for(alice).get(f"/t/service-desk/experiments/{trial.experiment_id}/").content.decode()
    assert "#1" not in page
    assert "Trials:" in page


def test_its_page_tells_time_memory_and_cost(finished, client_for, alice, settings):
    settings.NODE_HOUR_PRICE, settings.NODE_HOUR_CURRENCY = 12.0, "CHF"
    assert finished.status == "succeeded"
    page = client_for(alice).get(f"/t/service-desk/runs/{finished.pk}/").content.decode()
    for words in (
        "24\xa0min",
        "2.7\xa0GB",
        "4.87",
        "CHF",
        "340 tokens per second",
        "Start the whole run",
        "Question, trial 1",
    ):
        assert words in page, words
    assert "data-chart" not in page


@pytest.mark.parametrize(
    ("gigabytes", "told"),
    [
        ({"local": 8}, "It fits into the memory of local."),
        ({"local": 2}, "It does not fit into the memory of local. Smaller micro-batches"),
        ({"local": 8, "small": 2.9}, "It fits into the memory of local, but not into that of small. Smaller"),
    ],
)
def test_it_says_on_which_nodes_the_whole_run_has_room(finished, node, client_for, alice, api, gigabytes, told):
    for name, size in gigabytes.items():
        known = {"device": "CPU · 2 × Xeon", "memory_bytes": int(size * 1e9), "heartbeat_at": timezone.now()}
        Node.objects.update_or_create(name=name, defaults=known)
    assert node.name == "local"
    assert told in client_for(alice).get(f"/t/service-desk/runs/{finished.pk}/").content.decode()
    prediction = api.get(f"/api/runs/{finished.pk}/").json()["prediction"]
    # of 2.9 GB a trainer gets nine tenths
    assert prediction["too_large_for"] == [name for name, size in gigabytes.items() if size < 3]
    assert prediction["fits_on"] == [name for name, size in gigabytes.items() if size > 3]


@pytest.mark.parametrize(
    ("gpus", "gigabytes", "has_room"),
    [(1, 4.0, True), (4, 12.0, True), (4, 8.0, False)],
)
def test_a_process_has_room_on_one_gpu_not_on_all_of_a_node(finished, node, gpus, gigabytes, has_room):
    known = {"device": f"{gpus} × NVIDIA L4", "gpus": gpus, "memory_bytes": int(gigabytes * 1e9)}
    Node.objects.filter(pk=node.pk).update(**known, heartbeat_at=timezone.now())
    finished.facts["started"] = {"device": "cuda"}
    prediction = prediction_of(finished)
    assert prediction is not None
    assert (prediction.fits_on, prediction.too_large_for) == ((("local",), ()) if has_room else ((), ("local",)))


@pytest.mark.parametrize(("processes", "has_room"), [(1, True), (2, False)])
def test_processes_that_train_together_share_a_machines_memory(finished, node, processes, has_room):
    known = {"device": "CPU · 8 × Xeon", "memory_bytes": 5 * 10**9, "heartbeat_at": timezone.now()}
    Node.objects.filter(pk=node.pk).update(**known)
    finished.gpus = processes
    prediction = prediction_of(finished)
    assert prediction is not None
    assert prediction.fits_on == (("local",) if has_room else ())


def test_the_api_tells_the_prediction(finished, api, settings):
    settings.NODE_HOUR_PRICE = 3.6
    told = api.get(f"/api/runs/{finished.pk}/").json()
    assert told["kind"] == "preflight"
    assert told["prediction"]["cost"] == pytest.approx(told["prediction"]["seconds"] / 1000)


def test_the_whole_run_is_a_click_away_with_the_same_settings(finished, client_for, alice):
    client_for(alice).post(f"/t/service-desk/runs/{finished.pk}/rerun/")
    with all_teams("test"):
        whole = Run.unscoped.get(experiment=finished.experiment_id, kind=Run.Kind.TRAINING)
    assert (whole.number, whole.config_hash, whole.max_attempts) == (1, finished.config_hash, 5)


def test_the_form_and_the_api_start_trials(client_for, alice, api, team, base_model, ready_version):
    typed = {
        "name": "By form",
        "dataset_version": ready_version.pk,
        "base_model": "tiny",
        "recipe": "fast",
        "trial": "1",
    }
    assert client_for(alice).post("/t/service-desk/experiments/new/", typed).status_code == 302
    sent = {"name": "By API", "dataset_version": str(ready_version.pk), "base_model": "tiny", "kind": "preflight"}
    assert api.post("/api/experiments/", sent, content_type="application/json").json()["kind"] == "preflight"
    with all_teams("test"):
        assert set(Run.unscoped.values_list("kind", flat=True)) == {"preflight"}


def test_a_trial_that_ran_out_of_memory_says_so(trial, node, client_for, alice):
    lease = put_to_work(trial, node)
    lifecycle.fail_run(lease, code="out_of_memory", message="Memory ran out even with one row at a time.")
    page = client_for(alice).get(f"/t/service-desk/runs/{trial.pk}/").content.decode()
    assert "Memory ran out" in page
    assert "The whole run" not in page


def test_runs_that_succeeded_tell_the_pace_and_trials_do_not(finished):
    from experiments import estimates

    change(finished, gpu_seconds=100.0, total_steps=20)
    with all_teams("test"):
        assert estimates.seconds_per_row_visit() == {}
