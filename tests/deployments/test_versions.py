"""Versions by their number, what a version adds to requests, the history, and sleeping and waking."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from deployments import inference, known_targets, lifecycle, services, targets
from deployments.models import Placement
from deployments.targets import resolve
from portal.errors import InvalidInput, NotFound, Unavailable
from portal.rls import all_teams, team_scope


@pytest.fixture(autouse=True)
def _nothing_known():
    known_targets._versions.clear()


def second(team, actor, make_run, **settings):
    with team_scope(team.pk):
        return services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo-triage", **settings)


def test_name_and_number_call_one_version_whichever_is_live(team, actor, deployed, make_run, node, load_placements):
    newer = second(team, actor, make_run)
    load_placements(node)
    assert resolve(team, "demo-triage").version_id == newer.pk
    assert resolve(team, "demo-triage@v2").engine_model == newer.adapter.engine_name
    pinned = resolve(team, "demo-triage@v1")
    assert (pinned.version_id, pinned.public_name) == (deployed.pk, "demo-triage@v1")
    assert resolve(team, "demo-triage").public_name == "demo-triage", "what is remembered of a version is not its name"


@pytest.mark.parametrize("name", ["demo-triage@v3", "demo-triage@v0", "demo-triage@v01", "demo-triage@", "@v1",
                                  "demo-triage@v1@v1", "demo-triage@V1", "demo-triage@v99999999999"])  # fmt: skip
def test_versions_that_are_not_there_are_like_models_that_nobody_has(team, deployed, name):
    with pytest.raises(NotFound) as caught:
        resolve(team, name)
    assert caught.value.message == targets.model_not_found().message


def test_another_teams_version_is_like_one_that_nobody_has(team, other_team, deployed):
    for name in ("demo-triage", "demo-triage@v1"):
        with pytest.raises(NotFound) as caught:
            resolve(other_team, name)
        assert caught.value.message == targets.model_not_found().message


def test_a_token_for_one_model_may_call_its_versions_and_no_others(team, token, scoped):
    row = team.apitokens.get()
    row.allowed_models = ["demo-triage"]
    assert row.may_call("demo-triage@v2")
    assert not row.may_call("other@v2")
    assert not row.may_call("demo-triage-2@v1")


@pytest.mark.django_db(transaction=True)
def test_an_old_version_is_loaded_when_somebody_calls_it(team, actor, deployed, make_run, node, load_placements):
    second(team, actor, make_run)
    load_placements(node)
    with all_teams("test"):
        Placement.unscoped.filter(adapter=deployed.adapter).delete()
    with loading(load_placements, node):
        assert resolve(team, "demo-triage@v1").version_id == deployed.pk
    with team_scope(team.pk):
        kept = deployed.adapter.placements.get().wanted_until - timezone.now()
    assert timedelta(minutes=29) < kept <= timedelta(minutes=30)


def test_what_a_version_adds_to_requests(team, actor, deployed, make_run, node, load_placements):
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}
    second(team, actor, make_run, system_prompt="Be brief.", response_schema=schema, max_tokens=40)
    load_placements(node)
    target = resolve(team, "demo-triage")

    def body_of(target, **body):
        return inference._engine_body(target, {"model": "x", **body}, inference.Caller(team=team, request_id=""))

    asked = body_of(target, messages=[{"role": "user", "content": "Hi"}])
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert asked["max_tokens"] == 40
    assert list(asked["response_format"]["json_schema"]["schema"]["properties"]) == ["b", "a"], "in its order"
    own = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    asked = body_of(target, messages=[], max_tokens=9, response_format=own)
    assert (asked["max_tokens"], asked["response_format"]) == (9, own)
    assert body_of(target, messages=[], max_tokens=99)["max_tokens"] == 40
    assert "response_format" not in body_of(target, prompt="Hi")


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"thresholds": {"queue": 1.2}}, {"thresholds": {"queue": "x"}}])
def test_settings_that_make_no_sense_are_refused(team, actor, run, node, scoped, wrong):
    with pytest.raises(InvalidInput) as caught:
        services.deploy_run(team=team, actor=actor, run=run, name="demo", **wrong)
    assert caught.value.param == next(iter(wrong))


def test_a_version_never_changes(deployed, scoped):
    deployed.system_prompt = "Other"
    with pytest.raises(RuntimeError, match="never changes"):
        deployed.save()


def test_other_settings_make_another_version(team, actor, run, node, scoped):
    make = {"team": team, "actor": actor, "run": run, "name": "demo"}
    assert services.deploy_run(**make, thresholds={"queue": 0.8}, note="First").number == 1
    assert services.deploy_run(**make, thresholds={"queue": 0.8}).number == 1
    assert services.deploy_run(**make, thresholds={"queue": 0.9}).number == 2
    told = [(event.action, event.version, event.reason) for event in team.deployments.get().events.all()]
    assert ("deployment.created", 1, "First") in told


def test_the_page_shows_who_did_what_and_why(team, actor, deployed, make_run, node, load_placements, client_for, bob):
    second(team, actor, make_run, note="Learned the new queues")
    load_placements(node)
    with team_scope(team.pk):
        services.promote_version(version=deployed, actor=actor, reason="Too many complaints")
    body = client_for(bob).get(f"/t/{team.slug}/deployments/{deployed.deployment_id}/").content.decode()
    for words in ("Learned the new queues", "Too many complaints", "(before: version 2)", "demo-triage@v2", "Alice"):
        assert words in body


# --- sleep -------------------------------------------------------------------------------------------------------


class loading:
    """A node agent that loads whatever is wanted, in the background."""

    def __init__(self, load, node, *, after_s: float = 0.2) -> None:
        self._load, self._node, self._after_s = load, node, after_s
        self._stop = threading.Event()

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def __exit__(self, *_error) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        time.sleep(self._after_s)
        while not self._stop.wait(0.05):
            self._load(self._node)
        connection.close()


def let_sleep(team, actor, deployment) -> None:
    """Let a deployment sleep, and take its adapter away as the node's agent would."""
    with team_scope(team.pk):
        services.set_sleep(deployment=deployment, actor=actor, minutes=5)
        team.deployments.update(awake_until=timezone.now() - timedelta(seconds=1))
        Placement.unscoped.update(wanted_until=None)


def test_a_deployment_that_nobody_asks_is_not_wanted_any_more(team, actor, deployed, node, client_for, bob):
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [True]
    with team_scope(team.pk):
        services.set_sleep(deployment=deployed.deployment, actor=actor, minutes=5)
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [True], "it was asked for just now"
    let_sleep(team, actor, deployed.deployment)
    (state,) = lifecycle.placements_of(node)
    assert not state.is_wanted
    assert lifecycle.place_missing() == 0
    assert lifecycle.forget_placement(state.id)
    body = client_for(bob).get(f"/t/{team.slug}/deployments/{deployed.deployment_id}/").content.decode()
    assert "Asleep" in body
    assert "The next request wakes it" in body
    with team_scope(team.pk):
        services.set_sleep(deployment=deployed.deployment, actor=actor, minutes=None)
    assert lifecycle.place_missing() == 1, "it never sleeps now"


@pytest.mark.django_db(transaction=True)
def test_a_request_wakes_it_and_waits(team, actor, deployed, node, load_placements):
    let_sleep(team, actor, deployed.deployment)
    assert lifecycle.forget_placement(lifecycle.placements_of(node)[0].id)
    with loading(load_placements, node):
        began = time.monotonic()
        target = resolve(team, "demo-triage")
    assert target.version_id == deployed.pk
    assert 0.1 < time.monotonic() - began < 5
    with team_scope(team.pk):
        assert team.deployments.get().awake_until > timezone.now() + timedelta(minutes=4)


@pytest.mark.django_db(transaction=True)
def test_who_waits_too_long_is_told_when_to_come_back(team, actor, deployed, node, monkeypatch):
    monkeypatch.setattr(targets, "WAKE_PATIENCE_S", 0.3)
    let_sleep(team, actor, deployed.deployment)
    assert lifecycle.forget_placement(lifecycle.placements_of(node)[0].id)
    with pytest.raises(Unavailable) as caught:
        resolve(team, "demo-triage")
    assert (caught.value.code, caught.value.headers["Retry-After"]) == ("model_loading", "2")
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [True], "it is being woken all the same"


def test_requests_renew_the_time_now_and_then(team, actor, deployed, node, django_assert_num_queries):
    with team_scope(team.pk):
        services.set_sleep(deployment=deployed.deployment, actor=actor, minutes=5)
        until = team.deployments.get().awake_until
        resolve(team, "demo-triage")
        assert team.deployments.get().awake_until == until, "just renewed"
        team.deployments.update(awake_until=until - timedelta(minutes=1))
        resolve(team, "demo-triage")
        assert team.deployments.get().awake_until >= until


def test_the_page_of_a_promotion_shows_what_differs(team, alice, actor, deployed, run, client_for):
    from deployments.version_differences import differences

    with team_scope(team.pk):
        second = services.deploy_run(
            team=team, actor=actor, run=run, name="demo-triage", max_tokens=9, thresholds={"queue": 0.8},
            response_schema={"properties": {"queue": {"enum": ["a", None]}, "id": {"type": "string"},
                                            "kind": {"enum": [str(one) for one in range(30)]}}},
        )  # fmt: skip
        found = {one.label: (one.ours, one.theirs) for one in differences(second, deployed)}
    assert found == {
        "Schema of answers": (
            'queue: a, null\nid: {"type": "string"}\nkind: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 18 more',
            "",
        ),
        "Abstain below": ("queue = 0.8", ""),
        "Most tokens of an answer": ("9", ""),
    }
    page = client_for(alice).get(f"/t/{team.slug}/deployment-versions/{deployed.pk}/promote/").content.decode()
    assert "What differs" in page
    assert "queue = 0.8" in page
