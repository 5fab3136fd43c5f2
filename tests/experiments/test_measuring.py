"""Measuring kept weights: on validation rows only, through the queue, and shown beside the step."""

from __future__ import annotations

import json

import pytest

from datasets_app.models import Split
from experiments import lifecycle, measuring, services
from experiments.hyperparameters import Hyperparameters
from experiments.models import Evaluation, Run
from gpu_worker.job_folder import JobError, JobFolder, prepare
from portal.errors import IllegalTransition, InvalidInput, NotFound
from portal.rls import all_teams, team_scope
from tests.experiments.runs import change, fresh, make_version, put_to_work, submit, write_adapter

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(team, actor, base_model, node) -> Run:
    """A run that has kept steps 4 and 8, with test rows that only its result may be asked."""
    version = make_version(team, train=6, validation=4, test=3)
    made = submit(team, actor, version, base_model, hyperparameters=Hyperparameters(lora_r=8))
    for step in (4, 8):
        folder = write_adapter(made.folder / "kept" / f"step-{step}", filling=bytes([step] * 4))
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    with team_scope(team.pk):
        result = team.adapters.create(
            run=made, result_of=made, base_model=base_model, step=12, sha256="0" * 64, size_bytes=4
        )
    write_adapter(result.folder)
    (result.folder / "adapter_config.json").write_text('{"r": 8}')
    change(made, status=Run.Status.SUCCEEDED)
    return made


def measure(run: Run, actor, step: int) -> Run:
    with team_scope(run.team_id):
        return measuring.evaluate_kept(run=run, step=step, actor=actor)


def test_an_evaluation_waits_like_a_run_and_is_asked_for_once(run, actor):
    evaluation = measure(run, actor, 4)
    assert (evaluation.kind, evaluation.status, evaluation.number) == ("evaluation", "queued", 1)
    assert (evaluation.start_adapter.step, evaluation.continue_from) == (4, None)
    assert measure(run, actor, 4) == evaluation
    other = measure(run, actor, 8)
    assert other.number == 2
    assert "evaluation 2" in str(other)


def test_what_cannot_be_measured_is_refused_with_a_sentence(run, actor, team, base_model):
    with pytest.raises(NotFound):
        measure(run, actor, 5)
    evaluation = measure(run, actor, 4)
    with pytest.raises(InvalidInput, match="has kept no weights"):
        measure(evaluation, actor, 4)
    with pytest.raises(IllegalTransition, match="only measured"), team_scope(team.pk):
        services.rerun(run=evaluation, actor=actor)
    change(run, status=Run.Status.RUNNING, lease_token=run.pk)
    with pytest.raises(IllegalTransition, match="still at work"):
        measure(run, actor, 8)
    blind = submit(team, actor, make_version(team, validation=0, test=3), base_model)
    change(blind, status=Run.Status.SUCCEEDED)
    with pytest.raises(InvalidInput, match="no validation rows"):
        measure(blind, actor, 4)


def test_its_job_folder_holds_the_validation_rows_and_the_weights_of_the_step(run, actor):
    evaluation = lifecycle.load_run(measure(run, actor, 8).pk)
    folder = JobFolder(evaluation.folder)
    folder.root.mkdir(parents=True)
    prepare(folder, evaluation, keep_adapter=True)
    asked = [json.loads(line)["row"] for line in (folder.data / "heldout.jsonl").read_text().splitlines()]
    learned = [json.loads(line)["row"] for line in (folder.data / "validation.jsonl").read_text().splitlines()]
    assert asked == learned
    assert len(asked) == 4
    spec = json.loads(folder.spec.read_text())
    assert (spec["start_adapter"], spec["evaluation"]["split"]) == (None, "validation")
    assert (folder.adapter / "adapter_model.safetensors").read_bytes().endswith(bytes([8] * 4))
    (evaluation.start_adapter.folder / "adapter_model.safetensors").write_bytes(b"damaged")
    with pytest.raises(JobError, match="missing or damaged"):
        prepare(folder, evaluation, keep_adapter=True)


def test_what_it_finds_stands_beside_the_step(run, actor, node, tmp_path, client_for, alice, team):
    evaluation = measure(run, actor, 4)
    address = f"/t/{team.slug}/runs/{run.pk}/"
    browser = client_for(alice)
    assert f"/runs/{evaluation.pk}/" in browser.get(address).content.decode()
    lease = put_to_work(evaluation, node)
    answers = tmp_path / "predictions.jsonl"
    rows = [{"row": n, "prompt": "Hi", "expected": "VPN", "tuned": "VPN" if n else "no"} for n in range(4)]
    answers.write_text("".join(json.dumps(row | {"untuned": "no"}) + "\n" for row in rows))
    lifecycle.finish_evaluation(lease, predictions=answers, split=Split.VALIDATION)
    assert fresh(evaluation).status == "succeeded"
    with all_teams("test"):
        assert Evaluation.unscoped.get(run=evaluation).split == "validation"
        assert not Evaluation.unscoped.filter(run=run).exists()
        assert not evaluation.adapters.exists()
    page = browser.get(address).content.decode()
    assert "75.0% exact of 4" in page
    assert f"/t/{team.slug}/runs/{evaluation.pk}/quality/" in page
    assert "75.0%" in browser.get(f"/t/{team.slug}/runs/{evaluation.pk}/quality/").content.decode()
    told = browser.get(f"/t/{team.slug}/runs/{evaluation.pk}/").content.decode()
    assert f"{address}#kept" in told
    assert "New run like this" not in told


def test_answers_that_cannot_be_judged_fail_it(run, actor, node, tmp_path):
    evaluation = measure(run, actor, 4)
    lease = put_to_work(evaluation, node)
    (tmp_path / "predictions.jsonl").write_text("nonsense\n")
    lifecycle.finish_evaluation(lease, predictions=tmp_path / "predictions.jsonl", split=Split.VALIDATION)
    assert (fresh(evaluation).status, evaluation.error_code) == ("failed", "internal")


def test_the_page_and_the_api_ask_for_it(run, team, client_for, alice, bob, charlie, api, stranger_api):
    address = f"/t/{team.slug}/runs/{run.pk}/kept/4/evaluate/"
    assert client_for(bob).post(address).status_code == 403
    assert client_for(charlie).post(address).status_code == 404
    answer = client_for(alice).post(address)
    assert answer["Location"].endswith(f"/runs/{run.pk}/#kept")
    assert client_for(alice).post(address.replace("/4/", "/5/")).status_code == 404
    path = f"/api/runs/{run.pk}/evaluation/"
    made = api.post(path, {"step": 8}, content_type="application/json")
    assert (made.status_code, made.json()["kind"]) == (201, "evaluation")
    assert stranger_api.post(path, {"step": 8}, content_type="application/json").status_code == 404
    assert api.post(path, {"step": "x"}, content_type="application/json").status_code == 400
    known = api.get("/api/runs/?kind=evaluation").json()
    assert {one["number"] for one in known["results"]} == {1, 2}


def test_a_run_goes_on_from_a_checkpoint(run, team, actor, client_for, alice, api):
    browser = client_for(alice)
    page = f"/t/{team.slug}/experiments/new/?experiment={run.experiment_id}&continue={run.pk}&step=4"
    assert "kept at step 4" in browser.get(page).content.decode()
    fields = {"dataset_version": run.dataset_version_id, "base_model": "tiny", "recipe": "fast"}
    fields |= {"continue_from": run.pk, "continue_step": 4}
    answer = browser.post(page, fields)
    assert answer.status_code == 302
    child = lifecycle.load_run(answer["Location"].rstrip("/").rpartition("/")[2])
    assert (child.start_adapter.step, child.continue_from_id) == (4, run.pk)
    assert ", step 4" in browser.get(answer["Location"] + "settings/").content.decode()
    folder = JobFolder(child.folder)
    folder.root.mkdir(parents=True)
    prepare(folder, child)
    assert (folder.start / "adapter_model.safetensors").read_bytes().endswith(bytes([4] * 4))
    with team_scope(team.pk):
        assert services.rerun(run=child, actor=actor).start_adapter.step == 4
    refused = browser.post(page, fields | {"continue_step": 5})
    assert refused.status_code == 400
    assert "kept no weights of step 5" in refused.content.decode()
    choice = {"experiment": str(run.experiment_id), **fields, "dataset_version": str(run.dataset_version_id)}
    choice |= {"continue_from": str(run.pk), "continue_step": 8}
    made = api.post("/api/runs/", choice, content_type="application/json")
    assert made.status_code == 201
    with team_scope(team.pk):
        assert str(team.adapters.get(run=run, step=8).pk) == made.json()["start_adapter"]
