"""Continuing from an earlier run's adapter: what has to be the same, who may, and what is kept."""

import json

import pytest
from django.db.models import RestrictedError

from experiments import lifecycle, services
from experiments.hyperparameters import Hyperparameters
from experiments.models import Adapter, Run
from gpu_worker.job_folder import JobError, JobFolder, prepare
from portal.errors import InvalidInput, NotFound, Unavailable
from portal.rls import all_teams, team_scope
from tests.experiments.runs import change, make_version, submit, write_adapter

pytestmark = pytest.mark.django_db


def with_adapter(run: Run, **config: object) -> Run:
    """Give a run an adapter, as if it had succeeded."""
    with all_teams("test"):
        adapter = Adapter(team=run.team, run=run, result_of=run, base_model=run.base_model, step=3, size_bytes=4)
        write_adapter(adapter.folder)
        content = {"peft_type": "LORA", "r": 8, **config}
        (adapter.folder / "adapter_config.json").write_text(json.dumps(content))
        adapter.sha256 = _sha256(adapter.folder / "adapter_model.safetensors")
        adapter.save(force_insert=True)
    change(run, status=Run.Status.SUCCEEDED)
    return run


def _sha256(path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def version(team):
    return make_version(team)


@pytest.fixture
def parent(team, actor, version, base_model):
    return with_adapter(submit(team, actor, version, base_model, hyperparameters=Hyperparameters(lora_r=8)))


def go_on(team, actor, parent, version, base_model, **choice):
    with team_scope(team.pk):
        return services.submit_run(
            experiment=parent.experiment, actor=actor, dataset_version=version, base_model=base_model,
            continue_from=parent, **choice,
        )  # fmt: skip


def test_a_recipe_takes_over_what_the_adapter_demands(team, actor, parent, version, base_model):
    run = go_on(team, actor, parent, version, base_model, recipe="best")
    assert run.continue_from == parent
    assert run.hyperparameters["lora_r"] == 8
    assert run.hyperparameters["validation_rows"] == 200


@pytest.mark.parametrize(
    ("chosen", "field"),
    [
        ({"lora_r": 16}, "lora_r"),
        ({"lora_r": 8, "dora": True}, "dora"),
        ({"lora_r": 8, "lora_targets": "mlp"}, "lora_targets"),
        ({"lora_r": 8, "lora_target_names": "q_proj"}, "lora_target_names"),
        ({"lora_r": 8, "training_kind": "full"}, "training_kind"),
        ({"lora_r": 8, "frozen_layers": 1}, "frozen_layers"),
    ],
)
def test_settings_that_the_adapter_does_not_fit_are_refused_by_name(
    team, actor, parent, version, base_model, chosen, field
):
    with pytest.raises(InvalidInput, match="like its adapter") as caught:
        go_on(team, actor, parent, version, base_model, hyperparameters=Hyperparameters(**chosen))
    assert caught.value.param == field


def test_a_run_without_an_adapter_or_of_another_revision_is_refused(team, actor, parent, version, base_model):
    waiting = submit(team, actor, version, base_model)
    with pytest.raises(InvalidInput, match="left no adapter"):
        go_on(team, actor, waiting, version, base_model)
    with all_teams("test"):
        config = parent.adapter.folder / "adapter_config.json"
    config.write_text("{}")
    with pytest.raises(Unavailable, match="damaged"):
        go_on(team, actor, parent, version, base_model)
    config.write_text('{"r": 8}')
    base_model.revision = "f" * 40
    base_model.save()
    with pytest.raises(InvalidInput, match="revision"):
        go_on(team, actor, parent, version, base_model)


def test_runs_of_other_teams_do_not_exist(team, other_team, actor, version, base_model):
    theirs = with_adapter(submit(other_team, actor, make_version(other_team), base_model))
    ours = submit(team, actor, version, base_model)
    with all_teams("test"), pytest.raises(NotFound):
        services.submit_run(
            experiment=ours.experiment, actor=actor, dataset_version=version, base_model=base_model,
            hyperparameters=Hyperparameters(lora_r=8), continue_from=theirs,
        )  # fmt: skip


def test_a_parent_stays_as_long_as_its_child(team, actor, parent, version, base_model):
    run = go_on(team, actor, parent, version, base_model)
    with all_teams("test"):
        Adapter.unscoped.filter(run=parent).delete()
        with pytest.raises(RestrictedError):
            parent.delete()
    with team_scope(team.pk):
        assert services.rerun(run=run, actor=actor).continue_from == parent


def test_the_job_folder_gets_the_adapter_or_the_run_says_that_it_is_gone(team, actor, parent, version, base_model):
    run = go_on(team, actor, parent, version, base_model)
    run = lifecycle.load_run(run.pk)  # as the supervisor has it: no row of the team can be read any more
    folder = JobFolder(run.folder)
    folder.root.mkdir(parents=True)
    prepare(folder, run)
    spec = json.loads(folder.spec.read_text())
    weights = run.continue_from.adapter.folder / "adapter_model.safetensors"
    assert spec["start_adapter"] == "start"
    assert (folder.start / weights.name).read_bytes() == weights.read_bytes()
    weights.write_bytes(b"damaged")
    with pytest.raises(JobError, match="missing or damaged"):
        prepare(folder, run)


def test_the_form_continues_and_keeps_to_the_adapter(client_for, alice, team, parent, version):
    browser = client_for(alice)
    page = f"/t/{team.slug}/experiments/new/?experiment={parent.experiment_id}&continue={parent.pk}"
    assert "The new run starts from the adapter of" in browser.get(page).content.decode()
    fields = {"dataset_version": version.pk, "base_model": "tiny", "recipe": "fast", "continue_from": parent.pk}
    answer = browser.post(page, fields)
    assert answer.status_code == 302
    assert "Continues from" in browser.get(answer["Location"] + "settings/").content.decode()
    child = answer["Location"].rstrip("/").rpartition("/")[2]
    again = browser.get(f"/t/{team.slug}/experiments/new/?clone={child}").content.decode()
    assert "The new run starts from the adapter of" in again
    wrong = browser.post(page, fields | {"hp_lora_r": 32})
    assert wrong.status_code == 400
    assert "like its adapter" in wrong.content.decode()


def test_strangers_find_nothing_to_continue(client_for, charlie, other_team, parent, api, stranger_api, version):
    page = f"/t/{other_team.slug}/experiments/new/?continue={parent.pk}"
    assert client_for(charlie).get(page).status_code == 404
    choice = {
        "experiment": str(parent.experiment_id), "dataset_version": str(version.pk), "base_model": "tiny",
        "recipe": "fast", "continue_from": str(parent.pk),
    }  # fmt: skip
    created = api.post("/api/runs/", choice, content_type="application/json")
    assert (created.status_code, created.json()["continue_from"]) == (201, str(parent.pk))
    theirs = make_version(other_team)
    mine = {"name": "Mine", "dataset_version": str(theirs.pk)}
    refused = stranger_api.post("/api/experiments/", choice | mine, content_type="application/json")
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "continue_from")
