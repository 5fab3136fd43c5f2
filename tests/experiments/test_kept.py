"""Kept weights: the result and the checkpoints beside it, which is best, who answers with it, downloads."""

from __future__ import annotations

import io
import zipfile

import pytest

from experiments.kept import kept_folder, kept_weights
from portal.models import AuditEvent
from portal.rls import team_scope

pytestmark = pytest.mark.django_db

POINTS = [(1, {"loss": 2.0, "validation_loss": 1.5}), (2, {"validation_loss": 0.75}), (3, {"loss": 0.5})]


def test_the_result_and_its_checkpoints_stand_side_by_side(world):
    (world.run.folder / "kept" / "step-none").mkdir()
    with team_scope(world.team.pk):
        first, second = kept_weights(world.run, POINTS)
        assert (first.step, first.is_result, first.validation_loss, first.is_best) == (1, True, 1.5, False)
        assert [(use.name, use.pk) for use in first.uses] == [("triage", world.deployment.pk)]
        assert (second.step, second.is_result, second.validation_loss, second.is_best) == (2, False, 0.75, True)
        assert (second.size_bytes, second.uses) == (2, ())
        # One alone is no best.
        assert [one.is_best for one in kept_weights(world.run, POINTS[:1])] == [False, False]
    assert kept_folder(world.run, 3) is None


def test_a_run_that_has_left_nothing_keeps_nothing(world):
    with team_scope(world.team.pk):
        empty = world.team.runs.create(
            experiment=world.run.experiment, number=7, dataset_version=world.version, base_model=world.run.base_model,
            base_revision="", hyperparameters={}, config_hash="",
        )  # fmt: skip
        assert kept_weights(empty, POINTS) == []


def test_the_run_page_lists_them_and_gives_them_out(world, client_for, bob):
    browser, address = client_for(bob), f"/t/{world.team.slug}/runs/{world.run.pk}/"
    page = browser.get(address).content.decode()
    assert "Kept weights" in page
    assert f"{address}kept/2/adapter.zip" in page
    assert f"/deployments/{world.deployment.pk}/" in page
    answer = browser.get(f"{address}kept/2/adapter.zip")
    files = zipfile.ZipFile(io.BytesIO(answer.getvalue()))
    assert files.namelist() == ["adapter_config.json"]
    assert AuditEvent.objects.get(action="adapter.downloaded").object_id == str(world.run.pk)
    assert browser.get(f"{address}kept/3/adapter.zip").status_code == 404
