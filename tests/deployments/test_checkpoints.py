"""Checkpoints that a run has kept: deployed, called under /v1, stored and counted like a run's result."""

from __future__ import annotations

import pytest

from deployments import gate, services
from experiments import kept
from experiments.models import Adapter
from portal import usage
from portal.errors import NotFound, QuotaExceeded
from portal.models import Quota
from portal.rls import team_scope
from tests.deployments.figures import evaluate
from tests.experiments.runs import write_adapter


@pytest.fixture
def keeping(run):
    """A finished run whose result is of step 10, and which has kept the checkpoints of steps 4 and 10."""
    for step in (4, 10):
        write_adapter(run.folder / "kept" / f"step-{step}")
    return run


def deploy(team, actor, run, **more):
    with team_scope(team.pk):
        version = services.deploy_run(team=team, actor=actor, run=run, name="demo-triage", **more)
        return version, team.deployments.select_related("live_version", "next_version").get(name="demo-triage")


def test_a_checkpoint_becomes_a_version_that_is_stored_like_a_result(team, actor, keeping, node, engine):
    with team_scope(team.pk):
        before = usage.storage_bytes(team)
    version, deployment = deploy(team, actor, keeping, step=4)
    again, _deployment = deploy(team, actor, keeping, step=4)
    assert again.pk == version.pk
    assert deployment.next_version_id == version.pk
    with team_scope(team.pk):
        adapter = Adapter.unscoped.select_related("team", "run").get(pk=version.adapter_id)
        assert (adapter.is_checkpoint, adapter.step, adapter.run_id) == (True, 4, keeping.pk)
        assert (adapter.folder / "adapter_model.safetensors").is_file()
        assert usage.storage_bytes(team) == before + adapter.size_bytes
        assert [(one.step, one.is_result) for one in kept.kept_weights(keeping, [])] == [(4, False), (10, True)]
        result = kept.adapter_of(keeping, 10)
        assert (result.pk, result.is_checkpoint) == (keeping.adapter.pk, False)


def test_what_was_not_kept_and_what_has_no_room_is_refused(team, actor, keeping, node, engine):
    with pytest.raises(NotFound) as caught:
        deploy(team, actor, keeping, step=5)
    assert caught.value.param == "step"
    with team_scope(team.pk):
        team.teamlimits.create(kind=Quota.STORAGE_BYTES, value=usage.storage_bytes(team) + 1)
    with pytest.raises(QuotaExceeded):
        deploy(team, actor, keeping, step=4)
    with team_scope(team.pk):
        assert keeping.adapters.count() == 1


def test_the_figures_of_the_result_are_not_those_of_a_checkpoint(team, actor, keeping, deployed):
    with team_scope(team.pk):
        evaluate(keeping, recalls={"hardware": 0.9})
    version, deployment = deploy(team, actor, keeping, step=4)
    with team_scope(team.pk):
        assert [rule.code for rule in gate.judge(deployment, version).failed] == ["evaluated"]
        assert (deployment.live_version_id, deployment.next_version_id) == (deployed.pk, None)


def test_the_run_page_offers_each_kept_checkpoint_and_the_form_takes_it(team, alice, keeping, client_for, node, engine):
    client = client_for(alice)
    page = client.get(f"/t/{team.slug}/runs/{keeping.pk}/").content.decode()
    address = f"/t/{team.slug}/deployments/new/?run={keeping.pk}&amp;step=4"
    assert address in page
    form = client.get(address.replace("&amp;", "&")).content.decode()
    assert 'name="step" value="4"' in form
    answer = client.post(
        f"/t/{team.slug}/deployments/new/", {"run": keeping.pk, "name": "early", "step": "4", "thresholds": ""}
    )
    assert answer.status_code == 302
    with team_scope(team.pk):
        version = team.deploymentversions.select_related("adapter").get(deployment__name="early")
        assert version.adapter.step == 4
    assert "checkpoint of step 4" in client.get(answer.url).content.decode()
    wrong = {"run": keeping.pk, "name": "early", "step": "5"}
    assert "No weights were kept at step 5" in client.post(f"/t/{team.slug}/deployments/new/", wrong).content.decode()


def test_the_api_deploys_a_checkpoint_and_says_which_step_answers(team, api, keeping, node, engine):
    answer = api.post(
        "/api/deployments/", {"run": str(keeping.pk), "name": "early", "step": 4}, content_type="application/json"
    )
    assert answer.status_code == 201, answer.content
    assert [(one["step"], one["run"]) for one in answer.json()["versions"]] == [(4, str(keeping.pk))]
    assert (
        api.post(
            "/api/deployments/", {"run": str(keeping.pk), "name": "early", "step": 6}, content_type="application/json"
        ).status_code
        == 404
    )
