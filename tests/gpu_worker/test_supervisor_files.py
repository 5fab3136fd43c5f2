"""What a supervisor reads and writes: the event file, the job folder, the lock, and patience with the database."""

import fcntl
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from django.db import OperationalError

from datasets_app.store import read_rows, write_rows
from experiments.models import Run
from gpu_worker import job_folder
from gpu_worker.database_patience import DatabaseGone, Patience
from gpu_worker.event_file import EventFile
from gpu_worker.job_folder import (
    FolderBusy,
    JobError,
    JobFolder,
    keep_tokens,
    offer_untuned_answers,
    prepare,
    write_spec,
)
from portal.process_table import process_entry
from portal.rls import all_teams
from tests.experiments.runs import change, change_rows, make_version, submit, write_adapter

# --- events ------------------------------------------------------------------------------------------------------


@pytest.fixture
def events(tmp_path):
    return EventFile(tmp_path / "events.jsonl", 0)


def drained(events):
    found = []
    while not (batch := events.read()).is_empty:
        found += [event["event"] for event in batch.events]
        events.advance(batch)
    return found


def test_lines_are_read_when_they_are_whole(events):
    assert events.read().is_empty
    events.path.write_bytes(b'{"event": "a"}\n{"event": "b"')
    assert drained(events) == ["a"]
    with events.path.open("ab") as file:
        file.write(b"}\n")
    assert drained(events) == ["b"]


def test_a_batch_is_read_again_until_it_is_safe(events):
    events.path.write_bytes(b'{"event": "a"}\n')
    assert events.read() == events.read()
    assert drained(events) == ["a"]
    assert drained(events) == []


def test_what_is_no_event_is_passed_over(events):
    events.path.write_bytes(b'\nwarning: odd\n[1]\n{"event": 5}\n{"other": 1}\n\xff\xfe\n{"event": "a"}\n')
    assert drained(events) == ["a"]


def test_a_line_in_which_its_writer_died_is_closed(events):
    events.path.write_bytes(b'{"event": "a"}\n{"event": "torn')
    events.seal()
    events.seal()
    with events.path.open("ab") as file:
        file.write(b'{"event": "b"}\n')
    assert drained(events) == ["a", "b"]


def test_an_endless_line_does_not_block_what_follows(events):
    events.path.write_bytes(b"x" * 1_000_000 + b'\n{"event": "a"}\n')
    assert drained(events) == ["a"]


def test_a_missing_file_is_sealed_without_being_made(events):
    events.seal()
    assert not events.path.exists()


# --- the job folder ----------------------------------------------------------------------------------------------


@pytest.fixture
def run(team, actor, base_model):
    return load(submit(team, actor, make_version(team, test=3), base_model))


def load(run):
    with all_teams("test"):
        whole = Run.unscoped.select_related("team", "base_model", "dataset_version__dataset", "dataset_version__team")
        return whole.get(pk=run.pk)


@pytest.fixture
def folder(run):
    made = JobFolder(run.folder)
    made.root.mkdir(parents=True)
    return made


@pytest.mark.django_db
def test_a_folder_holds_everything_that_the_children_need(folder, run):
    prepare(folder, run)
    spec = json.loads(folder.spec.read_text())
    assert spec["format"] == 1
    assert spec["run"] == str(run.pk)
    assert spec["base_model"] == {"slug": "tiny", "path": str(run.base_model.folder), "revision": run.base_revision}
    assert spec["hyperparameters"] == run.hyperparameters
    assert spec["resume"] is False
    chosen = {name: run.hyperparameters[name] for name in ("evaluation_rows", "max_new_tokens")}
    assert spec["evaluation"] == {
        "rows": chosen["evaluation_rows"],
        "max_new_tokens": chosen["max_new_tokens"],
        "seed": 1,  # the same rows for all runs over one dataset version
    }
    counts = {path.name: len(path.read_text().splitlines()) for path in folder.data.iterdir()}
    assert counts == {"train.jsonl": 12, "validation.jsonl": 4, "heldout.jsonl": 3}


@pytest.mark.parametrize(
    ("chosen", "asked"),
    [
        ({"top_k": 5, "temperature": 0.0}, {}),
        ({"top_k": 5, "temperature": 0.5}, {"temperature": 0.5, "top_p": 1.0, "top_k": 5}),
        ({"stop_texts": "END"}, {"stop_texts": "END"}),
        ({"stop_texts": "END", "problem_type": "classification"}, {"problem_type": "classification"}),
    ],
)
@pytest.mark.django_db
def test_the_evaluation_is_asked_as_the_person_chose(folder, run, chosen, asked):
    run.hyperparameters |= chosen
    write_spec(folder, run)
    found = json.loads(folder.spec.read_text())["evaluation"]
    assert {name: value for name, value in found.items() if name not in ("rows", "max_new_tokens", "seed")} == asked


@pytest.mark.django_db
def test_a_second_attempt_resumes_and_starts_without_half_an_adapter(folder, run):
    prepare(folder, run)
    (folder.checkpoints / "step-5").mkdir(parents=True)
    write_adapter(folder.adapter)
    prepare(folder, run)
    assert json.loads(folder.spec.read_text())["resume"] is True
    assert not folder.adapter.exists()
    write_adapter(folder.adapter)
    prepare(folder, run, keep_adapter=True)
    assert folder.adapter.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("damage", ["changed", "missing", "longer"])
def test_rows_are_checked_against_their_import(folder, run, damage):
    path = run.dataset_version.rows_path("validation")
    if damage == "missing":
        path.unlink()
    else:
        change_rows(path, "XXX" if damage == "changed" else "VPN", again=damage == "longer")
    with pytest.raises(JobError, match="not those that were imported") as refused:
        prepare(folder, run)
    assert refused.value.code == "bad_data"


@pytest.mark.django_db
def test_a_base_model_that_changed_is_refused(folder, run):
    run.base_model.revision = "f" * 40
    with pytest.raises(JobError, match="has changed") as refused:
        prepare(folder, run)
    assert refused.value.code == "bad_base_model"


@pytest.mark.django_db
def test_a_base_model_that_is_not_here_is_refused(folder, run):
    run.base_model.folder.unlink()
    with pytest.raises(JobError, match="is not on this node"):
        prepare(folder, run)


@pytest.mark.django_db
def test_the_trainer_is_never_given_a_test_row(folder, run):
    prepare(folder, run)
    assert sorted(path.name for path in folder.data.iterdir()) == ["heldout.jsonl", "train.jsonl", "validation.jsonl"]
    version = run.dataset_version
    rows = list(read_rows(version.rows_path("train")))
    rows[0] = replace(rows[0], id=next(iter(read_rows(version.rows_path("test")))).id)  # what only a bug can do
    write_rows(version.rows_path("train"), rows)
    with pytest.raises(AssertionError, match="a test row is in training"):
        prepare(folder, run)


@pytest.mark.django_db
def test_what_runs_need_is_counted_as_storage_once(folder, run):
    prepare(folder, run)
    prepare(folder, run)
    version = run.dataset_version
    with all_teams("test"):
        version.refresh_from_db()
    sizes = [path.stat().st_size for path in version.folder.rglob("*") if path.is_file()]
    assert version.size_bytes == sum(sizes)


@pytest.mark.django_db
def test_encoded_rows_go_from_one_run_of_a_version_to_the_next(folder, run, tmp_path):
    prepare(folder, run)
    for number in range(9):
        (folder.tokens / f"{number}.safetensors").write_bytes(b"tokens")
    version = run.dataset_version
    keep_tokens(folder, version)
    keep_tokens(folder, version)
    other = JobFolder(tmp_path / "other")
    other.root.mkdir()
    prepare(other, run)
    brought = list(other.tokens.iterdir())
    assert len(brought) == 6
    assert all(path.read_bytes() == b"tokens" for path in brought)
    with all_teams("test"):
        version.refresh_from_db()
    sizes = [path.stat().st_size for path in version.folder.rglob("*") if path.is_file()]
    assert version.size_bytes == sum(sizes)


@pytest.mark.django_db
def test_encoded_rows_do_not_bring_a_deleted_version_back(folder, run):
    prepare(folder, run)
    (folder.tokens / "a.safetensors").write_bytes(b"tokens")
    shutil.rmtree(run.dataset_version.folder)
    keep_tokens(folder, run.dataset_version)
    assert not run.dataset_version.folder.exists()


@pytest.mark.django_db
def test_tidying_keeps_only_what_tells_how_it_went(folder, run):
    prepare(folder, run)
    write_adapter(folder.adapter)
    (folder.checkpoints / "step-5").mkdir(parents=True)
    folder.events.write_text("")
    folder.tidy()
    assert sorted(path.name for path in folder.root.iterdir()) == ["evaluation", "events.jsonl", "spec.json"]
    assert run.dataset_version.rows_path("train").is_file()


# --- untuned answers ---------------------------------------------------------------------------------------------


def answer(row):
    return {
        "row": row, "prompt": "p", "expected": "e", "untuned": "u", "untuned_finish": "stop",
        "tuned": "t", "tuned_finish": "stop",
    }  # fmt: skip


@pytest.mark.django_db
def test_untuned_answers_of_an_equal_evaluation_are_offered(folder, run, team, actor, base_model):
    prepare(folder, run)
    earlier = load(submit(team, actor, run.dataset_version, base_model))
    other = JobFolder(earlier.folder)
    assert offer_untuned_answers(folder, run, [earlier]) is False
    other.evaluation.mkdir(parents=True)
    other.predictions.write_text("".join(json.dumps(answer(row)) + "\n" for row in (2, 3)))
    other.spec.write_text(folder.spec.read_text())
    assert offer_untuned_answers(folder, run, [earlier]) is True
    lines = [json.loads(line) for line in folder.untuned_cache.read_text().splitlines()]
    assert [line["row"] for line in lines] == [2, 3]
    assert set(lines[0]) == {"row", "prompt", "expected", "untuned", "untuned_finish"}


@pytest.mark.django_db
def test_answers_of_another_evaluation_are_not_offered(folder, run, team, actor, base_model):
    prepare(folder, run)
    earlier = load(submit(team, actor, run.dataset_version, base_model))
    change(earlier, hyperparameters={**earlier.hyperparameters, "max_new_tokens": 7})
    other = JobFolder(earlier.folder)
    other.root.mkdir(parents=True)
    prepare(other, load(earlier))
    other.predictions.write_text(json.dumps(answer(2)) + "\n")
    assert offer_untuned_answers(folder, run, [earlier]) is False
    assert not folder.untuned_cache.exists()


# --- the lock ----------------------------------------------------------------------------------------------------


def hold(folder, seconds, *arguments):
    """Another process that holds the folder's lock for some seconds and ignores requests to end."""
    program = (
        "import fcntl, os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "file = open(sys.argv[1] + '/.lock', 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); time.sleep(float(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, str(folder.root), str(seconds), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


@pytest.fixture
def plain_folder(tmp_path):
    (tmp_path / "job").mkdir()
    return JobFolder(tmp_path / "job")


def test_a_folder_is_waited_for_until_its_last_writer_is_gone(plain_folder):
    process = hold(plain_folder, 1.0)
    waited = []
    with plain_folder.locked(lambda: waited.append(True)) as descriptor:
        assert process.wait(1) == 0
        with (plain_folder.root / ".lock").open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert descriptor > 2
    assert waited


def test_an_orphan_that_does_not_end_is_killed(plain_folder, monkeypatch):
    monkeypatch.setattr(job_folder, "_ORPHAN_LIMIT_S", 0.5)
    process = hold(plain_folder, 600)
    plain_folder.note_child(process.pid)
    with plain_folder.locked(lambda: None):
        assert process.wait(5) < 0


def test_a_stranger_with_the_orphans_number_is_left_alone(plain_folder, monkeypatch):
    monkeypatch.setattr(job_folder, "_ORPHAN_LIMIT_S", 0.3)
    monkeypatch.setattr(job_folder, "_ORPHAN_KILL_LIMIT_S", 0.3)
    holder = hold(plain_folder, 600)
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    plain_folder.note_child(stranger.pid)
    try:
        with pytest.raises(FolderBusy), plain_folder.locked(lambda: None):
            pass
        assert process_entry(stranger.pid) is not None
    finally:
        for process in (holder, stranger):
            process.kill()
            process.wait()


# --- patience ----------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """No pauses, and a connection that is not really closed."""
    monkeypatch.setattr("gpu_worker.database_patience._PAUSE_S", 0.0)
    monkeypatch.setattr("gpu_worker.database_patience.connection.close", lambda: None)


def test_an_action_is_repeated_until_the_database_is_back(quick):
    failures = [OperationalError("the server closed the connection"), OperationalError("")]

    def act():
        if failures:
            raise failures.pop()
        return "done"

    patience = Patience()
    assert patience.insist(act) == "done"
    assert not patience.is_over


def test_patience_ends(quick):
    def act():
        raise OperationalError("away")

    patience = Patience(limit_s=0.05)
    with pytest.raises(DatabaseGone):
        patience.insist(act)
    assert patience.is_over


def test_other_errors_are_not_borne(quick):
    with pytest.raises(ZeroDivisionError), Patience().bearing():
        raise ZeroDivisionError
