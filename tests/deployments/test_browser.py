"""Deployments and playground in a real browser: fit, policy, streaming, stopping, samples, switching models."""

from __future__ import annotations

import re

import pytest

from deployments import canaries, services
from deployments.models import InferenceRecord
from portal.rls import all_teams, team_scope
from tests.browser import fits
from tests.deployments.conftest import SYSTEM, wait_for

sync_api = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_pages_fit_and_break_no_policy(open_page, team, actor, deployed, run, make_run, load_placements, node):
    with team_scope(team.pk):
        version = services.deploy_run(team=team, actor=actor, run=make_run(team, "A better one"), name="demo-triage")
        third = team.deploymentversions.create(deployment=version.deployment, number=3, adapter=version.adapter)
    load_placements(node)
    with team_scope(team.pk):
        canaries.set_canary(version=third, actor=actor, share=10)
    base = f"/t/{team.slug}"
    for name, path in {
        "list": "/deployments/",
        "detail": f"/deployments/{deployed.deployment_id}/",
        "canary": f"/deployment-versions/{third.pk}/canary/",
        "deploy": f"/deployments/new/?run={run.pk}",
        "stop": f"/deployments/{deployed.deployment_id}/stop/",
        "playground": f"/playground/?run={run.pk}",
    }.items():
        fits(open_page(base + path), name)


def test_a_validation_row_is_asked_and_compared(open_page, team, deployed, run, base_model):
    page = open_page(f"/t/{team.slug}/playground/?run={run.pk}")
    assert page.locator("#chat-system").input_value() == SYSTEM
    page.select_option("select[name=compare]", "base:tiny")
    page.click("[data-chat-sample]")
    sync_api.expect(page.locator("textarea[name=prompt]")).to_have_value(re.compile("^validation ticket"))
    page.click("[data-chat-send]")
    page.wait_for_selector(".chat-answers .bubble:nth-child(1) [data-meta]:not(:empty)")
    page.wait_for_selector(".chat-answers .bubble:nth-child(2) [data-meta]:not(:empty)")
    answers = page.locator(".chat-answers [data-text]").all_inner_texts()
    assert "heard: validation ticket" in answers[0]
    assert answers[1].startswith("tiny heard: validation ticket")
    assert "queue" in answers[2]
    assert page.complaints == []


def test_stop_ends_the_generation(open_page, team, deployed, engine):
    page = open_page(f"/t/{team.slug}/playground/?deployment=demo-triage")
    page.fill("textarea[name=prompt]", "#forever")
    page.click("[data-chat-send]")
    sync_api.expect(page.locator(".chat-answers [data-text]")).to_contain_text("heard")
    page.click("[data-chat-stop]")
    page.wait_for_selector("[data-chat-send]:visible")

    def statuses() -> list[int]:
        with all_teams("test reads counts"):
            return [record.status for record in InferenceRecord.unscoped.all()]

    assert wait_for(lambda: statuses() == [499])
    assert wait_for(lambda: engine.hang_ups == 1)


def test_another_model_brings_its_own_system_prompt_and_is_loaded(
    open_page, team, deployed, make_run, node, load_placements
):
    second = make_run(team, "Second")
    page = open_page(f"/t/{team.slug}/playground/?model=base:tiny")
    assert page.locator("#chat-system").input_value() == ""
    page.select_option("select[name=model]", f"run:{second.pk}")
    page.wait_for_selector("#readiness .notice")
    assert page.locator("#chat-system").input_value() == SYSTEM
    load_placements(node)
    page.wait_for_selector("#readiness .notice", state="detached")
    page.fill("textarea[name=prompt]", "hello")
    page.click("[data-chat-send]")
    page.wait_for_selector(".chat-answers [data-meta]:not(:empty)")
    assert "heard: hello" in page.locator(".chat-answers [data-text]").inner_text()


def test_a_waiting_promotion_finishes_before_ones_eyes(
    open_page, team, actor, deployed, make_run, node, load_placements
):
    with team_scope(team.pk):
        services.deploy_run(team=team, actor=actor, run=make_run(team, "A better one"), name="demo-triage")
    page = open_page(f"/t/{team.slug}/deployments/{deployed.deployment_id}/")
    page.wait_for_selector("text=A new version is on its way")
    load_placements(node)
    page.wait_for_selector("text=Roll back to it")
    page.click("text=Roll back to it")
    page.fill("input[name=reason]", "Complaints")
    page.click("button:has-text('Roll back')")
    page.wait_for_selector("text=Version 1 answers now.")
