"""A deployment's last day: set by an admin, told to whoever lists models, and kept."""

from __future__ import annotations

from datetime import timedelta

import openai
import pytest
from django.utils import timezone

from deployments import known_targets, lifecycle, services, targets
from deployments.models import DeploymentVersion, FineTuningJob, today
from portal.errors import InvalidInput, NotFound
from portal.models import AuditEvent
from portal.rls import all_teams, team_scope
from tests.deployments.sdk import sdk

pytestmark = pytest.mark.django_db

ASK = {"model": "demo-triage", "messages": [{"role": "user", "content": "VPN"}]}


@pytest.fixture
def page(team, deployed: DeploymentVersion) -> str:
    return f"/t/{team.slug}/deployments/{deployed.deployment_id}/retirement/"


def end(team, deployed: DeploymentVersion, *, days_ago: int) -> None:
    with team_scope(team.pk):
        team.deployments.filter(pk=deployed.deployment_id).update(retires_on=today() - timedelta(days=days_ago))


def shutdown_dates(token: str) -> dict[str, str | None]:
    return {model.id: model.shutdown_date for model in sdk(token).models.list()}


def test_an_admin_sets_the_last_day_and_callers_are_told(team, token, deployed, page, client_for, alice, bob):
    last = today() + timedelta(days=30)
    assert shutdown_dates(token)["demo-triage"] is None
    assert client_for(bob).post(page, {"retires_on": last.isoformat()}).status_code == 403
    browser = client_for(alice)
    assert browser.post(page, {"retires_on": last.isoformat()}).status_code == 302
    assert shutdown_dates(token)["demo-triage"] == last.isoformat()
    assert sdk(token).models.retrieve("demo-triage").shutdown_date == last.isoformat()
    detail = page.replace("retirement/", "")
    assert last.isoformat() in browser.get(detail).content.decode()
    assert page not in client_for(bob).get(detail).content.decode(), "a viewer changes nothing"
    with all_teams("test reads the audit trail"):
        (event,) = AuditEvent.objects.filter(action="deployment.retirement_changed")
        assert (event.team_id, event.detail) == (team.pk, {"last_day": last.isoformat()})
    assert browser.post(page, {"retires_on": ""}).status_code == 302
    assert shutdown_dates(token)["demo-triage"] is None


def test_a_day_that_is_over_is_refused(team, actor, deployed, page, client_for, alice):
    answer = client_for(alice).post(page, {"retires_on": (today() - timedelta(days=1)).isoformat()})
    assert answer.status_code == 400
    assert "This day is over" in answer.content.decode()
    with team_scope(team.pk), pytest.raises(InvalidInput):
        services.set_retirement(deployment=deployed.deployment, actor=actor, last_day=today() - timedelta(days=1))


def test_it_answers_on_its_last_day_and_not_behind_it(team, token, deployed, node):
    client = sdk(token)
    assert client.chat.completions.create(**ASK).choices, "what is remembered of it now must not outlive it"
    end(team, deployed, days_ago=0)
    assert client.chat.completions.create(**ASK).choices
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [True]
    end(team, deployed, days_ago=1)
    for name in ("demo-triage", "demo-triage@v1"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(**{**ASK, "model": name})
        assert (caught.value.code, caught.value.param) == ("model_retired", "model")
    assert "demo-triage" not in shutdown_dates(token)
    assert [state.is_wanted for state in lifecycle.placements_of(node)] == [False], "it makes room for others"


def test_until_then_it_is_found_as_quickly_as_any_other(team, deployed):
    end(team, deployed, days_ago=0)
    for _ in range(2):
        targets.resolve(team, "demo-triage")
    assert known_targets.recall(team, "demo-triage") is not None
    end(team, deployed, days_ago=1)
    with pytest.raises(NotFound):
        targets.resolve(team, "demo-triage")


def test_a_retired_deployment_is_no_longer_said_to_be_loaded(team, deployed, page, client_for, bob):
    end(team, deployed, days_ago=1)
    shown = client_for(bob).get(page.replace("retirement/", "")).content.decode()
    assert "it answers no more" in shown
    assert "Stopped" in shown


def test_a_fine_tuned_model_retires_with_its_deployment(team, token, deployed, run, base_model):
    with team_scope(team.pk):
        job = FineTuningJob(
            team=team, base_model=base_model, run=run, state="submitted", model_name="ft:tiny:x:y:1", seed=1
        )
        job.save()
        team.deployments.update(name=job.deployment_name)
    end(team, deployed, days_ago=-3)
    assert shutdown_dates(token)["ft:tiny:x:y:1"] == (timezone.now() + timedelta(days=3)).date().isoformat()
    end(team, deployed, days_ago=1)
    assert "ft:tiny:x:y:1" not in shutdown_dates(token)
    with team_scope(team.pk), pytest.raises(NotFound) as caught:
        targets.refuse_retired(team.deployments.get())
    assert caught.value.code == "model_retired"
    with pytest.raises(openai.NotFoundError) as refused:
        sdk(token).chat.completions.create(**{**ASK, "model": "ft:tiny:x:y:1"})
    assert refused.value.code == "model_retired"
