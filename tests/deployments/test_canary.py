"""A canary: which requests it gets, what happens when it fails, how it ends, and what is counted of it."""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from functools import partial

import pytest
from django.db import connection

from deployments import (
    canaries,
    drawing,
    engine_client,
    gate,
    known_targets,
    lifecycle,
    policies,
    request_totals,
    services,
    traffic,
)
from deployments.engine_client import EngineTarget
from deployments.engine_connection import CallerGone
from deployments.known_targets import Canary, Target
from deployments.models import (
    Deployment,
    DeploymentEvent,
    DeploymentVersion,
    InferenceRecord,
    LoggedText,
    RequestTotals,
)
from portal.actors import Actor
from portal.errors import Forbidden, IllegalTransition, InvalidInput, Unavailable
from portal.models import AuditEvent, Quota, QuotaWindow, Role, UsageDay
from portal.rls import all_teams, team_scope
from tests.deployments.figures import evaluate

CHAT = "/v1/chat/completions"
VERSION = "x-model-version"


@pytest.fixture
def second(team, deployed, make_run):
    """Version 2 of demo-triage, which has not answered yet."""
    adapter = make_run(team, "Second").adapter
    with team_scope(team.pk):
        return team.deploymentversions.create(deployment=deployed.deployment, number=2, adapter=adapter)


@pytest.fixture
def canary(team, actor, second, node, load_placements):
    """Version 2 as a loaded canary with half of the requests."""
    with team_scope(team.pk):
        canaries.set_canary(version=second, actor=actor, share=50)
    load_placements(node)
    return second


@pytest.fixture
def always(monkeypatch):
    """Every request that names nobody goes to the canary."""
    monkeypatch.setattr(drawing._draws, "random", lambda: 0.0)


def ask(client, path: str = CHAT, **changes: object):
    body = {"model": "demo-triage", "messages": [{"role": "user", "content": "hi"}], **changes}
    return client.post(path, json.dumps(body), "application/json")


def counted(team) -> list[tuple[int, int, str]]:
    with team_scope(team.pk):
        rows = team.inferencerecords.select_related("version").order_by("pk")
        return [(row.version.number, row.status, row.model) for row in rows]


def of(deployment):
    with team_scope(deployment.team_id):
        deployment.refresh_from_db()
    return deployment


# --- the draw ----------------------------------------------------------------------------------------------------


def pair(share: int) -> Canary:
    return Canary(Target(EngineTarget("", ""), "a", "name", "fp", pinned_name="name@v2"), share)


@pytest.mark.parametrize("share", [1, 10, 50])
def test_requests_are_drawn_as_often_as_the_share_says(monkeypatch, share):
    monkeypatch.setattr(drawing, "_draws", random.Random(5))
    count, canary = 20_000, pair(share)
    hits = sum(drawing.is_drawn(canary, {}) for _number in range(count))
    named = sum(drawing.is_drawn(canary, {"user": f"person {number}"}) for number in range(count))
    spread = 4 * (count * share * (100 - share)) ** 0.5 / 100  # four standard deviations
    assert abs(hits - count * share / 100) < spread
    assert abs(named - count * share / 100) < spread


def test_who_is_named_stays_with_a_version_also_when_the_share_grows():
    people = [{"user": f"person {number}"} for number in range(500)]
    few, many = ({one["user"] for one in people if drawing.is_drawn(pair(share), one)} for share in (5, 30))
    assert few == {one["user"] for one in people if drawing.is_drawn(pair(5), one)}
    assert few < many
    assert drawing.is_drawn(pair(30), {"safety_identifier": min(few)})
    assert {drawing.is_drawn(pair(50), {"user": odd}) for odd in ("", 7, None, ["x"])}, "such names name nobody"


# --- answers -----------------------------------------------------------------------------------------------------


def test_the_answer_and_its_count_name_the_version(team, api, deployed, canary, always):
    answer = ask(api)
    assert answer.json()["choices"][0]["message"]["content"].startswith(canary.adapter.engine_name)
    assert (answer[VERSION], answer.json()["model"]) == ("demo-triage@v2", "demo-triage")
    assert answer.json()["system_fingerprint"] == f"fp_{canary.adapter.sha256[:12]}"
    streamed = ask(api, stream=True)
    assert streamed[VERSION] == "demo-triage@v2"
    assert canary.adapter.engine_name in streamed.getvalue().decode()
    pinned = ask(api, model="demo-triage@v1")
    assert pinned[VERSION] == "demo-triage@v1"
    assert pinned.json()["choices"][0]["message"]["content"].startswith(deployed.adapter.engine_name)
    questions = [{"type": "predicate", "name": "urgent"}]
    body = {"model": "demo-triage", "input": "hi", "questions": questions}
    assert api.post("/v1/decisions", json.dumps(body), "application/json")[VERSION] == "demo-triage@v2"
    assert counted(team) == [
        (2, 200, "demo-triage"), (2, 200, "demo-triage"), (1, 200, "demo-triage@v1"), (2, 200, "demo-triage"),
    ]  # fmt: skip


def test_a_conversation_that_names_its_user_stays_with_one_version(api, canary):
    seen = {user: {ask(api, user=user)[VERSION] for _time in range(2)} for user in "abcdefghijklmnopqr"}
    assert all(len(versions) == 1 for versions in seen.values())
    assert set.union(*seen.values()) == {"demo-triage@v1", "demo-triage@v2"}


def test_a_request_that_is_let_in_by_memory_is_drawn_and_a_change_is_felt_at_once(
    team, actor, api, second, node, load_placements, always, monkeypatch
):
    monkeypatch.setattr(known_targets, "KNOWN_FOR_S", 60.0)
    assert {ask(api)[VERSION] for _time in range(3)} == {"demo-triage@v1"}
    with team_scope(team.pk):
        canaries.set_canary(version=second, actor=actor, share=1)
    load_placements(node)
    known_targets._canaries.clear()  # that it is loaded by now is seen a second later
    known_targets._recent.clear()
    assert {ask(api)[VERSION] for _time in range(3)} == {"demo-triage@v2"}
    assert known_targets.recall(team, "demo-triage").target.canary.share == 1
    with team_scope(team.pk):
        canaries.take_back(deployment=second.deployment, actor=actor)
    assert {ask(api)[VERSION] for _time in range(3)} == {"demo-triage@v1"}


# --- when it fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_canary_cannot_answer_the_live_version_does(team, api, deployed, canary, engine, always, stream):
    del engine.adapters[canary.adapter.engine_name]  # unloaded behind our back
    before = requests_taken()
    answer = ask(api, stream=stream)
    assert (answer.status_code, answer[VERSION]) == (200, "demo-triage@v1")
    assert deployed.adapter.engine_name in answer.getvalue().decode()
    assert counted(team) == [(2, 503, "demo-triage"), (1, 200, "demo-triage")]
    assert requests_taken() == before + 1, "the caller asked once"


def attempts(team) -> list[tuple[int, str]]:
    with team_scope(team.pk):
        return list(team.inferencerecords.order_by("pk").values_list("version__number", "attempt"))


@pytest.mark.parametrize("text", ["hi", "#toolong"])
def test_what_was_replaced_is_no_request_of_its_own(team, api, canary, engine, deployed, always, text):
    """The canary fails at the first text, and both refuse the second one: the caller asked once each time."""
    if text == "hi":
        del engine.adapters[canary.adapter.engine_name]
    before = requests_taken()
    messages = [{"role": "user", "content": text}]
    status = ask(api, messages=messages).status_code
    assert attempts(team) == [(2, "replaced"), (1, "instead")]
    assert requests_taken() == before + 1
    errors = int(status >= 400)
    with team_scope(team.pk):
        day = UsageDay.unscoped.filter(model="demo-triage").get()
        assert (day.requests, day.errors) == (1, errors)
        deployment = of(deployed.deployment)
        shown = [traffic.last_day(deployment), traffic.totals_of_last_day(team, [deployment])[deployment.pk]]
        assert [(one.requests, one.errors) for one in shown] == [(1, errors)] * 2
        points = traffic.course(deployment, days=1)
        assert (sum(one["requests"] for one in points), sum(one["errors"] for one in points)) == (1, errors)
        live, tried = traffic.side_by_side(deployment)
    assert (live.requests, live.errors, live.replaced) == (0, 0, 0), "it was not drawn"
    assert (tried.requests, tried.errors, tried.replaced) == (1, 1, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_what_nobody_is_asked_for_again_is_the_only_attempt(team, api, canary, always, monkeypatch, stream):
    """A stream that breaks after its first text, and a caller who hung up."""

    def gone(*_arguments, **_more):
        raise CallerGone

    if stream:
        assert "error" in ask(api, stream=True, messages=[{"role": "user", "content": "#error"}]).getvalue().decode()
    else:
        monkeypatch.setattr(engine_client, "chat", gone)
        ask(api)
    assert attempts(team) == [(2, "")]


def test_monitoring_counts_a_replaced_request_once_and_its_tokens(team, canary, deployed):
    with team_scope(team.pk):
        for version, status, attempt in ((canary, 503, "replaced"), (deployed, 200, "instead"), (canary, 200, "")):
            InferenceRecord(
                team=team, version=version, model="demo-triage", status=status, attempt=attempt, duration_ms=10,
                prompt_tokens=7,
            ).save()  # fmt: skip
        newest = InferenceRecord.unscoped.order_by("-pk").first().pk
    totals = RequestTotals(
        counted=0, seen=newest, durations=request_totals._zeros(), first_tokens=request_totals._zeros()
    )
    with all_teams("test"):
        request_totals._add(totals)
    assert (totals.requests, totals.statuses["2xx"], totals.duration_ms) == (2, 2, 20)
    assert sum(totals.durations) == 2
    assert totals.prompt_tokens == 21


def test_the_log_says_which_of_two_records_counts(team, api, canary, engine, deployed, always, alice, client_for):
    del engine.adapters[canary.adapter.engine_name]
    ask(api)
    log = f"/t/{team.slug}/deployments/{deployed.deployment_id}/log/"
    with team_scope(team.pk):
        tried, live = team.inferencerecords.order_by("pk")
    browser = client_for(alice)
    listed = browser.get(log).content.decode()
    assert "instead of the canary" in listed
    assert ">replaced<" in listed
    shown = browser.get(f"{log}{tried.pk}/").content.decode()
    assert "counts once in the figures" in shown
    assert f"{log}{live.pk}/" in shown
    assert f"{log}{tried.pk}/" in browser.get(f"{log}{live.pk}/").content.decode()
    told = api.get(f"/api/deployments/{deployed.deployment_id}/requests/").json()["results"]
    assert [(one["version"], one["attempt"]) for one in told] == [(1, "instead"), (2, "replaced")]


def requests_taken() -> int:
    with all_teams("test"):
        return sum(QuotaWindow.unscoped.filter(kind=Quota.REQUESTS_PER_MINUTE).values_list("used", flat=True))


def test_a_stream_that_breaks_before_its_first_text_is_begun_by_the_live_version(
    team, api, canary, always, monkeypatch
):
    real, closed = engine_client.stream_chat, []

    class Broken:
        def __init__(self) -> None:
            self.events = iter([{"choices": [{"delta": {"role": "assistant", "content": ""}}]}])

        def next_event(self):
            for event in self.events:
                return event
            raise Unavailable("It broke.")

        def close(self) -> None:
            closed.append(self)

    def stream_chat(target, asked, **rest):
        return Broken() if asked["model"] == canary.adapter.engine_name else real(target, asked, **rest)

    monkeypatch.setattr(engine_client, "stream_chat", stream_chat)
    answer = ask(api, stream=True)
    text = answer.getvalue().decode()
    assert answer[VERSION] == "demo-triage@v1"
    assert "error" not in text
    assert text.count('"role":"assistant"') == 1
    assert counted(team) == [(2, 503, "demo-triage"), (1, 200, "demo-triage")]
    assert len(closed) == 1


def test_a_canary_that_is_taken_back_while_it_fails_refuses_nobody(api, canary, deployed, always, monkeypatch):
    monkeypatch.setattr(known_targets, "KNOWN_FOR_S", 60.0)
    for _time in range(3):
        assert ask(api)[VERSION] == "demo-triage@v2"
    real = engine_client.chat

    def failing(target, body, **more):
        if body["model"] == canary.adapter.engine_name:
            with all_teams("test"):
                Deployment.unscoped.update(canary_version=None, canary_share=None, canary_since=None)
            raise Unavailable("It broke.")
        return real(target, body, **more)

    monkeypatch.setattr(engine_client, "chat", failing)
    answer = ask(api)
    assert (answer.status_code, answer[VERSION]) == (200, "demo-triage@v1")


def test_errors_of_the_request_itself_are_those_of_the_live_version(team, api, canary, always):
    long = [{"role": "user", "content": "#toolong"}]
    assert ask(api, messages=long).json()["error"]["code"] == "context_length_exceeded"
    assert [row[:2] for row in counted(team)] == [(2, 400), (1, 400)]
    assert ask(api, messages=[]).status_code == 400
    schema = {"type": "json_schema"}
    assert ask(api, response_format=schema).json()["error"]["code"] == "missing_required_parameter"


def test_until_it_is_loaded_the_live_version_answers(team, actor, api, second, node, always, load_placements):
    with team_scope(team.pk):
        canaries.set_canary(version=second, actor=actor, share=50)
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [True, True]
    assert {ask(api)[VERSION] for _time in range(3)} == {"demo-triage@v1"}
    with team_scope(team.pk):
        lifecycle.placement_failed(second.adapter.placements.get().pk, "It is broken.")
    known_targets._canaries.clear()
    assert ask(api)[VERSION] == "demo-triage@v1"
    answer = api.get(f"/api/deployments/{second.deployment_id}/canary/").json()
    assert (answer["state"], answer["error"]) == ("failed", "It is broken.")


def test_a_schema_that_only_the_live_version_has_is_asked_of_it_once(
    team, actor, api, engine, run, deployed, node, load_placements, always, monkeypatch
):
    with team_scope(team.pk):
        bound = services.deploy_run(
            team=team, actor=actor, run=run, name="demo-triage", response_schema={"type": "object"}
        )
        canaries.set_canary(version=deployed, actor=actor, share=50)
    load_placements(node)
    monkeypatch.setattr(known_targets, "KNOWN_FOR_S", 60.0)
    assert bound.number == 2
    assert {ask(api)[VERSION] for _time in range(3)} == {"demo-triage@v1"}, "token and model are remembered by now"
    before = len(engine.requests)
    assert ask(api, response_format={"type": "json_schema"})[VERSION] == "demo-triage@v2"
    assert len(engine.requests) == before + 1


# --- beginning and end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 51, -1])
def test_a_share_is_1_to_50_per_cent(team, actor, second, share):
    with team_scope(team.pk), pytest.raises(InvalidInput) as caught:
        canaries.set_canary(version=second, actor=actor, share=share)
    assert caught.value.param == "share"


def test_what_cannot_be_a_canary_is_refused(team, actor, deployed, second, make_run):
    def code(version) -> str:
        with pytest.raises(IllegalTransition) as caught:
            canaries.set_canary(version=version, actor=actor, share=10)
        return caught.value.code

    third = make_run(team, "Third").adapter
    with team_scope(team.pk):
        third = team.deploymentversions.create(deployment=deployed.deployment, number=3, adapter=third)
        assert code(deployed) == "version_is_live"
        canaries.set_canary(version=second, actor=actor, share=10)
        assert code(third) == "canary_exists"
        services.stop_deployment(deployment=deployed.deployment, actor=actor)
        assert of(deployed.deployment).canary_version_id is None, "stopping ends it"
        assert code(second) == "deployment_stopped"


@pytest.fixture
def held_back(team, deployed, second, run) -> DeploymentVersion:
    """The second version, which breaks a rule by its figures."""
    with team_scope(team.pk):
        evaluate(run, recalls={"a": 0.9})
        evaluate(second.adapter.run, recalls={"a": 0.9}, f1=0.1)
        second.refresh_from_db()
        assert [rule.code for rule in gate.judge(of(deployed.deployment), second).failed] == ["max_f1_drop"]
        return second


def test_one_that_the_gate_holds_back_needs_an_admin_and_a_reason(team, actor, bob, deployed, held_back):
    ask_for = partial(canaries.set_canary, version=held_back)
    with team_scope(team.pk):
        with pytest.raises(gate.HeldBack, match=r"10\.0%.*90\.0%"):
            ask_for(actor=actor, share=10, reason="Let us see")
        with pytest.raises(InvalidInput, match="Say why"):
            ask_for(actor=actor, share=10, override=True)
        team.memberships.filter(user=bob).update(role=Role.EDITOR)
        with pytest.raises(Forbidden):
            ask_for(actor=Actor(user=bob), share=10, reason="please", override=True)
        assert of(deployed.deployment).canary_version_id is None
        ask_for(actor=actor, share=10, reason="Let us see", override=True)
        with pytest.raises(gate.HeldBack):
            ask_for(actor=actor, share=50)
        ask_for(actor=Actor(user=bob), share=5)
        assert of(deployed.deployment).canary_share == 5
        ask_for(actor=actor, share=20, reason="It does well", override=True)
        with pytest.raises(gate.HeldBack):
            services.promote_version(version=held_back, actor=actor)
        told = [(event.action, event.detail) for event in AuditEvent.objects.filter(action__startswith="deployment.")]
    overridden = [detail for action, detail in told if action == "deployment.gate_overridden"]
    assert sorted(detail["reason"] for detail in overridden) == ["It does well", "Let us see"]
    assert ("deployment.canary_started", {
        "version": 2, "reason": "Let us see", "share": 10, "rules_broken": "max_f1_drop",
    }) in told  # fmt: skip
    assert ("deployment.canary_changed", {"version": 2, "share": 5, "share_before": 10}) in told


def test_one_that_only_lacks_requests_is_what_a_canary_is_for(team, actor, deployed, second):
    with team_scope(team.pk):
        policies.set_policy(team=team, actor=actor, is_on=True, shares={}, max_median_ms=100)
        assert not gate.judge(of(deployed.deployment), second).has_passed
        canaries.set_canary(version=second, actor=actor, share=10)
        assert of(deployed.deployment).canary_share == 10


def test_page_and_api_override_for_admins_only(team, api, alice, bob, client_for, deployed, held_back):
    url = f"/t/{team.slug}/deployment-versions/{held_back.pk}/canary/"
    admin, editor = client_for(alice), client_for(bob)
    with team_scope(team.pk):
        team.memberships.filter(user=bob).update(role=Role.EDITOR)
    assert 'name="override"' in admin.get(url).content.decode()
    assert 'name="override"' not in editor.get(url).content.decode()
    override = {"share": 10, "reason": "Let us see", "override": "on"}
    assert editor.post(url, override).status_code == 409
    assert admin.post(url, {**override, "reason": ""}).status_code == 400
    assert admin.post(url, override).status_code == 302
    with team_scope(team.pk):
        canaries.take_back(deployment=deployed.deployment, actor=Actor(user=alice))
    address, body = f"/api/deployments/{deployed.deployment_id}/canary/", {"version": 2, "share": 10}
    refused = api.put(address, body, content_type="application/json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "held_back_by_gate")
    body |= {"override": True, "reason": "Let us see"}
    assert api.put(address, body, content_type="application/json").json()["canary_share"] == 10


def test_promoting_ends_it_and_so_does_deleting(team, actor, canary, deployed):
    with team_scope(team.pk):
        services.promote_version(version=canary, actor=actor)
        deployment = of(deployed.deployment)
        assert (deployment.live_version_id, deployment.canary_version_id) == (canary.pk, None)
        canaries.set_canary(version=deployed, actor=actor, share=5)
        services.delete_deployment(deployment=deployment, actor=actor)
        assert not team.deployments.exists()


def test_taking_back_is_noted_once_and_lets_the_adapter_go(team, actor, canary, node):
    with team_scope(team.pk):
        for _time in range(2):
            canaries.take_back(deployment=canary.deployment, actor=actor, reason="Slow")
        ended = DeploymentEvent.unscoped.filter(action="deployment.canary_ended")
        assert [(event.version, event.reason) for event in ended] == [(2, "Slow")]
        assert canary.adapter.placements.get().wanted_until is not None, "answers in progress are written to the end"


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_no_request_fails_while_a_canary_comes_and_goes(team, actor, api, deployed, second, node, load_placements):
    seen, stop = [], threading.Event()

    def ask_on() -> None:
        while not stop.is_set():
            answer = ask(api)
            seen.append((answer.status_code, answer.headers.get(VERSION)))
        connection.close()

    def after(count: int) -> None:
        limit = len(seen) + count
        while len(seen) < limit and thread.is_alive():
            stop.wait(0.01)

    thread = threading.Thread(target=ask_on)
    thread.start()
    try:
        after(5)
        for _time in range(2):
            with team_scope(team.pk):
                canaries.set_canary(version=second, actor=actor, share=50)
            load_placements(node)
            known_targets._canaries.clear()
            after(20)
            with team_scope(team.pk):
                canaries.take_back(deployment=deployed.deployment, actor=actor)
            after(5)
        with team_scope(team.pk):
            canaries.set_canary(version=second, actor=actor, share=50)
        after(10)
        with team_scope(team.pk):
            services.promote_version(version=second, actor=actor)
        after(5)
    finally:
        stop.set()
        thread.join()
    assert {status for status, _version in seen} == {200}
    versions = Counter(version for _status, version in seen)
    assert set(versions) == {"demo-triage@v1", "demo-triage@v2"}
    assert seen[-1][1] == "demo-triage@v2"


# --- figures, page, API ------------------------------------------------------------------------------------------


def test_both_versions_are_counted_side_by_side_since_it_began(team, canary, deployed):
    with team_scope(team.pk):
        for version, status, duration, model in (
            (deployed, 200, 100, "demo-triage"), (deployed, 200, 300, "demo-triage"), (deployed, 499, 9, "demo-triage"),
            (canary, 200, 500, "demo-triage"), (canary, 503, 1, "demo-triage"), (canary, 200, 9, "demo-triage@v2"),
        ):  # fmt: skip
            row = InferenceRecord(team=team, version=version, model=model, status=status, duration_ms=duration)
            row.save()
        LoggedText(
            team=team, record=InferenceRecord.unscoped.filter(version=canary, status=200, duration_ms=500).get(),
            deployment=deployed.deployment, kept_until=row.at, messages=[], correction="{}",
        ).save()  # fmt: skip
        live, tried = traffic.side_by_side(of(deployed.deployment))
    assert (live.version, live.share, live.requests, live.errors, live.corrections) == (deployed, 50, 3, 0, 0)
    assert (live.median_s, live.slow_s) == (0.2, pytest.approx(0.29))
    assert (tried.version, tried.share, tried.requests, tried.errors, tried.corrections) == (canary, 50, 2, 1, 1)
    assert tried.median_s == 0.5


def test_the_api_starts_shows_changes_and_takes_back(team, api, second, node, load_placements):
    url = f"/api/deployments/{second.deployment_id}/canary/"

    def put(**body: object):
        return api.put(url, json.dumps(body), "application/json")

    none = {"version": None, "share": None, "since": None, "state": None, "error": "", "sides": []}
    assert api.get(url).json() == none
    started = put(version=2, share=10, reason="A trial").json()
    assert (started["canary_version"]["number"], started["canary_share"]) == (2, 10)
    assert put(version=2, share=25).json()["canary_share"] == 25
    load_placements(node)
    shown = api.get(url).json()
    assert (shown["version"], shown["share"], shown["state"]) == (2, 25, "ready")
    assert [(side["version"], side["share"], side["requests"]) for side in shown["sides"]] == [(1, 75, 0), (2, 25, 0)]
    for body, status in (({"version": 9, "share": 10}, 404), ({"version": 2, "share": 51}, 400), ({"share": 5}, 400),
                         ({"version": 1, "share": 5}, 409)):  # fmt: skip
        assert put(**body).status_code == status
    assert api.delete(url).json()["canary_version"] is None
    assert api.delete(url).status_code == 200
    assert api.get(url).json() == none


def test_the_pages_start_show_change_and_take_back_without_javascript(team, alice, bob, second, client_for):
    browser, page = client_for(alice), f"/t/{team.slug}/deployments/{second.deployment_id}/"
    address = f"/t/{team.slug}/deployment-versions/{second.pk}/canary/"
    assert address in browser.get(page).content.decode()
    assert "Try version 2" in browser.get(address).content.decode()
    assert browser.post(address, {"share": "0"}).status_code == 400
    assert browser.post(address, {"share": "10", "reason": "A trial"}).status_code == 302
    shown = browser.get(page).content.decode()
    for words in ("Canary: version 2 with 10% of the requests", "A trial", "90%", "Take back", "Change share"):
        assert words in shown
    assert browser.post(address, {"share": "20"}).status_code == 302
    viewed = client_for(bob).get(page).content.decode()
    assert "20% of the requests" in viewed
    assert "Take back" not in viewed
    assert browser.get(f"{page}canary/end/").status_code == 200
    assert browser.post(f"{page}canary/end/").status_code == 302
    assert "Canary: version" not in browser.get(page).content.decode()
