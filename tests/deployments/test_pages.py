"""Pages of deployments: what they show, who may act, and what acting does."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from deployments import lifecycle, services, traffic
from portal.rls import team_scope


def page(team, deployed, name: str = "detail") -> str:
    return f"/t/{team.slug}/deployments/{deployed.deployment_id}/" + ("" if name == "detail" else f"{name}/")


def texts(response) -> str:
    body = re.sub(r"<(script|template)\b.*?</\1>", "", response.content.decode(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_empty_list_says_what_to_do_next(team, client_for, alice, bob, make_run):
    url = f"/t/{team.slug}/deployments/"
    assert "Start with an experiment" in texts(client_for(alice).get(url))
    assert "When an editor of the team deploys a run" in texts(client_for(bob).get(url))
    make_run(team)
    assert "Deploy a run" in texts(client_for(alice).get(url))


def test_the_list_and_the_page_show_how_it_stands_and_how_to_call_it(team, client_for, bob, deployed):
    browser = client_for(bob)
    listed = texts(browser.get(f"/t/{team.slug}/deployments/"))
    assert "demo-triage Ready version 1 First try #1" in listed
    body = browser.get(page(team, deployed)).content.decode()
    assert "http://testserver/v1/chat/completions" in body
    assert "base_url=&quot;http://testserver/v1&quot;" in body or 'base_url="http://testserver/v1"' in body
    assert "model=&quot;demo-triage&quot;" in body or 'model="demo-triage"' in body
    assert "$TUNEPORT_TOKEN" in body
    assert "Turn the ticket into JSON." in body
    assert deployed.adapter.engine_name not in body
    assert 'hx-trigger="every 1s"' not in body, "nothing changes by itself, so nothing is polled"
    assert "Roll back" not in body
    assert "/stop/" not in body, "Bob is a viewer"


def test_deploying_from_a_runs_page(team, client_for, alice, run, node):
    browser = client_for(alice)
    url = f"/t/{team.slug}/deployments/new/"
    response = browser.post(url, {"run": run.pk, "name": "my-model"})
    with team_scope(team.pk):
        deployment = team.deployments.get(name="my-model")
        assert deployment.next_version.system_prompt == "Turn the ticket into JSON.", "the dialog has no such field"
    assert response.headers["Location"] == f"/t/{team.slug}/deployments/{deployment.pk}/"
    assert "is being loaded" in texts(browser.get(response.headers["Location"]))
    refused = browser.post(url, {"run": run.pk, "name": "not a name"})
    assert refused.status_code == 400
    assert "such as demo-triage" in texts(refused)
    with_prompt = {"run": run.pk, "name": "other", "system_prompt": "Be\r\nbrief."}
    browser.post(url, with_prompt)
    with team_scope(team.pk):
        assert team.deployments.get(name="other").next_version.system_prompt == "Be\nbrief."


def test_the_form_offers_only_own_finished_runs_and_knows_the_prompt(
    team, other_team, client_for, alice, run, make_run, node
):
    unfinished, theirs = make_run(team, "Busy", with_adapter=False), make_run(other_team, "Theirs")
    browser = client_for(alice)
    body = browser.get(f"/t/{team.slug}/deployments/new/?run={run.pk}").content.decode()
    assert f'value="{run.pk}" selected' in body
    assert "Turn the ticket into JSON." in body
    for other in (unfinished, theirs):
        assert str(other.pk) not in body
        assert browser.post(f"/t/{team.slug}/deployments/new/", {"run": other.pk, "name": "x"}).status_code == 400
        assert browser.get(f"/t/{team.slug}/deployments/new/?run={other.pk}").status_code == 200
    assert browser.get(f"/t/{team.slug}/deployments/new/?run=nonsense").status_code == 200


def test_promoting_and_rolling_back(team, actor, client_for, alice, deployed, make_run, node, load_placements):
    with team_scope(team.pk):
        second = services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo-triage")
    browser = client_for(alice)
    body = browser.get(page(team, deployed)).content.decode()
    assert "Version 2 is being loaded. Version 1 answers until then; no request is lost." in body
    assert "/state/" in body
    assert browser.get(page(team, deployed, "state")).status_code == 200
    load_placements(node)
    settled = browser.get(page(team, deployed, "state"))
    assert settled.status_code == 286
    assert "Roll back to it" in settled.content.decode()
    browser.post(f"/t/{team.slug}/deployment-versions/{deployed.pk}/promote/")
    with team_scope(team.pk):
        assert team.deployments.get().live_version == deployed
    browser.post(f"/t/{team.slug}/deployment-versions/{second.pk}/promote/")
    with team_scope(team.pk):
        assert team.deployments.get().live_version == second


def test_a_version_that_cannot_be_loaded_is_explained_and_the_old_one_stays(
    team, actor, client_for, alice, deployed, make_run
):
    with team_scope(team.pk):
        second = services.deploy_run(team=team, actor=actor, run=make_run(team, "Second"), name="demo-triage")
        placement = second.adapter.placements.get()
    lifecycle.placement_failed(placement.pk, "The adapter's files are missing on this node.")
    shown = client_for(alice).get(page(team, deployed, "state"))
    assert shown.status_code == 286
    assert "files are missing" in texts(shown)
    assert "Version 1 goes on answering" in texts(shown)


def test_stopping_starting_and_deleting(team, client_for, alice, deployed):
    browser = client_for(alice)
    assert "Stop demo-triage?" in texts(browser.get(page(team, deployed, "stop")))
    browser.post(page(team, deployed, "stop"))
    assert "This deployment is stopped" in texts(browser.get(page(team, deployed)))
    browser.post(page(team, deployed, "start"))
    with team_scope(team.pk):
        assert team.deployments.get().is_running
    assert "Delete demo-triage?" in texts(browser.get(page(team, deployed, "delete")))
    assert browser.post(page(team, deployed, "delete")).headers["Location"] == f"/t/{team.slug}/deployments/"
    with team_scope(team.pk):
        assert not team.deployments.exists()


@pytest.mark.parametrize("action", ["stop", "start", "delete", "promote", "deploy"])
def test_a_viewer_may_not_act_and_a_stranger_sees_nothing(action, team, client_for, bob, charlie, deployed):
    urls = {
        "promote": f"/t/{team.slug}/deployment-versions/{deployed.pk}/promote/",
        "deploy": f"/t/{team.slug}/deployments/new/",
    }
    url = urls.get(action, page(team, deployed, action))
    assert client_for(bob).post(url).status_code == 403
    assert client_for(charlie).post(url).status_code == 404


def test_another_teams_deployment_and_none_at_all_answer_the_same_bytes(
    team, other_team, client_for, charlie, deployed, run
):
    browser = client_for(charlie)
    base = f"/t/{other_team.slug}"
    for path in ("/deployments/{}/", "/deployments/{}/state/", "/deployments/{}/stop/", "/deployments/{}/delete/"):
        theirs = browser.get(base + path.format(deployed.deployment_id))
        nobody = browser.get(base + path.format(run.pk))
        assert theirs.status_code == nobody.status_code == 404
        assert without_request_id(theirs) == without_request_id(nobody)
    assert browser.post(f"{base}/deployment-versions/{deployed.pk}/promote/").status_code == 404


def without_request_id(response) -> bytes:
    return response.content.replace(response["x-request-id"].encode(), b"")


def test_traffic_counts_the_last_day_by_hour(team, deployed, scoped):
    now = timezone.now()
    facts = {"version": deployed, "model": "demo-triage", "prompt_tokens": 10, "completion_tokens": 5}
    for age_h, status, duration_ms in (
        (0, 200, 100),
        (0, 200, 300),
        (0, 503, 2000),
        (2, 200, 800),
        (2, 499, 5),
        (30, 200, 1),
    ):
        at = now - timedelta(hours=age_h)
        team.inferencerecords.create(**facts, at=at, status=status, duration_ms=duration_ms)
    seen = traffic.last_day(deployed.deployment)
    assert (seen.requests, seen.errors, seen.tokens, seen.median_s) == (5, 1, 75, 0.3)
    assert (len(seen.requests_by_hour), seen.requests_by_hour[-1], seen.requests_by_hour[-3]) == (24, 3, 2)
    assert seen.errors_by_hour[-1] == 1
    assert (seen.median_s_by_hour[-1], seen.median_s_by_hour[-2]) == (0.2, None)
