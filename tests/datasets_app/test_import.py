"""From uploaded files to rows: what a person or program asks for, and what the worker makes of it."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from datasets_app import deletion, lifecycle, services, tasks
from datasets_app.claims import ClaimLost
from datasets_app.mapping import Mapping
from datasets_app.models import Dataset, DatasetVersion, SourceFile, Split
from datasets_app.sources import Reading
from datasets_app.store import read_rows
from portal.errors import IllegalTransition, InvalidInput, InvalidSource
from portal.models import AuditEvent
from portal.rls import all_teams, team_scope
from tests.datasets_app.files import csv_upload, jsonl_bytes, tickets, upload

COLUMNS = Mapping(prompt="prompt", response="response", json_answers=True)


def files_left(settings) -> list[Path]:
    """All files of all teams."""
    return [path for path in (Path(settings.DATA_DIR) / "teams").rglob("*") if path.is_file()]


def reload(version: DatasetVersion) -> DatasetVersion:
    with team_scope(version.team_id):
        return DatasetVersion.unscoped.select_related("team", "dataset").get(pk=version.pk)


def import_now(team, actor, files, **options) -> DatasetVersion:
    """Import and let the worker do its part."""
    with team_scope(team.pk):
        version = services.import_files(team=team, actor=actor, name="Tickets", files=files, **options)
    tasks.import_version(str(version.pk))
    return reload(version)


def test_draft_keeps_the_file_under_its_own_name(team, actor, scoped):
    version = services.start_import(
        team=team, actor=actor, name=" Tickets  2026 ", files={Split.TRAIN: csv_upload(tickets(3), "../../etc/x.csv")}
    )
    source = version.sources.get()
    assert version.status == "draft"
    assert version.dataset.name == "Tickets 2026"
    assert source.name == "x.csv"
    assert source.path.parent == version.folder
    assert (source.kind, source.encoding, source.delimiter, source.columns) == (
        "csv", "utf-8", ",", ["prompt", "response"],
    )  # fmt: skip
    assert source.path.stat().st_size == source.size_bytes
    assert AuditEvent.objects.filter(action="dataset.uploaded", team_id=team.pk).count() == 1


def test_three_files_become_three_splits(team, actor):
    version = import_now(
        team,
        actor,
        {
            Split.TRAIN: csv_upload(tickets(60)),
            Split.VALIDATION: csv_upload(tickets(64)[60:]),
            Split.TEST: upload(jsonl_bytes({"prompt": p, "response": r} for p, r in tickets(70)[64:]), "test.jsonl"),
        },
    )
    assert version.status == "ready"
    assert (version.train_rows, version.validation_rows, version.test_rows) == (60, 4, 6)
    assert len(version.content_hash) == 64
    assert version.ready_at is not None
    assert version.report["fault_count"] == 0
    assert version.report["warnings"] == []
    assert [(field["name"], field["values"]) for field in version.report["fields"]] == [
        ("service", ["Mail", "Printer", "VPN", "Wiki"]),
        ("urgency", ["High", "Low"]),
    ]
    first = json.loads(next(iter(read_rows(version.rows_path(Split.TRAIN)))).to_json())
    assert first == {
        "row": 2,
        "messages": [
            {"role": "user", "content": "Ticket 0: VPN is broken, please help"},
            {"role": "assistant", "content": '{"service": "VPN", "urgency": "Low"}'},
        ],
    }
    assert version.size_bytes == sum(version.rows_path(split).stat().st_size for split in Split)
    assert not list(version.folder.glob("work-*"))


def test_one_file_is_divided_by_the_seed(team, actor):
    def import_with(seed: int, name: str) -> DatasetVersion:
        with team_scope(team.pk):
            version = services.import_files(
                team=team,
                actor=actor,
                name=name,
                files={Split.TRAIN: csv_upload(tickets(100))},
                options={"validation_share": 0.1, "test_share": 0.2, "seed": seed},
            )
        tasks.import_version(str(version.pk))
        return reload(version)

    one, again, other = import_with(1, "A"), import_with(1, "B"), import_with(2, "C")
    assert (one.train_rows, one.validation_rows, one.test_rows) == (70, 10, 20)
    assert one.content_hash == again.content_hash != other.content_hash


@pytest.mark.parametrize(("rows", "split"), [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (12, (10, 1, 1))])
def test_few_rows_are_for_training_first(team, actor, rows, split):
    version = import_now(team, actor, {Split.TRAIN: csv_upload(tickets(rows))}, options={"test_share": 0.1})
    assert (version.train_rows, version.validation_rows, version.test_rows) == split


def test_import_may_be_delivered_twice(team, actor):
    version = import_now(team, actor, {Split.TRAIN: csv_upload(tickets(10))})
    ready_at = version.ready_at
    tasks.import_version(str(version.pk))
    assert reload(version).ready_at == ready_at
    assert reload(version).attempts == 1


def test_import_of_a_version_that_is_gone_does_nothing(db):
    tasks.import_version("8c0b8b5e-0000-4000-8000-000000000000")


def test_faulty_rows_fail_the_import_and_can_be_skipped(team, actor, settings):
    with team_scope(team.pk):
        version = services.start_import(
            team=team, actor=actor, name="T", files={Split.TRAIN: csv_upload([*tickets(5), ("question", "")])}
        )
        services.begin_import(version=version, actor=actor, mapping=COLUMNS)
    tasks.import_version(str(version.pk))
    failed = reload(version)
    assert failed.status == "failed"
    assert failed.report["fault_count"] == 1
    fault = failed.report["faults"][0]
    assert (fault["line"], fault["column"], fault["code"], fault["file"]) == (
        7, "response", "empty_answer", "tickets.csv",
    )  # fmt: skip
    assert [path.suffix for path in files_left(settings)] == [".bin"]
    with team_scope(team.pk):
        services.begin_import(version=version, actor=actor, mapping=COLUMNS, options={"skip_faulty": True})
    tasks.import_version(str(version.pk))
    assert reload(version).status == "ready"
    assert reload(version).total_rows == 5


def test_no_good_row_fails_even_when_faulty_rows_are_skipped(team, actor):
    with team_scope(team.pk):
        version = services.start_import(
            team=team, actor=actor, name="T", files={Split.TRAIN: csv_upload([("question", "")])}
        )
        services.begin_import(version=version, actor=actor, mapping=COLUMNS, options={"skip_faulty": True})
    tasks.import_version(str(version.pk))
    assert reload(version).status == "failed"
    assert reload(version).report["error"]["code"] == "no_good_rows"


def test_sources_that_vanish_leave_the_claim_to_the_sweep(team, actor, settings, monkeypatch):
    with team_scope(team.pk):
        version = services.import_files(team=team, actor=actor, name="T", files={Split.TRAIN: csv_upload(tickets(5))})
        version.sources.get().path.unlink()
    for attempt in range(lifecycle.MAX_ATTEMPTS):
        with pytest.raises(FileNotFoundError):
            tasks.import_version(str(version.pk))
        make_silent(version)
        (version.folder / f"work-{attempt}").mkdir(parents=True)  # as a killed worker leaves it
    tasks.import_version(str(version.pk))
    assert reload(version).status == "failed"
    assert reload(version).report["error"]["code"] == "gave_up"
    assert list(version.folder.glob("work-*")) == []


def make_silent(version: DatasetVersion) -> None:
    """Let the version's last sign of life be long ago."""
    with team_scope(version.team_id):
        DatasetVersion.unscoped.filter(pk=version.pk).update(
            heartbeat_at=timezone.now() - lifecycle.STALLED_AFTER - timedelta(seconds=1)
        )


def test_second_worker_waits_until_the_first_is_silent(team, actor, scoped):
    version = services.import_files(team=team, actor=actor, name="T", files={Split.TRAIN: csv_upload(tickets(5))})
    first = lifecycle.claim_import(version.pk)
    assert first is not None
    assert lifecycle.claim_import(version.pk) is None
    make_silent(version)
    second = lifecycle.claim_import(version.pk)
    assert second is not None
    with pytest.raises(ClaimLost):
        lifecycle.report_progress(first, 1, 1)
    lifecycle.fail_import(first, {"error": {"code": "gave_up", "attempts": 1}})
    assert reload(version).status == "importing"
    lifecycle.report_progress(second, 3, 40)
    assert (reload(version).rows_done, reload(version).bytes_done) == (3, 40)


@pytest.mark.django_db(transaction=True)
def test_sweep_queues_lost_imports_once(team, actor):
    from django_q.models import OrmQ

    with team_scope(team.pk):
        version = services.import_files(team=team, actor=actor, name="T", files={Split.TRAIN: csv_upload(tickets(5))})
    assert OrmQ.objects.count() == 1
    assert lifecycle.requeue_stalled_imports() == 0
    make_silent(version)
    assert lifecycle.requeue_stalled_imports() == 1
    assert lifecycle.requeue_stalled_imports() == 0
    assert OrmQ.objects.count() == 2
    tasks.import_version(str(version.pk))
    make_silent(version)
    assert lifecycle.requeue_stalled_imports() == 0
    assert reload(version).status == "ready"


def test_discarding_a_running_import_stops_it(team, actor, scoped, settings, django_capture_on_commit_callbacks):
    version = services.import_files(team=team, actor=actor, name="T", files={Split.TRAIN: csv_upload(tickets(5))})
    job = lifecycle.claim_import(version.pk)
    with django_capture_on_commit_callbacks(execute=True):
        deletion.discard_version(version=version, actor=actor)
    with pytest.raises(ClaimLost):
        lifecycle.report_progress(job, 1, 1)
    with pytest.raises(ClaimLost):
        tasks._run(job)
    lifecycle.remove_work(job)
    assert files_left(settings) == []
    assert not Dataset.unscoped.exists()


def test_new_version_gets_the_next_number(team, actor):
    first = import_now(team, actor, {Split.TRAIN: csv_upload(tickets(10))})
    with team_scope(team.pk):
        second = services.import_files(
            team=team, actor=actor, name="", dataset=first.dataset, files={Split.TRAIN: csv_upload(tickets(20))}
        )
        assert (second.number, second.dataset_id) == (2, first.dataset_id)
        deletion.discard_version(version=second, actor=actor)
        assert first.dataset.versions.count() == 1


def test_ready_version_cannot_be_imported_again(team, actor):
    version = import_now(team, actor, {Split.TRAIN: csv_upload(tickets(10))})
    with team_scope(team.pk), pytest.raises(IllegalTransition):
        services.begin_import(version=version, actor=actor, mapping=COLUMNS)


def test_unknown_encoding_waits_for_a_choice(team, actor):
    rows = [("Не могу войти в систему", "Доступ"), ("Принтер не печатает", "Печать")] * 5
    with team_scope(team.pk):
        version = services.start_import(
            team=team, actor=actor, name="T", files={Split.TRAIN: csv_upload(rows, encoding="cp1251")}
        )
        source = version.sources.get()
        assert source.encoding == ""
        assert source.encoding_doubts["candidates"][0]["encoding"] == "cp1251"
        with pytest.raises(InvalidSource) as refused:
            services.begin_import(version=version, actor=actor, mapping=Mapping(prompt="prompt", response="response"))
        assert refused.value.code == "encoding_unknown"
        services.begin_import(
            version=version,
            actor=actor,
            mapping=Mapping(prompt="prompt", response="response"),
            readings={Split.TRAIN: Reading("cp1251")},
        )
    tasks.import_version(str(version.pk))
    assert "Не могу войти" in next(iter(read_rows(reload(version).rows_path("train")))).prompt


def test_delete_for_good_takes_rows_and_files(team, actor, settings, django_capture_on_commit_callbacks):
    version = import_now(team, actor, {Split.TRAIN: csv_upload(tickets(10))})
    with team_scope(team.pk), django_capture_on_commit_callbacks(execute=True):
        deletion.delete_dataset(dataset=version.dataset, actor=actor)
    assert version.rows_path("train").exists()
    with team_scope(team.pk), django_capture_on_commit_callbacks(execute=True):
        gone = team.datasets(manager="with_deleted").get()
        deletion.purge(row=gone, actor=actor, typed=gone.name)
    assert files_left(settings) == []
    with all_teams("test"):
        assert not DatasetVersion.with_deleted.exists()
        assert not SourceFile.unscoped.exists()
    assert AuditEvent.objects.filter(action="dataset.deleted").count() == 1


def test_dataset_in_use_stays(team, actor, base_model, settings):
    from experiments.models import Experiment

    version = import_now(team, actor, {Split.TRAIN: csv_upload(tickets(10))})
    with team_scope(team.pk):
        experiment = Experiment.unscoped.create(team=team, name="Rank")
        experiment.runs.create(
            team=team, number=1, dataset_version=version, base_model=base_model, hyperparameters={}, config_hash=""
        )
        for refuse in (
            lambda: deletion.delete_dataset(dataset=version.dataset, actor=actor),
            lambda: deletion.discard_version(version=version, actor=actor),
        ):
            with pytest.raises(IllegalTransition, match="Rank #1"):
                refuse()
    assert reload(version).rows_path("train").exists()


def test_leaks_and_repetitions_are_reported(team, actor):
    train = [*tickets(50), tickets(50)[0], (tickets(50)[1][0], '{"service": "Wiki", "urgency": "Low"}')]
    version = import_now(
        team, actor, {Split.TRAIN: csv_upload(train), Split.TEST: csv_upload([*tickets(53)[50:], tickets(2)[1]])}
    )
    assert {warning["code"]: warning["count"] for warning in version.report["warnings"]} == {
        "repeated": 1,
        "contradictory": 1,
        "test_in_training": 1,
    }


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"skip": True}, "options"),
        ({"skip_faulty": "yes"}, "options.skip_faulty"),
        ({"validation_share": float("nan")}, "options.validation_share"),
        ({"test_share": -0.1}, "options.test_share"),
        ({"test_share": 0.5, "validation_share": 0.5}, "options.validation_share"),
        ({"seed": 1.5}, "options.seed"),
        ({"seed": True}, "options.seed"),
    ],
)
def test_bad_options_are_named(team, actor, scoped, settings, options, param):
    with pytest.raises(InvalidInput) as refused:
        services.import_files(
            team=team, actor=actor, name="T", files={Split.TRAIN: csv_upload(tickets(5))}, options=options
        )
    assert refused.value.param == param
    assert files_left(settings) == []
