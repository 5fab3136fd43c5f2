"""The gate: which versions may take over a name, what it says, and who may override it."""

from __future__ import annotations

import pytest

from deployments import gate, policies, services
from deployments.models import InferenceRecord
from portal.actors import Actor
from portal.errors import Forbidden, InvalidInput
from portal.models import AuditEvent, Role
from portal.rls import team_scope
from tests.deployments.figures import evaluate

GOOD = {"hardware": 0.95, "software": 0.9}


@pytest.fixture
def candidate(team, make_run):
    """A function that makes the run of a second version with figures of its own."""

    def make(**figures):
        run = make_run(team, "Second")
        with team_scope(team.pk):
            evaluate(run, **figures)
        return run

    return make


@pytest.fixture
def live(team, deployed, run):
    with team_scope(team.pk):
        evaluate(run, recalls=GOOD)
    return deployed


def add(team, actor, run):
    with team_scope(team.pk):
        version = services.deploy_run(team=team, actor=actor, run=run, name="demo-triage")
        return version, team.deployments.get(name="demo-triage")


def failing(deployment, version) -> list[str]:
    return [rule.code for rule in gate.judge(deployment, version).failed]


@pytest.mark.parametrize(
    ("figures", "codes"),
    [
        ({"recalls": GOOD}, []),
        ({"recalls": GOOD, "f1": 0.885}, []),
        ({"recalls": GOOD, "f1": 0.87}, ["max_f1_drop"]),
        ({"recalls": {"hardware": 0.95, "software": 0.75}}, ["max_recall_drop"]),
        ({"recalls": {"hardware": 0.8, "software": 0.75}}, ["max_recall_drop"] * 2),
        ({"recalls": {"hardware": 0.95}}, ["max_recall_drop"]),
        ({"recalls": {}}, ["max_recall_drop"] * 2),
        ({"recalls": GOOD, "rows_say": "Something else."}, ["needs_same_rows"]),
        ({"recalls": GOOD, "json_valid": 0.99}, ["max_invalid_json"]),
        ({"recalls": GOOD, "f1": 0.5, "json_valid": 0.5}, ["max_invalid_json", "max_f1_drop"]),
    ],
)
def test_a_version_is_held_back_by_the_rules_that_it_breaks(team, actor, live, node, candidate, figures, codes):
    version, deployment = add(team, actor, candidate(**figures))
    with team_scope(team.pk):
        assert failing(deployment, version) == codes
        assert deployment.live_version_id == live.pk
        assert deployment.next_version_id == (None if codes else version.pk)
        held = AuditEvent.objects.filter(action="deployment.held_back")
        assert held.count() == bool(codes)


def test_both_figures_are_shown_with_the_bound(team, actor, live, node, candidate):
    version, deployment = add(team, actor, candidate(recalls={"hardware": 0.95, "software": 0.5}))
    with team_scope(team.pk):
        (rule,) = gate.judge(deployment, version).failed
    assert (rule.candidate, rule.live, rule.bound) == ("50.0%", "90.0%", "at least 80.0%")
    assert rule.label == "Recall of queue = software"


def test_a_class_that_is_lost_altogether_has_recall_0(team, actor, live, node, candidate):
    version, deployment = add(team, actor, candidate(recalls={"software": 0.95}))
    with team_scope(team.pk):
        (rule,) = gate.judge(deployment, version).failed
    assert (rule.label, rule.candidate, rule.live) == ("Recall of queue = hardware", "0.0%", "95.0%")


def test_figures_of_other_rows_need_an_admin_unless_the_team_does_not_mind(team, actor, live, node, candidate):
    version, deployment = add(team, actor, candidate(recalls=GOOD, rows_say="Something else."))
    with team_scope(team.pk):
        assert not gate.judge(deployment, version).is_same_rows
        with pytest.raises(gate.HeldBack, match="Measured on the same held-out rows: other rows"):
            services.promote_version(version=version, actor=actor)
        policies.set_policy(team=team, actor=actor, is_on=True, shares={}, max_median_ms=None, needs_same_rows=False)
        judgement = gate.judge(deployment, version)
        assert (judgement.has_passed, judgement.is_same_rows) == (True, False)


def test_a_class_with_few_rows_holds_nothing_back(team, actor, live, run, node, candidate):
    with team_scope(team.pk):
        run.evaluation.delete()
        evaluate(run, recalls=GOOD, support=9)
    version, deployment = add(team, actor, candidate(recalls={"hardware": 0.1, "software": 0.1}, support=9))
    with team_scope(team.pk):
        assert failing(deployment, version) == []


BAD = {"hardware": 0.5, "software": 0.9}


# without classes of its own: a report of an earlier release
@pytest.mark.parametrize(
    ("free", "bound", "codes"), [(GOOD, None, []), (BAD, GOOD, []), (GOOD, BAD, ["max_recall_drop"])]
)
def test_a_version_bound_to_a_schema_is_judged_by_bound_answers(team, actor, live, node, candidate, free, bound, codes):
    run = candidate(recalls=free, json_valid=0.8, constrained_valid=1.0, constrained_recalls=bound)
    with team_scope(team.pk):
        schema = {"type": "object", "properties": {}}
        version = services.deploy_run(team=team, actor=actor, run=run, name="demo-triage", response_schema=schema)
        assert failing(team.deployments.get(), version) == codes


def test_a_version_without_an_evaluation_cannot_replace_one_that_has_one(team, actor, live, node, make_run):
    version, deployment = add(team, actor, make_run(team, "Second"))
    with team_scope(team.pk):
        (rule,) = gate.judge(deployment, version).failed
        # a figure among words says what it is of
        assert (rule.code, rule.candidate, rule.live) == ("evaluated", "none", "Macro-F1 90.0%")


def test_the_first_version_keeps_only_minimums_that_the_team_has_set(team, actor, run, make_run, node, scoped):
    evaluate(run, f1=0.5, json_valid=0.5)
    version = services.deploy_run(team=team, actor=actor, run=run, name="one")
    assert version.deployment.next_version_id == version.pk or team.deployments.get().next_version_id == version.pk
    policies.set_policy(team=team, actor=actor, is_on=True, shares={"min_macro_f1": 0.6}, max_median_ms=None)
    version = services.deploy_run(team=team, actor=actor, run=run, name="two")
    assert failing(team.deployments.get(name="two"), version) == ["min_macro_f1"]
    policies.set_policy(team=team, actor=actor, is_on=False, shares={"min_macro_f1": 0.6}, max_median_ms=None)
    assert failing(team.deployments.get(name="two"), version) == []


def test_the_time_of_answers_needs_requests_to_the_version_itself(team, actor, live, node, candidate):
    with team_scope(team.pk):
        policies.set_policy(team=team, actor=actor, is_on=True, shares={}, max_median_ms=100)
    version, deployment = add(team, actor, candidate(recalls=GOOD))
    with team_scope(team.pk):
        (rule,) = gate.judge(deployment, version).failed
        assert rule.candidate == "0 of 20 requests to demo-triage@v2"
        for duration in [90] * 15 + [400] * 5:
            InferenceRecord(team=team, version=version, model="x", status=200, duration_ms=duration).save()
        assert failing(deployment, version) == []
        for _ in range(30):
            InferenceRecord(team=team, version=version, model="x", status=200, duration_ms=400).save()
        (rule,) = gate.judge(deployment, version).failed
        assert (rule.code, rule.candidate) == ("max_median_ms", "400 ms")


def test_times_are_compared_with_those_of_the_live_version_if_the_team_asks(team, actor, live, node, candidate):
    def answer(version, duration, count):
        for _ in range(count):
            InferenceRecord(team=team, version=version, model="x", status=200, duration_ms=duration).save()

    with team_scope(team.pk):
        policies.set_policy(team=team, actor=actor, is_on=True, shares={"max_median_rise": 0.5}, max_median_ms=None)
    version, deployment = add(team, actor, candidate(recalls=GOOD))
    with team_scope(team.pk):
        answer(live, 100, 19)
        assert failing(deployment, version) == [], "too few to compare with"
        answer(live, 100, 1)
        (rule,) = gate.judge(deployment, version).failed
        assert (rule.code, rule.awaits_requests) == ("max_median_rise", True)
        answer(version, 150, 20)
        assert failing(deployment, version) == []
        answer(version, 160, 30)
        (rule,) = gate.judge(deployment, version).failed
        assert (rule.candidate, rule.live, rule.bound) == ("160 ms", "100 ms", "at most 150 ms")


def test_only_an_admin_with_a_reason_overrides_and_it_is_written_down(team, actor, bob, live, node, candidate):
    version, deployment = add(team, actor, candidate(recalls=GOOD, f1=0.3))
    with team_scope(team.pk):
        with pytest.raises(gate.HeldBack, match=r"30\.0%.*90\.0%.*88\.0%"):
            services.promote_version(version=version, actor=actor)
        with pytest.raises(InvalidInput, match="Say why"):
            services.promote_version(version=version, actor=actor, override=True, reason="  ")
        team.memberships.filter(user=bob).update(role=Role.EDITOR)
        with pytest.raises(Forbidden):
            services.promote_version(version=version, actor=Actor(user=bob), override=True, reason="please")
        with pytest.raises(Forbidden):
            services.promote_version(version=version, actor=Actor.system("x"), override=True, reason="please")
        services.promote_version(version=version, actor=actor, override=True, reason="The test rows were wrong.")
        deployment.refresh_from_db()
        assert deployment.next_version_id == version.pk
        event = AuditEvent.objects.get(action="deployment.gate_overridden")
        assert event.detail == {"version": 2, "reason": "The test rows were wrong.", "rules": "max_f1_drop"}
        told = deployment.events.get(action="deployment.gate_overridden")
        assert (told.person, told.reason) == (actor.user, "The test rows were wrong.")


def test_rolling_back_is_never_held_back(team, actor, live, node, candidate, load_placements):
    version, deployment = add(team, actor, candidate(recalls={"hardware": 1.0, "software": 1.0}, f1=0.99))
    load_placements(node)
    with team_scope(team.pk):
        deployment.refresh_from_db()
        assert deployment.live_version_id == version.pk
        assert services.promote_version(version=live, actor=actor, reason="Complaints").live_version_id == live.pk
        assert deployment.events.first().reason == "Complaints"


def test_only_admins_change_the_rules(team, actor, bob, scoped):
    with pytest.raises(Forbidden):
        policies.set_policy(team=team, actor=Actor(user=bob), is_on=False, shares={}, max_median_ms=None)
    with pytest.raises(InvalidInput):
        policies.set_policy(team=team, actor=actor, is_on=True, shares={"max_f1_drop": 1.5}, max_median_ms=None)
    assert not team.promotionpolicys.exists()


def test_the_page_shows_the_broken_rule_and_lets_an_admin_override(team, actor, alice, bob, client_for, live, node,
                                                                    candidate):  # fmt: skip
    version, _deployment = add(team, actor, candidate(recalls=GOOD, f1=0.3))
    url = f"/t/{team.slug}/deployment-versions/{version.pk}/promote/"
    admin, editor = client_for(alice), client_for(bob)
    with team_scope(team.pk):
        team.memberships.filter(user=bob).update(role=Role.EDITOR)
    shown = editor.get(url).content.decode()
    assert "30.0%" in shown
    assert "90.0%" in shown
    assert "An admin of the team may let it answer" in shown
    assert 'name="override"' not in shown
    refused = editor.post(url, {"override": "on", "reason": "I want it"})
    assert refused.status_code == 409
    assert admin.post(url, {"override": "on"}).status_code == 400
    assert admin.post(url, {"override": "on", "reason": "The test rows were wrong."}).status_code == 302
    with team_scope(team.pk):
        assert team.deployments.get().next_version_id == version.pk


def test_the_rules_page_saves_percentages(team, alice, client_for):
    url = f"/t/{team.slug}/deployments/rules/"
    browser = client_for(alice)
    assert 'value="2.0"' in browser.get(url).content.decode()
    shown = browser.get(url).content.decode()
    for default in ("Default: 2%.", "Default: 10%.", "Default: 0%.", "Not asked by default.", "On by default."):
        assert default in shown
    typed = {"is_on": "on", "max_f1_drop": "1.5", "max_invalid_json": "0", "max_median_ms": "900"}
    saved = browser.post(url, {**typed, "needs_same_rows": "on", "max_median_rise": "50"})
    assert saved.status_code == 302
    with team_scope(team.pk):
        policy = team.promotionpolicys.get()
    assert (policy.max_f1_drop, policy.max_invalid_json, policy.max_recall_drop) == (0.015, 0.0, None)
    assert (policy.is_on, policy.max_median_ms, policy.min_macro_f1) == (True, 900, None)
    assert (policy.needs_same_rows, policy.max_median_rise) == (True, 0.5)
    assert browser.post(url, {"max_f1_drop": "150"}).status_code == 400


def test_the_api_refuses_with_the_figures_and_overrides_with_a_reason(team, actor, api, live, node, candidate):
    _version, deployment = add(team, actor, candidate(recalls=GOOD, f1=0.3))
    url = f"/api/deployments/{deployment.pk}/promote/"
    refused = api.post(url, {"version": 2}, content_type="application/json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "held_back_by_gate")
    assert "30.0%" in refused.json()["error"]["message"]
    body = {"version": 2, "override": True, "reason": "Known to be better in the field"}
    assert api.post(url, body, content_type="application/json").json()["next_version"]["number"] == 2
