"""The pages of versions, rules, sleep, request log, exports and webhooks as people see them."""

from __future__ import annotations

import json
import uuid

import pytest
from django.utils import timezone

from deployments import request_log, services
from deployments.models import InferenceRecord, LoggedText
from deployments.webhooks import services as webhooks
from deployments.webhooks.models import EVENT_TYPES
from portal.rls import team_scope
from tests.browser import fits
from tests.deployments.figures import calibrate, evaluate

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def busy(team, actor, deployed, run, make_run):
    """`demo-triage` with a second version that the rules hold back, traffic, kept texts and an export."""
    with team_scope(team.pk):
        reported = evaluate(run, recalls={"hardware": 0.95, "software": 0.9})
        calibrate(reported, {"queue": (1.4, None), "the-affected-business-service": (0.8, None)})
        other = make_run(team, "Second")
        evaluate(other, recalls={"hardware": 0.95, "software": 0.5}, f1=0.71, json_valid=0.97)
        services.deploy_run(team=team, actor=actor, run=other, name="demo-triage", note="Learned the new queues")
        deployment = request_log.set_log(deployment=deployed.deployment, actor=actor, logs_text=True, days=14)
        for number in range(12):
            record = InferenceRecord(
                team=team, version=deployed, model="demo-triage", status=503 if number == 5 else 200,
                duration_ms=180 + 40 * number, prompt_tokens=120, completion_tokens=30, request_id=f"req_{number}",
            )  # fmt: skip
            record.save()
            if number > 3:
                LoggedText(
                    team=team, record=record, deployment=deployment, kept_until=record.at,
                    answer='{"queue": "hardware"}',
                    messages=[{"role": "system", "content": "Turn the ticket into JSON."},
                              {"role": "user", "content": f"The printer on floor {number} is out of order"}],
                ).save()  # fmt: skip
        text = deployment.texts.first()
        request_log.correct(text=text, actor=actor, correction=json.dumps({"queue": "software"}))
        team.modelexports.create(adapter=run.adapter, kind="gguf", weights="q8_0", status="running", progress=40,
                                 size_bytes=150_000_000, created_by=actor.user)  # fmt: skip
        team.modelexports.create(adapter=run.adapter, kind="hub", repository="acme/tickets", status="failed",
                                 error="The hub does not accept the team's credential.")  # fmt: skip
        return deployment, deployment.versions.get(number=2), text.record_id


@pytest.fixture
def hook(team, actor):
    """An endpoint with a long address at which things fail, and deliveries in every state."""
    with team_scope(team.pk):
        url = "https://hooks.statusboard.example.org/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX"
        made, _secret = webhooks.create(
            team=team, actor=actor, name="Status board", url=url, event_types=list(EVENT_TYPES)
        )
        made.failing_since = timezone.now()
        made.save()
        for status, problem in (("delivered", ""), ("failed", "The endpoint answers HTTP 500."), ("pending", "")):
            team.webhookdeliverys.create(
                endpoint=made, event_id=uuid.uuid4(), event_type="fine_tuning.job.succeeded", status=status, attempts=3,
                subject=f"ftjob-{uuid.uuid4().hex}", occurred_at=timezone.now(), answered=500 if problem else None,
                problem=problem, next_try_at=timezone.now() if status == "pending" else None,
            )  # fmt: skip
        return made


def test_the_pages_fit_and_nothing_is_complained_about(busy, hook, team, run, open_page):
    deployment, second, record = busy
    base = f"/t/{team.slug}/deployments/{deployment.pk}"
    page = open_page(f"{base}/?days=7")
    page.wait_for_selector("#charts canvas")
    assert page.locator("#charts canvas").count() == 3
    page.locator("#charts summary").first.click()
    page.locator("#charts tbody tr").first.wait_for(state="visible")
    fits(page, "deployment")
    for name, address in {
        "promote": f"/t/{team.slug}/deployment-versions/{second.pk}/promote/",
        "rules": f"/t/{team.slug}/deployments/rules/",
        "sleep": f"{base}/sleep/",
        "retirement": f"{base}/retirement/",
        "log": f"{base}/log/",
        "log-record": f"{base}/log/{record}/",
        "log-settings": f"{base}/log/settings/",
        "exports": f"/t/{team.slug}/runs/{run.pk}/exports/",
        "webhooks": f"/t/{team.slug}/webhooks/",
        "webhook": f"/t/{team.slug}/webhooks/{hook.pk}/",
        "webhook-rotate": f"/t/{team.slug}/webhooks/{hook.pk}/rotate/",
        "deploy": f"/t/{team.slug}/deployments/new/?run={run.pk}&name=demo-triage",
    }.items():
        page.goto(page.url.split("/t/")[0] + address, wait_until="networkidle" if name != "exports" else "load")
        fits(page, name)
