"""Texts of requests: kept only where wanted, read, corrected, turned into rows, and deleted in time."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta

import pytest
from django.utils import timezone

from datasets_app.models import DatasetVersion
from deployments import inference, known_targets, request_log, services, tasks
from deployments.inference import Caller
from deployments.models import InferenceRecord, LoggedText
from portal.errors import IllegalTransition, InvalidInput
from portal.models import AuditEvent
from portal.rls import all_teams, team_scope
from tests.deployments.conftest import SYSTEM

BODY = {"model": "demo-triage", "messages": [{"role": "user", "content": "VPN is down"}]}


@pytest.fixture(autouse=True)
def _nothing_known():
    known_targets._versions.clear()


def keep(team, actor, deployed, *, days=30, on=True):
    with team_scope(team.pk):
        return request_log.set_log(deployment=deployed.deployment, actor=actor, logs_text=on, days=days)


def ask(team, content="VPN is down", **more) -> None:
    body = {**BODY, "messages": [{"role": "user", "content": content}], **more}
    target = inference.resolve(team, "demo-triage")
    inference.complete(inference.admit(target, body, Caller(team=team, request_id="req_1")))


def texts() -> list[LoggedText]:
    with all_teams("test"):
        return list(LoggedText.unscoped.select_related("record", "deployment").order_by("record_id"))


def test_nothing_is_kept_unless_the_team_wants_it(team, deployed):
    ask(team)
    with all_teams("test"):
        assert InferenceRecord.unscoped.count() == 1
    assert texts() == []


def test_what_the_model_got_and_answered_is_kept_with_the_count(team, actor, deployed):
    keep(team, actor, deployed, days=7)
    ask(team)
    (text,) = texts()
    assert text.messages == [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "VPN is down"}]
    assert text.answer == f"{deployed.adapter.engine_name} heard: VPN is down"
    assert (text.record.version_id, text.record.request_id) == (deployed.pk, "req_1")
    assert text.kept_until - text.at == timedelta(days=7)
    keep(team, actor, deployed, on=False)
    ask(team)
    assert len(texts()) == 1


def test_streams_are_kept_as_well(team, actor, deployed):
    keep(team, actor, deployed)
    target = inference.resolve(team, "demo-triage")
    stream = inference.stream(inference.admit(target, {**BODY, "stream": True}, Caller(team=team, request_id="req_2")))
    list(stream)
    stream.close()
    assert texts()[0].answer.strip() == f"{deployed.adapter.engine_name} heard: VPN is down"


def test_texts_that_cannot_be_stored_and_endless_ones_do_no_harm(team, actor, deployed):
    keep(team, actor, deployed)
    ask(team, "a\0bc")
    ask(team, "x" * (request_log.MOST_CHARACTERS + 1))
    assert [text.messages[-1]["content"] for text in texts()] == ["abc"]
    with all_teams("test"):
        assert InferenceRecord.unscoped.count() == 2


def test_texts_are_deleted_when_their_days_are_over_and_counts_stay(team, actor, deployed):
    keep(team, actor, deployed)
    for _number in range(2):
        ask(team)
    with all_teams("test"):
        first = LoggedText.unscoped.order_by("record_id").first()
        LoggedText.unscoped.filter(pk=first.pk).update(at=timezone.now() - timedelta(days=10))
    assert tasks.prune() == 0
    keep(team, actor, deployed, days=9)  # fewer days hold for older texts, too
    assert tasks.prune() == 1
    assert len(texts()) == 1
    with all_teams("test"):
        assert InferenceRecord.unscoped.count() == 2


@pytest.mark.parametrize("days", [0, 366])
def test_days_have_bounds(team, actor, deployed, days):
    with pytest.raises(InvalidInput):
        keep(team, actor, deployed, days=days)


def test_a_corrected_ticket_is_a_row_of_the_next_dataset_version(team, actor, deployed, run, work_in_process):
    keep(team, actor, deployed)
    for content in ("VPN is down", "Printer on fire", "Unread"):
        ask(team, content)
    vpn, printer, _unread = texts()
    with team_scope(team.pk):
        DatasetVersion.unscoped.filter(pk=run.dataset_version_id).update(mapping={"json_answers": True})
        with pytest.raises(InvalidInput, match="JSON"):
            request_log.correct(text=vpn, actor=actor, correction="Network, please")
        request_log.correct(text=vpn, actor=actor, correction=json.dumps({"queue": "network"}))
        request_log.correct(text=printer, actor=actor, correction=json.dumps({"queue": "print"}))
        request_log.correct(text=printer, actor=actor, correction="")
        DatasetVersion.unscoped.filter(pk=run.dataset_version_id).update(mapping={})
        derived = request_log.take_corrections(deployment=deployed.deployment, actor=actor)
        assert (derived.number, derived.parent_id) == (2, run.dataset_version_id)
        (change,) = derived.changes
        (row,) = change["rows"]
        assert (row["prompt"], row["answer"], row["system"]) == ("VPN is down", '{"queue": "network"}', SYSTEM)
        assert row["split"] == "train"
        assert row["id"] > 3, "a number that no row has had"
        with pytest.raises(InvalidInput, match="No correction waits"):
            request_log.take_corrections(deployment=deployed.deployment, actor=actor)
        with pytest.raises(IllegalTransition, match="already"):
            request_log.correct(text=vpn, actor=actor, correction="{}")
        assert AuditEvent.objects.filter(action="deployment.corrections_taken").get().detail["rows"] == 1


def test_a_conversation_of_several_turns_waits(team, actor, deployed):
    keep(team, actor, deployed)
    turns = [
        {"role": "user", "content": "VPN"},
        {"role": "assistant", "content": "Which?"},
        {"role": "user", "content": "Home"},
    ]
    ask(team, messages=turns)
    with team_scope(team.pk):
        request_log.correct(text=texts()[0], actor=actor, correction="{}")
        with pytest.raises(InvalidInput, match="one answer"):
            request_log.take_corrections(deployment=deployed.deployment, actor=actor)


def test_the_pages_list_show_correct_and_delete(team, actor, alice, bob, client_for, deployed):
    keep(team, actor, deployed)
    ask(team)
    (text,) = texts()
    base = f"/t/{team.slug}/deployments/{deployed.deployment_id}/log/"
    viewer, editor = client_for(bob), client_for(alice)
    assert "No corrections yet" in viewer.get(base + "?only=corrected").content.decode()
    assert "heard: VPN is down" in viewer.get(base).content.decode()
    one = f"{base}{text.record_id}/"
    assert "Keep correction" not in viewer.get(one).content.decode()
    assert viewer.post(one, {"correction": "{}"}).status_code == 404
    assert "Keep correction" in editor.get(one).content.decode()
    assert editor.post(one, {"correction": '{"queue": "network"}'}).status_code == 302
    body = editor.get(base + "?only=corrected").content.decode()
    assert "Add 1 correction to the dataset" in body
    assert "network" in body
    taken = editor.post(base + "take/")
    assert taken.status_code == 302
    assert "/datasets/" in taken.headers["Location"]
    assert "is a row of" in editor.get(one).content.decode()
    with all_teams("test"):
        assert AuditEvent.objects.filter(action="request.texts_read").exists()
    assert editor.post(base + "delete/").status_code == 302
    assert texts() == []
    assert "not kept" in viewer.get(base).content.decode()
    assert "Of this request only counts" in viewer.get(one).content.decode()


def test_the_settings_page_switches_it_on(team, alice, client_for, deployed):
    url = f"/t/{team.slug}/deployments/{deployed.deployment_id}/log/settings/"
    browser = client_for(alice)
    assert browser.get(url).status_code == 200
    assert browser.post(url, {"logs_text": "on", "log_days": "400"}).status_code == 400
    assert browser.post(url, {"logs_text": "on", "log_days": "14"}).status_code == 302
    with team_scope(team.pk):
        deployment = team.deployments.get()
    assert (deployment.logs_text, deployment.log_days) == (True, 14)


def test_the_charts_have_an_hour_or_a_day_for_each_point(team, bob, client_for, deployed):
    with team_scope(team.pk):
        for status, duration in ((200, 100), (200, 300), (503, 5), (499, 9)):
            InferenceRecord(
                team=team, version=deployed, model="x", status=status, duration_ms=duration, prompt_tokens=3
            ).save()
    url = f"/t/{team.slug}/deployments/{deployed.deployment_id}/traffic/"
    browser = client_for(bob)
    for days, count in (("1", 24), ("7", 168), ("30", 30), ("nonsense", 24)):
        answer = browser.get(url, {"days": days}).json()
        assert answer["done"] is True
        assert len(answer["points"]) == count
        last = answer["points"][-1]
        assert (last["requests"], last["errors"], last["median_s"], last["prompt_tokens"]) == (4, 1, 0.2, 12), days
        assert answer["points"][0]["median_s"] is None
        steps = [point["step"] for point in answer["points"]]
        assert len({after - before for before, after in itertools.pairwise(steps)}) == 1


def test_deleting_a_deployment_deletes_its_texts(team, actor, deployed):
    keep(team, actor, deployed)
    ask(team)
    with team_scope(team.pk):
        services.delete_deployment(deployment=team.deployments.get(), actor=actor)
    assert texts() == []
    with all_teams("test"):
        assert InferenceRecord.unscoped.count() == 1
