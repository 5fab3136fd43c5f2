"""Figures of runs are copied to a tracking server, over its real protocol, and its failures hurt nobody."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from experiments import lifecycle, tasks
from experiments.models import MetricPoint, Run
from experiments.trackers import following, mlflow, services
from experiments.trackers.models import TrackedRun, TrackerSetting
from portal import secrets
from portal.actors import Actor
from portal.errors import Forbidden, InvalidInput
from portal.models import AuditEvent, TeamSecret
from portal.rls import all_teams, team_scope
from tests.browser import fits
from tests.experiments.mlflow_server import MISSING, MlflowServer
from tests.experiments.runs import change, fresh, make_version, put_to_work, queued_tasks, submit

pytestmark = pytest.mark.django_db
PAGE = "/t/service-desk/tracker/"


@pytest.fixture
def server(settings) -> Iterator[MlflowServer]:
    settings.OUTBOUND_ALLOW = ["127.0.0.1"]
    with MlflowServer() as one:
        yield one


@pytest.fixture
def tracker(team, actor, server) -> TrackerSetting:
    with team_scope(team.pk):
        return services.set_tracker(team=team, actor=actor, address=server.url + "/", experiment="Tickets & more")


@pytest.fixture
def run(team, actor, base_model, node, tracker) -> Run:
    return submit(team, actor, make_version(team), base_model, name="Tracked")


@pytest.fixture
def lease(run, node):
    return put_to_work(run, node)


def tell(lease, *steps: int, **figures: float) -> None:
    events = [{"event": "metric", "step": step, "loss": 1 / step, "learning_rate": 1e-3, **figures} for step in steps]
    lifecycle.record_events(lease, events)


def copy() -> None:
    """What the clock and the queue do, a minute later."""
    with all_teams("test"):
        TrackedRun.unscoped.filter(status="open").update(next_try_at=timezone.now())
    tasks.sweep_trackers()
    with all_teams("test"):
        keys = list(TrackedRun.unscoped.values_list("pk", flat=True))
    for key in keys:
        tasks.copy_to_tracker(str(key))


def row() -> TrackedRun:
    with all_teams("test"):
        return TrackedRun.unscoped.select_related("tracker").get()


def test_a_run_appears_with_settings_and_figures_and_ends(server, run, lease):
    tell(lease, 1, 2)
    lifecycle.record_events(lease, [{"event": "metric", "step": 2, "validation_loss": 0.75, "memory_bytes": None}])
    copy()
    (known,) = server.runs.values()
    assert list(server.experiments) == ["Tickets & more"]
    assert known["name"] == "Tracked #1"
    assert known["tags"]["tuneport.run"] == str(run.pk)
    assert known["params"]["learning_rate"] == str(run.hyperparameters["learning_rate"])
    assert known["params"]["base_model"] == "tiny"
    assert known["metrics"] == {
        "loss": {1: 1.0, 2: 0.5},
        "learning_rate": {1: 1e-3, 2: 1e-3},
        "validation_loss": {2: 0.75},
    }
    assert (known["status"], row().status, row().sent_step) == ("RUNNING", "open", 2)
    asked = len(server.asked)
    copy()
    assert len(server.asked) == asked  # nothing new, nothing sent
    tell(lease, 3)
    change(run, status="succeeded", ended_at=timezone.now(), lease_token=None, step=3)
    copy()
    assert known["metrics"]["loss"] == {1: 1.0, 2: 0.5, 3: pytest.approx(1 / 3)}
    assert (known["status"], row().status, row().sent_step) == ("FINISHED", "done", 3)
    assert known["end_time"] == pytest.approx(timezone.now().timestamp() * 1000, abs=60_000)
    assert len(server.runs) == 1
    copy()
    assert server.asked[-1] == "runs/update"


@pytest.mark.parametrize(("status", "there"), [("failed", "FAILED"), ("cancelled", "KILLED")])
def test_other_ends_are_told_as_what_they_are(server, run, lease, status, there):
    change(run, status=status, ended_at=timezone.now(), lease_token=None)
    copy()
    (known,) = server.runs.values()
    assert known["status"] == there


def test_more_figures_than_a_request_may_carry_arrive_all(server, run, lease, monkeypatch):
    monkeypatch.setattr(following, "POINTS_AT_A_TIME", 400)
    with all_teams("test"):
        MetricPoint.unscoped.bulk_create(
            MetricPoint(team_id=run.team_id, run=run, step=step, values={"loss": 1.0, "epoch": 0.1, "eta": None})
            for step in range(1, 901)
        )
    copy()
    (known,) = server.runs.values()
    assert set(known["metrics"]["loss"]) == set(known["metrics"]["epoch"]) == set(range(1, 901))
    assert "eta" not in known["metrics"]
    assert row().sent_step == 900


def test_what_cannot_arrive_is_shown_tried_again_and_hurts_nobody(server, run, lease, client_for, alice):
    tell(lease, 1)
    server.failing = (503, {"message": "Database is <b>away</b>\x00."})
    copy()
    assert row().problem == "The tracker answers HTTP 503: Database is <b>away</b>."
    assert row().status == "open"
    assert row().next_try_at > timezone.now() + timedelta(seconds=30)
    assert fresh(run).status == "running"
    for page in (PAGE, f"/t/service-desk/runs/{run.pk}/"):
        assert "HTTP 503: Database is &lt;b&gt;away" in client_for(alice).get(page).content.decode()
    server.failing = None
    copy()
    assert (row().problem, row().attempts, row().sent_step) == ("", 0, 1)


def test_after_a_day_of_failures_it_is_given_up(server, run, lease):
    server.failing = (500, {})
    for _number in range(len(following.RETRIES_AFTER_S) + 1):
        copy()
    assert row().status == "failed"
    asked = len(server.asked)
    copy()
    assert len(server.asked) == asked
    assert sum(following.RETRIES_AFTER_S) == pytest.approx(24 * 3600, rel=0.05)


def test_what_was_given_up_goes_on_once_the_setting_is_saved_again(team, actor, server, run, lease, tracker):
    tell(lease, 1)
    server.failing = (401, {})
    for _number in range(len(following.RETRIES_AFTER_S) + 1):
        copy()
    assert row().status == "failed"
    server.failing = None
    with team_scope(team.pk):
        services.set_tracker(team=team, actor=actor, address=tracker.address, experiment=tracker.experiment)
    copy()
    (known,) = server.runs.values()
    assert known["metrics"]["loss"] == {1: 1.0}


def test_a_run_that_was_made_before_a_crash_is_found_again(server, run, lease, monkeypatch):
    tell(lease, 1)
    monkeypatch.setattr(mlflow.Server, "log_params", crash)
    with pytest.raises(RuntimeError):
        copy()
    monkeypatch.undo()
    assert (len(server.runs), row().external_id) == (1, "")
    copy()
    (known,) = server.runs.values()
    assert known["metrics"]["loss"] == {1: 1.0}


def crash(*_arguments: object) -> None:
    raise RuntimeError


@pytest.mark.parametrize(
    "answer", [(200, {}), (200, {"experiment": {"experiment_id": "../../x"}}), (200, {"experiment": []}), MISSING]
)
def test_a_server_that_talks_nonsense_is_a_sentence(server, run, lease, answer):
    server.failing = answer
    copy()
    assert row().problem.endswith(".")
    assert row().external_id == ""


@pytest.mark.parametrize(("text", "header"), [("token-1", "Bearer token-1"), ("anna:word", "Basic YW5uYTp3b3Jk")])
def test_the_key_proves_who_we_are_and_is_told_nowhere_else(team, actor, server, run, lease, text, header):
    server.key = header
    copy()
    assert "refuses access" in row().problem
    with team_scope(team.pk):
        secrets.store(team=team, kind=TeamSecret.Kind.TRACKER_KEY, name="tracker", text=text, actor=actor)
        services.set_tracker(team=team, actor=actor, address=server.url, experiment="Tickets & more", secret="tracker")
    copy()
    (known,) = server.runs.values()
    assert row().problem == ""
    assert text not in str(known)
    with connection.cursor() as cursor:
        cursor.execute("SELECT problem FROM experiments_trackedrun")
        assert text not in str(cursor.fetchall())


def test_another_address_gets_runs_at_work_from_their_beginning(team, actor, server, run, lease):
    tell(lease, 1, 2)
    copy()
    with MlflowServer() as second:
        with team_scope(team.pk):
            services.set_tracker(team=team, actor=actor, address=second.url, experiment="Elsewhere")
        copy()
        (known,) = second.runs.values()
        assert known["metrics"]["loss"] == {1: 1.0, 2: 0.5}


def test_what_reaches_the_earlier_address_meanwhile_counts_no_more(team, actor, server, run, lease, monkeypatch):
    tell(lease, 1, 2)
    log_metrics = mlflow.Server.log_metrics
    with MlflowServer() as second:

        def move_meanwhile(*arguments: object) -> None:
            monkeypatch.undo()
            with team_scope(team.pk):
                services.set_tracker(team=team, actor=actor, address=second.url)
            log_metrics(*arguments)

        monkeypatch.setattr(mlflow.Server, "log_metrics", move_meanwhile)
        copy()
        assert len(server.runs) == 1
        assert (row().external_id, row().sent_point, row().attempts) == ("", 0, 0)
        copy()
        (known,) = second.runs.values()
        assert known["metrics"]["loss"] == {1: 1.0, 2: 0.5}
        assert row().external_id in second.runs


def test_links_of_ended_runs_do_not_lead_to_another_address(team, actor, server, run, lease):
    change(run, status="succeeded", ended_at=timezone.now(), lease_token=None)
    copy()
    assert row().url.startswith(server.url)
    with team_scope(team.pk):
        services.set_tracker(team=team, actor=actor, address="https://mlflow.example.org")
    assert (row().status, row().url) == ("done", "")


def test_trials_earlier_runs_and_other_teams_are_not_copied(
    server, team, actor, other_team, base_model, node, tracker, charlie
):
    earlier = submit(team, actor, make_version(team), base_model)
    change(
        earlier, status="running", started_at=tracker.since - timedelta(minutes=1), lease_token=earlier.pk, node=node
    )
    trial = submit(team, actor, make_version(team), base_model)
    change(trial, kind="preflight", status="failed", started_at=timezone.now())
    theirs = submit(other_team, actor, make_version(other_team), base_model)
    change(theirs, status="failed", started_at=timezone.now())
    copy_nothing = tasks.sweep_trackers()
    assert copy_nothing == 0
    assert server.asked == []


def test_a_tracker_that_was_removed_hears_no_more(team, actor, server, run, lease, tracker):
    tell(lease, 1)
    with team_scope(team.pk):
        services.remove_tracker(setting=tracker, actor=actor)
    copy_nothing = tasks.sweep_trackers()
    assert (copy_nothing, server.asked) == (0, [])
    with team_scope(team.pk):
        actions = set(AuditEvent.objects.filter(action__startswith="tracker").values_list("action", flat=True))
    assert actions == {"tracker.set", "tracker.removed"}


def test_the_message_of_the_queue_is_only_a_hint(server, run, lease, django_capture_on_commit_callbacks):
    tell(lease, 1)
    with django_capture_on_commit_callbacks(execute=True):
        assert tasks.sweep_trackers() == 1
    assert [function for _cluster, function, _ids in queued_tasks()][-1] == following.SEND
    key = str(row().pk)
    tasks.copy_to_tracker(key)
    asked = len(server.asked)
    tasks.copy_to_tracker(key)  # comes twice
    assert len(server.asked) == asked


def test_addresses_inside_are_refused_until_a_platform_admin_allows_them(settings, server, run, lease):
    settings.OUTBOUND_ALLOW = []
    copy()
    assert "TUNEPORT_OUTBOUND_ALLOW" in row().problem
    assert server.asked == []


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"address": "ftp://x"}, "address"), ({"address": "https://a:b@example.org"}, "address"),
        ({"address": "https://example.org/?x=1"}, "address"), ({"address": ""}, "address"),
        ({"experiment": ""}, "experiment"), ({"experiment": "a\nb"}, "experiment"),
        ({"experiment": "x" * 201}, "experiment"),
        ({"secret": "nobody-knows"}, "secret"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(team, actor, change, param):
    with team_scope(team.pk), pytest.raises(InvalidInput) as caught:
        services.set_tracker(team=team, actor=actor, **{"address": "https://mlflow.example.org", **change})
    assert caught.value.param == param


def test_only_admins_say_where_figures_go(team, client_for, bob):
    assert client_for(bob).get(PAGE).status_code == 403
    with team_scope(team.pk), pytest.raises(Forbidden):
        services.set_tracker(team=team, actor=Actor(user=bob), address="https://mlflow.example.org")


def test_the_page_saves_asks_and_removes(client_for, alice, team, server):
    browser = client_for(alice)
    assert "Experiment tracker" in browser.get(PAGE).content.decode()
    refused = browser.post(PAGE, {"address": "nonsense", "experiment": "x"})
    assert refused.status_code == 400
    assert browser.post(PAGE, {"address": server.url, "experiment": "New one"}).status_code == 302
    told = browser.post(f"{PAGE}test/", follow=True).content.decode()
    assert "will be made with the first run" in told
    server.failing = (500, {"message": "broken"})
    assert "HTTP 500: broken" in browser.post(f"{PAGE}test/", follow=True).content.decode()
    assert browser.post(f"{PAGE}delete/").status_code == 302
    with team_scope(team.pk):
        assert not team.trackersettings.exists()


@pytest.mark.parametrize("text", ["schlüssel", "one\ntwo"])
def test_a_key_that_no_request_can_carry_is_a_sentence(client_for, alice, team, actor, server, run, lease, text):
    with team_scope(team.pk):
        secrets.store(team=team, kind=TeamSecret.Kind.TRACKER_KEY, name="tracker", text=text, actor=actor)
        services.set_tracker(team=team, actor=actor, address=server.url, secret="tracker")
    assert "no request can carry" in client_for(alice).post(f"{PAGE}test/", follow=True).content.decode()
    copy()
    assert "no request can carry" in row().problem
    assert server.asked == []


def test_programs_of_admins_do_the_same(api, team, server):
    assert api.get("/api/tracker/").status_code == 404
    answer = api.put("/api/tracker/", {"address": server.url}, content_type="application/json")
    assert (answer.status_code, answer.json()["experiment"], answer.json()["runs"]) == (200, "Tuneport", [])
    assert api.get("/api/tracker/").json()["address"] == server.url
    assert api.delete("/api/tracker/").status_code == 204


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_pages_fit(open_page, server, run, lease):
    tell(lease, 1, 2)
    copy()
    server.failing = (503, {"message": "The database behind this server is away for maintenance until eleven."})
    tell(lease, 3)
    copy()
    fits(open_page(PAGE), "tracker")
    fits(open_page(f"/t/service-desk/runs/{run.pk}/"), "tracked-run")
