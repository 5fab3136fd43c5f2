"""A supervisor's decisions, with real child processes: cancel, failures, evaluation, and what a child may see."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from experiments import measuring, services
from experiments.hyperparameters import Hyperparameters
from experiments.models import Adapter, EvaluatedRow, Evaluation, Run
from gpu_worker import compiled, tasks
from gpu_worker.child_process import ChildProcess, Surroundings, visible_gpus
from gpu_worker.computing import ALLOCATING
from portal.process_table import process_entry
from portal.rls import all_teams, team_scope
from tests.experiments.runs import change_rows, fresh, make_version, put_to_work, submit
from tests.gpu_worker.workshop import CRAMPED, LEASE_SECONDS, REAL, Workshop, child_environment

pytestmark = pytest.mark.slow

needs_database = pytest.mark.django_db(transaction=True)


@pytest.fixture
def run(team, actor, base_model, node, settings):
    settings.LEASE_SECONDS = LEASE_SECONDS
    return submit(team, actor, make_version(team), base_model)


@pytest.fixture
def workshop(run):
    made = Workshop(run)
    made.keep_node_alive()
    yield made
    made.close()


def cancel(run, actor):
    with team_scope(run.team_id):
        services.cancel_run(run=run, actor=actor)


# --- cancel ------------------------------------------------------------------------------------------------------


@needs_database
def test_a_cancelled_training_stops_and_keeps_its_adapter(workshop, actor):
    workshop.behave(steps=2000, step_s=0.05)
    supervisor = workshop.start()
    workshop.wait_for_step(8)
    cancel(workshop.run, actor)
    assert supervisor.wait(20) == 0
    assert fresh(workshop.run).status == "cancelled"
    with all_teams("test"):
        adapter = Adapter.unscoped.select_related("team").get(run=workshop.run)
    assert adapter.step >= 8
    assert (adapter.folder / "adapter_model.safetensors").is_file()
    assert workshop.starts() == ["0"]  # nothing is evaluated
    assert any("Stopped at step" in message for message in workshop.messages())


@needs_database
def test_a_run_cancelled_between_dispatch_and_start_never_starts(workshop, actor):
    lease = workshop.dispatch()
    cancel(workshop.run, actor)
    assert workshop.start(lease).wait(20) == 0
    assert fresh(workshop.run).status == "cancelled"
    assert not workshop.run.folder.exists()


@needs_database
def test_a_run_cancelled_in_the_evaluation_keeps_its_adapter(workshop, actor):
    workshop.behave(steps=5, evaluation_s=20.0)
    supervisor = workshop.start()
    workshop.wait_for(lambda: fresh(workshop.run).phase == "evaluating", "the evaluation")
    cancel(workshop.run, actor)
    assert supervisor.wait(20) == 0
    assert fresh(workshop.run).status == "cancelled"
    with all_teams("test"):
        assert Adapter.unscoped.get(run=workshop.run).step == 5
        assert not Evaluation.unscoped.exists()


@needs_database
@pytest.mark.slow
def test_a_trainer_that_does_not_listen_is_killed(workshop, actor):
    workshop.behave(steps=100_000, step_s=0.05, deaf=True)
    supervisor = workshop.start()
    workshop.wait_for_step(3)
    child = workshop.trainer_pid()
    cancel(workshop.run, actor)
    assert supervisor.wait(50) == 0
    assert process_entry(child) is None
    assert fresh(workshop.run).status == "cancelled"


@needs_database
def test_kernels_are_compiled_before_a_trainer_starts_that_may_only_read_them(workshop, monkeypatch, settings):
    monkeypatch.setenv("REAL_COMPILER", "1")
    workshop.behave(steps=2)
    supervisor = workshop.start()
    assert supervisor.wait(120) == 0
    assert fresh(workshop.run).status == "succeeded"
    kept = sorted((settings.DATA_DIR / "compiled" / "kernels").iterdir())
    assert [path.suffix for path in kept] == [".so", ".so"]
    assert (workshop.run.folder / "kernels.txt").read_text() == "2"
    assert compiled.main(settings.DATA_DIR / "compiled") == 0
    assert sorted((settings.DATA_DIR / "compiled" / "kernels").iterdir()) == kept


@needs_database
def test_what_a_killed_trainer_had_saved_is_kept_when_it_is_stopped(workshop, actor):
    workshop.behave(steps=100_000, step_s=0.05, deaf=True)
    supervisor = workshop.start()
    workshop.wait_for_step(7)
    cancel(workshop.run, actor)
    assert supervisor.wait(50) == 0
    assert fresh(workshop.run).status == "cancelled"
    with all_teams("test"):
        adapter = Adapter.unscoped.select_related("team").get(run=workshop.run)
    assert adapter.step >= 5
    assert adapter.step % 5 == 0, "of a checkpoint, since the trainer saved nothing when it was stopped"
    assert any(f"Stopped at step {adapter.step}" in message for message in workshop.messages())
    assert not (workshop.run.folder / "checkpoints").exists()


# --- failures ----------------------------------------------------------------------------------------------------


@needs_database
def test_a_trainers_failure_becomes_the_runs(workshop):
    workshop.behave(steps=20, fail_at=4)
    assert workshop.start().wait(30) == 0
    assert fresh(workshop.run).status == "failed"
    assert workshop.run.error_code == "nan_loss"
    assert workshop.run.error_message == "The loss became NaN. Lower the learning rate."
    assert workshop.steps() == [1, 2, 3, 4]
    assert workshop.starts() == ["0"]


@needs_database
def test_a_trainer_that_ends_without_a_word_fails_the_run(workshop):
    workshop.behave(steps=20, quit_at=4)
    assert workshop.start().wait(30) == 0
    assert fresh(workshop.run).status == "failed"
    assert "exit code 3" in workshop.run.error_message


@needs_database
def test_a_failed_evaluation_costs_only_the_quality_report(workshop):
    workshop.behave(steps=5, evaluation_fails=True)
    assert workshop.start().wait(30) == 0
    assert fresh(workshop.run).status == "succeeded"
    with all_teams("test"):
        assert Adapter.unscoped.filter(run=workshop.run).exists()
        assert not Evaluation.unscoped.exists()
    assert any("evaluator failed on purpose" in message for message in workshop.messages())


@needs_database
def test_rows_that_were_changed_after_their_import_are_not_trained_on(workshop):
    change_rows(workshop.run.dataset_version.rows_path("train"), "XXX")
    assert workshop.start().wait(30) == 0
    assert fresh(workshop.run).status == "failed"
    assert workshop.run.error_code == "bad_data"
    assert not (workshop.run.folder / "starts.log").exists()


# --- evaluation --------------------------------------------------------------------------------------------------


@needs_database
def test_a_second_run_on_the_same_rows_asks_the_untuned_model_nothing(workshop, actor):
    assert workshop.start().wait(30) == 0
    with team_scope(workshop.run.team_id):
        second = services.rerun(run=workshop.run, actor=actor)
    again = Workshop(second)
    try:
        assert again.start().wait(30) == 0
    finally:
        again.close()
    with all_teams("test"):
        answers = EvaluatedRow.unscoped.filter(evaluation__run=second).values_list("untuned", flat=True)
        assert list(answers) == ["from the cache"] * 4
        first = EvaluatedRow.unscoped.filter(evaluation__run=workshop.run).values_list("untuned", flat=True)
        assert set(first) == {"no idea"}


@needs_database
def test_quality_is_judged_field_by_field(workshop):
    assert workshop.start().wait(30) == 0
    with all_teams("test"):
        evaluation = Evaluation.unscoped.get(run=workshop.run)
        scores = list(EvaluatedRow.unscoped.values_list("tuned_score", "untuned_score", "is_exact"))
    assert evaluation.split == "validation"
    assert evaluation.report["tuned"]["exact_match"] == 1.0
    assert [field["name"] for field in evaluation.report["fields"]] == ["service"]
    assert scores == [(1.0, 0.0, True)] * 4


@needs_database
def test_kept_weights_answer_the_validation_rows_without_a_training(workshop, actor):
    workshop.behave(steps=5)
    assert workshop.start().wait(30) == 0
    with team_scope(workshop.run.team_id):
        evaluation = measuring.evaluate_kept(run=fresh(workshop.run), step=5, actor=actor)
    measured = Workshop(evaluation)
    try:
        assert measured.start().wait(30) == 0
        assert measured.starts() == ["evaluation"]  # no trainer
    finally:
        measured.close()
    assert fresh(evaluation).status == "succeeded"
    assert evaluation.gpu_seconds > 0
    with all_teams("test"):
        assert Evaluation.unscoped.get(run=evaluation).rows == 4
        assert Adapter.unscoped.count() == 1
    assert not (evaluation.folder / "adapter").exists()


@needs_database
def test_an_evaluation_that_fails_fails_its_run(workshop, actor):
    workshop.behave(steps=5)
    assert workshop.start().wait(30) == 0
    with team_scope(workshop.run.team_id):
        evaluation = measuring.evaluate_kept(run=fresh(workshop.run), step=5, actor=actor)
    measured = Workshop(evaluation)
    measured.behave(evaluation_fails=True)
    try:
        assert measured.start().wait(30) == 0
    finally:
        measured.close()
    assert (fresh(evaluation).status, evaluation.error_code) == ("failed", "internal")
    assert "on purpose" in evaluation.error_message


# --- starting ----------------------------------------------------------------------------------------------------


@needs_database
def test_the_queue_task_starts_a_detached_supervisor_for_the_right_lease_only(workshop, monkeypatch):
    for name, value in child_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TUNEPORT_EMBEDDED_PG", raising=False)
    lease = workshop.dispatch()
    assert tasks.start_run(str(lease.run_id), str(uuid.uuid4())) is False
    # Rows that are not those imported: the real supervisor ends before it starts a trainer.
    with all_teams("test"):
        workshop.run.dataset_version.rows_path("train").unlink()
    assert tasks.start_run(str(lease.run_id), str(lease.token)) is True
    workshop.wait_for_status("failed")
    assert workshop.run.error_code == "bad_data"
    assert tasks.start_run(str(lease.run_id), str(lease.token)) is False
    log = Path(os.environ["TUNEPORT_DATA_DIR"]) / "logs" / "supervisors" / f"{lease.run_id}.log"
    assert log.is_file()


@needs_database
def test_a_spawned_supervisor_has_its_own_session_and_no_queue_name(run, node, monkeypatch, tmp_path):
    probe = tmp_path / "manage.py"
    probe.write_text(
        "import json, os, sys, pathlib\n"
        f"pathlib.Path({str(tmp_path / 'seen.new')!r}).write_text(json.dumps(\n"
        "    {'arguments': sys.argv[1:], 'session': os.getsid(0), 'pid': os.getpid(),\n"
        "     'queue': os.environ.get('Q_CLUSTER_NAME')}))\n"
        f"os.rename({str(tmp_path / 'seen.new')!r}, {str(tmp_path / 'seen')!r})\n"
    )
    monkeypatch.setenv("Q_CLUSTER_NAME", "gpu-local")
    monkeypatch.setattr("django.conf.settings.BASE_DIR", tmp_path)
    lease = put_to_work(run, node, status="assigned")
    pid = tasks.spawn_supervisor(lease)
    Workshop(run).wait_for((tmp_path / "seen").exists, "the process")
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen == {
        "arguments": ["supervise", str(lease.run_id), str(lease.token)],
        "session": pid,
        "pid": pid,
        "queue": None,
    }
    assert (tmp_path / "var" / "run" / "supervisors" / f"{run.pk}.pid").read_text() == f"{pid}\n"


# --- children ----------------------------------------------------------------------------------------------------

CONFESSION = """
import json, os, pathlib, resource, sys
job = pathlib.Path(sys.argv[1])
facts = {"environment": dict(os.environ), "core": resource.getrlimit(resource.RLIMIT_CORE), "nice": os.nice(0),
         "session": os.getsid(0), "pid": os.getpid(), "cwd": os.getcwd(),
         "files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
         "largest": resource.getrlimit(resource.RLIMIT_FSIZE)[1],
         "memory": resource.getrlimit(resource.RLIMIT_DATA)[1], "fds": sorted(os.listdir("/proc/self/fd"))}
(job / "facts.json").write_text(json.dumps(facts))
"""


def wait_until(condition, limit_s=30.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def surroundings(tmp_path, **choice):
    lock = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    return Surroundings(**{"job": tmp_path, "project": tmp_path, "slot": 0, "slots": 1, "lock": lock, **choice})


def start_child(tmp_path, program, **choice):
    command = (sys.executable, "-c", program)
    return ChildProcess(
        command, surroundings(tmp_path, **choice), output=tmp_path / "events.jsonl", log=tmp_path / "child.log"
    )


def test_a_child_sees_no_secret_and_leaves_no_core(tmp_path, monkeypatch):
    secrets = ("DATABASE_URL", "TUNEPORT_SECRET_KEY", "PGPASSWORD", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH")
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    child = start_child(tmp_path, CONFESSION, slots=2, cache=tmp_path / "cache")
    wait_until(lambda: child.poll() is not None)
    assert child.poll() == 0, (tmp_path / "child.log").read_text()
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert "secret" not in facts["environment"].values()
    assert facts["environment"].items() >= ALLOCATING.items()
    assert facts["environment"]["HOME"] == str(tmp_path / "tmp")
    assert facts["environment"]["HF_HUB_OFFLINE"] == "1"
    assert facts["environment"]["TUNEPORT_CACHE"] == str(tmp_path / "cache")
    assert int(facts["environment"]["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 2)
    assert facts["core"] == [0, 0]
    assert facts["session"] == facts["pid"] == child.pid
    assert facts["nice"] >= 5
    assert 0 < facts["files"] <= 4096
    assert 0 < facts["largest"] <= 2**38
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert os.path.isdir("/proc/driver/nvidia/gpus") or 0 < facts["memory"] < machine_bytes


def test_a_child_that_wants_all_memory_gets_an_error_and_not_a_kill(tmp_path):
    if os.path.isdir("/proc/driver/nvidia/gpus"):
        pytest.skip("memory is limited by the card")
    child = start_child(tmp_path, "import os; bytearray(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))")
    wait_until(lambda: child.poll() is not None)
    assert child.poll() == 1
    assert "MemoryError" in (tmp_path / "child.log").read_text()


def test_a_child_dies_with_its_supervisor(tmp_path):
    program = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
from pathlib import Path
from gpu_worker.child_process import ChildProcess, Surroundings
job = Path({str(tmp_path)!r})
lock = os.open(job / ".lock", os.O_RDWR | os.O_CREAT)
around = Surroundings(job=job, project=job, slot=0, slots=1, lock=lock)
child = ChildProcess((sys.executable, "-c", "import time; time.sleep(600)"), around, output=job / "o", log=job / "l")
(job / "pid.new").write_text(str(child.pid)); os.rename(job / "pid.new", job / "pid")
time.sleep(600)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program])
    wait_until((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    assert process_entry(pid) is not None
    supervisor.kill()
    supervisor.wait()
    wait_until(lambda: process_entry(pid) is None)


def test_grandchildren_do_not_outlive_a_child(tmp_path):
    program = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
    child = start_child(tmp_path, program)
    wait_until(lambda: child.poll() is not None)
    grandchild = int((tmp_path / "events.jsonl").read_text())
    assert process_entry(grandchild) is not None
    assert child.kill() == 0
    wait_until(lambda: process_entry(grandchild) is None)


@pytest.mark.parametrize(
    ("allowed", "slots", "expected"),
    [(None, [1], {}), ("3", [0], {"CUDA_VISIBLE_DEVICES": "3"}), ("2,5,7", [2, 0], {"CUDA_VISIBLE_DEVICES": "7,2"})],
)
def test_each_slot_sees_its_own_gpu(allowed, slots, expected, monkeypatch, tmp_path):
    monkeypatch.setattr("gpu_worker.child_process._GPUS", tmp_path / "none")
    assert visible_gpus(slots, allowed) == expected


# --- the real trainer --------------------------------------------------------------------------------------------


@needs_database
@pytest.mark.slow
def test_the_real_trainer_survives_a_killed_supervisor(team, actor, base_model, node, settings):
    settings.LEASE_SECONDS = LEASE_SECONDS
    chosen = Hyperparameters(
        max_steps=80, epochs=100, batch_size=4, micro_batch_size=4, lora_r=4, max_length=128, checkpoint_every_steps=5,
        evaluations_per_epoch=0, evaluation_rows=4, max_new_tokens=8,
    )  # fmt: skip
    run = submit(team, actor, make_version(team), base_model, hyperparameters=chosen)
    workshop = Workshop(run, REAL)
    workshop.keep_node_alive()
    try:
        supervisor = workshop.start()
        workshop.wait_for(lambda: fresh(run).checkpoint_step >= 5, "a checkpoint", 120)
        supervisor.kill()
        supervisor.wait()
        assert workshop.start(workshop.recover()).wait(180) == 0
    finally:
        workshop.close()
    assert fresh(run).status == "succeeded", (run.error_message, workshop.log.read_text()[-3000:])
    steps = workshop.steps()
    assert steps == list(range(steps[0], 81))
    assert steps[0] in (0, 1)  # step 0 is the validation before the first step
    assert run.attempt == 2
    assert run.facts["started"]["resumed_from_step"] >= 5
    with all_teams("test"):
        adapter = Adapter.unscoped.select_related("team").get(run=run)
        evaluation = Evaluation.unscoped.get(run=run)
    assert adapter.step == 80
    assert adapter.size_bytes > 1000
    assert evaluation.rows == 4
    assert evaluation.report["untuned"] is not None


@needs_database
def test_after_a_training_that_ran_out_of_memory_the_next_one_starts(team, actor, base_model, node, settings):
    settings.LEASE_SECONDS = LEASE_SECONDS
    chosen = Hyperparameters(
        max_steps=2, batch_size=4, lora_r=4, dora=True, max_length=128, evaluations_per_epoch=0, evaluation_rows=4
    )
    version = make_version(team)
    first, second = (submit(team, actor, version, base_model, hyperparameters=chosen) for _ in range(2))
    workshop, other = Workshop(first, CRAMPED), Workshop(second, CRAMPED)
    workshop.keep_node_alive()
    try:
        workshop.behave(room=500_000)
        lease = workshop.dispatch()
        assert fresh(second).status == "queued"  # the node has one slot
        assert workshop.start(lease).wait(120) == 0
        assert (fresh(first).status, first.error_code) == ("failed", "out_of_memory"), workshop.log.read_text()[-3000:]
        assert "shorter rows" in first.error_message
        assert other.start().wait(120) == 0
        assert fresh(second).status == "succeeded", (second.error_message, workshop.log.read_text()[-3000:])
    finally:
        workshop.close()
        other.close()


# --- trials ------------------------------------------------------------------------------------------------------


@needs_database
def test_a_trial_ends_without_evaluation_and_without_adapter(team, actor, base_model, node, settings):
    settings.LEASE_SECONDS = LEASE_SECONDS
    trial = submit(team, actor, make_version(team), base_model, kind=Run.Kind.PREFLIGHT)
    workshop = Workshop(trial)
    try:
        workshop.keep_node_alive()
        workshop.behave(steps=3)
        assert workshop.start().wait(20) == 0
        assert fresh(trial).status == "succeeded"
        assert json.loads((trial.folder / "spec.json").read_text())["preflight"] is True
        assert workshop.starts() == ["0"]
        assert not (trial.folder / "adapter").exists()
        with all_teams("test"):
            assert not Adapter.unscoped.exists()
        assert fresh(trial).gpu_seconds > 0
    finally:
        workshop.close()
