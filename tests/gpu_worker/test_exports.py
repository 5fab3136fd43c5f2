"""Exports from the button to the file or the hub: claims, progress, refusals, retries, storage, expiry."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
import pytest
from django.utils import timezone
from safetensors.numpy import load_file, save_file

from deployments import exports, exports_lifecycle, model_card, tasks
from deployments.models import ModelExport
from experiments.models import Run
from gpu_worker import exports as worker
from gpu_worker.exporter.merge import merged
from portal import secrets, usage
from portal.errors import IllegalTransition, InvalidInput, QuotaExceeded
from portal.models import AuditEvent, Quota, TeamSecret
from portal.rls import all_teams, team_scope
from tests.deployments.conftest import make_run, run  # noqa: F401
from tests.deployments.figures import evaluate
from tests.deployments.loopback_hub import TOKEN, LoopbackHub

pytestmark = pytest.mark.django_db


@pytest.fixture
def finished(run: Run) -> Run:  # noqa: F811
    """A run whose adapter really belongs to the tiny model."""
    chance = np.random.default_rng(3)
    folder = run.adapter.folder
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    save_file(
        {
            f"{name}A.weight": chance.normal(size=(2, 64)).astype(np.float32),
            f"{name}B.weight": chance.normal(size=(64, 2)).astype(np.float32),
        },
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return run


@pytest.fixture
def hub(settings) -> Iterator[LoopbackHub]:
    server = LoopbackHub()
    settings.HUB_ENDPOINT = server.url
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def credential(team, actor) -> str:
    with team_scope(team.pk):
        secrets.store(team=team, kind=TeamSecret.Kind.HUB_TOKEN, name="hub", text=TOKEN, actor=actor)
    return "hub"


def again(export: ModelExport) -> ModelExport:
    with all_teams("test"):
        return ModelExport.unscoped.select_related("team", "adapter__team", "adapter__base_model").get(pk=export.pk)


def start(team, actor, run, **asked) -> ModelExport:  # noqa: F811
    with team_scope(team.pk):
        return exports.start_file(adapter=run.adapter, actor=actor, **asked)


def push(team, actor, run, **asked) -> ModelExport:  # noqa: F811
    with team_scope(team.pk):
        order = {"repository": "acme/tickets", "secret_name": "hub", **asked}
        return exports.start_push(adapter=run.adapter, actor=actor, **order)


def test_a_merged_model_becomes_a_file_that_expires(team, actor, finished, client_for, bob):
    export = start(team, actor, finished, kind="merged")
    with team_scope(team.pk):
        before = usage.storage_bytes(team)
    assert worker.work_on_export(str(export.pk)) is True
    assert worker.work_on_export(str(export.pk)) is False, "a message that comes twice does nothing"
    ready = again(export)
    path = ready.folder / ready.file_name
    assert (ready.status, ready.progress, ready.size_bytes) == ("ready", 100, path.stat().st_size)
    assert [one.name for one in ready.folder.iterdir()] == [ready.file_name]
    with zipfile.ZipFile(path) as bundle:
        names = {name.rsplit("/", 1)[-1] for name in bundle.namelist()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
        bundle.extractall(path.parent.parent / "out")
    (weights,) = (path.parent.parent / "out").glob("*/model.safetensors")
    model = merged(finished.base_model.folder, finished.adapter.folder)
    for name, values in load_file(weights).items():
        assert np.array_equal(values, model.values(name)), name
    with team_scope(team.pk):
        assert usage.storage_bytes(team) - before == ready.size_bytes - export.size_bytes, "the estimate is replaced"
    answer = client_for(bob).get(f"/t/{team.slug}/exports/{export.pk}/file/")
    assert b"".join(answer.streaming_content)[:2] == b"PK"
    assert AuditEvent.objects.filter(action="export.downloaded").count() == 1
    assert exports_lifecycle.prune() == 0
    with all_teams("test"):
        ModelExport.unscoped.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert exports_lifecycle.prune() == 1
    assert not ready.folder.exists()


def test_a_gguf_file_is_made(team, actor, finished):
    export = start(team, actor, finished, kind="gguf", weights="f16")
    assert worker.work_on_export(str(export.pk)) is True
    ready = again(export)
    assert ready.file_name.endswith("-f16.gguf")
    assert (ready.folder / ready.file_name).read_bytes()[:4] == b"GGUF"


def test_what_cannot_be_merged_fails_with_a_sentence_and_takes_no_room(team, actor, finished):
    (finished.adapter.folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "use_dora": True}))
    export = start(team, actor, finished, kind="merged")
    assert worker.work_on_export(str(export.pk)) is False
    failed = again(export)
    assert (failed.status, failed.size_bytes) == ("failed", 0)
    assert "use_dora" in failed.error
    assert not failed.folder.exists()


def test_a_team_without_room_or_with_too_many_on_their_way_is_refused(team, actor, finished):
    for _number in range(exports.MOST_OPEN):
        start(team, actor, finished, kind="merged")
    with pytest.raises(IllegalTransition, match="on their way"):
        start(team, actor, finished, kind="merged")
    with team_scope(team.pk):
        team.modelexports.all().delete()
        team.teamlimits.create(kind=Quota.STORAGE_BYTES, value=1000)
    with pytest.raises(QuotaExceeded):
        start(team, actor, finished, kind="merged")
    for wrong in (
        {"kind": "merged", "weights": "f16"},
        {"kind": "gguf"},
        {"kind": "hub"},
        {"kind": "gguf", "weights": "q1"},
    ):
        with pytest.raises(InvalidInput):
            start(team, actor, finished, **wrong)


def test_a_lost_worker_is_replaced_and_gives_up_after_some_attempts(team, actor, finished):
    export = start(team, actor, finished, kind="merged")
    for _attempt in range(exports_lifecycle.MAX_ATTEMPTS):
        assert exports_lifecycle.claim_export(export.pk) is not None
        assert exports_lifecycle.claim_export(export.pk) is None, "somebody works on it"
        with all_teams("test"):
            ModelExport.unscoped.update(heartbeat_at=timezone.now() - timedelta(hours=1))
        tasks.prune()
    assert exports_lifecycle.claim_export(export.pk) is None
    assert again(export).status == "failed"


def test_who_may_no_longer_edit_exports_nothing(team, actor, alice, finished):
    export = start(team, actor, finished, kind="merged")
    with team_scope(team.pk):
        team.memberships.filter(user=alice).update(role="viewer")
    assert worker.work_on_export(str(export.pk)) is False
    assert "no longer" in again(export).error


def test_an_export_that_is_deleted_while_it_is_made_leaves_nothing(team, actor, finished, monkeypatch):
    export = start(team, actor, finished, kind="merged")
    ready = exports_lifecycle.export_ready

    def too_late(job, **told):
        with team_scope(team.pk):
            exports.delete_export(export=again(export), actor=actor)
        return ready(job, **told)

    monkeypatch.setattr(exports_lifecycle, "export_ready", too_late)
    assert worker.work_on_export(str(export.pk)) is False
    assert not export.folder.exists()


@pytest.mark.slow
def test_an_adapter_is_pushed_to_a_private_repository_with_its_card(team, actor, finished, hub, credential):
    export = push(team, actor, finished)
    assert worker.work_on_export(str(export.pk)) is True, again(export).error
    there = hub.repositories["acme/tickets"]
    assert there["private"] is True
    assert set(there["files"]) >= {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    weights = (finished.adapter.folder / "adapter_model.safetensors").read_bytes()
    assert there["files"]["adapter_model.safetensors"] == weights
    assert b"Hyperparameters" in there["files"]["README.md"]
    done = again(export)
    assert (done.status, done.url, done.size_bytes) == ("ready", f"{hub.url}/acme/tickets", 0)
    assert not done.folder.exists()
    merged_one = push(team, actor, finished, whole_model=True, is_private=False, repository="acme/whole")
    assert worker.work_on_export(str(merged_one.pk)) is True, again(merged_one).error
    assert hub.repositories["acme/whole"]["private"] is False
    assert "model.safetensors" in hub.repositories["acme/whole"]["files"]


@pytest.mark.slow
def test_a_busy_hub_is_tried_again_and_a_refusal_is_not(team, actor, finished, hub, credential):
    hub.failures = [500] * 3
    export = push(team, actor, finished)
    assert worker.work_on_export(str(export.pk)) is False
    assert (again(export).status, again(export).attempts) == ("queued", 1)
    hub.failures = []
    assert worker.work_on_export(str(export.pk)) is True
    with team_scope(team.pk):
        secrets.store(team=team, kind=TeamSecret.Kind.HUB_TOKEN, name="hub", text="hf_wrong", actor=actor)
    refused = push(team, actor, finished, repository="acme/other")
    assert worker.work_on_export(str(refused.pk)) is False
    assert "credential" in again(refused).error
    assert "hf_wrong" not in again(refused).error


@pytest.mark.parametrize(
    ("asked", "param"), [({"repository": "tickets"}, "repository"), ({"repository": "a/../b"}, "repository"),
                         ({"repository": "a/b/c"}, "repository"), ({"secret_name": "other"}, "secret_name")],
)  # fmt: skip
def test_a_push_names_a_repository_and_a_credential_of_the_team(team, actor, finished, credential, asked, param):
    with pytest.raises(InvalidInput) as caught:
        push(team, actor, finished, **asked)
    assert caught.value.param == param


def test_the_model_card_tells_data_figures_settings_and_limits(team, finished):
    with team_scope(team.pk):
        evaluate(finished, recalls={"hardware": 0.9}, f1=0.87)
        finished.refresh_from_db()
        text = model_card.card_of(finished)
    assert text.startswith('---\nbase_model: "tiny"\n')
    for words in (
        "Tickets for First try",
        "87.0%",
        "## Hyperparameters",
        "## Limits",
        finished.adapter.sha256,
        "100 held-out",
    ):
        assert words in text, words


def test_the_pages_start_list_and_delete(team, alice, bob, client_for, finished, credential):
    url = f"/t/{team.slug}/runs/{finished.pk}/exports/"
    editor, viewer = client_for(alice), client_for(bob)
    assert "Make it" not in viewer.get(url).content.decode()
    assert viewer.post(url, {"format": "merged"}).status_code == 404
    assert editor.post(url, {"format": "gguf:q8_0"}).status_code == 302
    assert editor.post(url, {"format": "gguf:q1"}).status_code == 400
    with team_scope(team.pk):
        secret = team.teamsecrets.get()
    assert editor.post(url, {"repository": "nonsense", "secret": secret.pk}).status_code == 400
    assert editor.post(url, {"repository": "acme/a", "secret": secret.pk, "is_private": "on"}).status_code == 302
    body = viewer.get(url).content.decode()
    assert "GGUF for llama.cpp" in body
    assert "acme/a" in body
    assert editor.get(f"{url}list/").status_code == 200
    with team_scope(team.pk):
        first = team.modelexports.order_by("created_at").first()
    assert viewer.get(f"/t/{team.slug}/exports/{first.pk}/file/").status_code == 404, "not ready"
    assert editor.post(f"/t/{team.slug}/exports/{first.pk}/delete/").status_code == 302
    archive = viewer.get(f"{url}adapter.zip")
    assert b"".join(archive.streaming_content)[:2] == b"PK"
    assert viewer.get(f"/t/{team.slug}/runs/{finished.pk}/model-card.md").content.decode().startswith("---")
