"""C5–C18 of the wire contract: files and fine-tuning jobs with the official SDK in strict mode.

The queue's tasks are called by the test, and a run's end is written by it; everything in between is the portal's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import openai
import pytest
from django.utils import timezone
from openai import OpenAI

from deployments import tasks, tuned_models
from deployments.models import ApiFile, FineTuningJob
from deployments.openai_api import job_settings, jobs
from experiments import kept, lifecycle
from experiments.models import Run
from experiments.scheduling import dispatch
from portal import usage
from portal.errors import Unavailable
from portal.models import BaseModel, Node, Quota
from portal.rls import all_teams, team_scope
from tests.deployments.sdk import sdk
from tests.experiments.runs import put_to_work, queued_tasks, write_adapter
from tests.gpu_worker.trainer.jobs import only, run_here, ticket_rows, write_job
from tests.stage import *  # noqa: F403
from tests.tiny_model import make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.django_db]


def chat_lines(count: int = 12, answer: str = '{"queue": "vpn"}') -> bytes:
    rows = [
        {"messages": [{"role": "user", "content": f"Ticket {n}"}, {"role": "assistant", "content": answer}]}
        for n in range(count)
    ]
    return "\n".join(json.dumps(row) for row in rows).encode()


def preference_lines(count: int = 12) -> bytes:
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"Ticket {n}"}]},
            "preferred_output": [{"role": "assistant", "content": "network"}],
            "non_preferred_output": [{"role": "assistant", "content": f"who knows {n}"}],
        }
        for n in range(count)
    ]
    return "\n".join(json.dumps(row) for row in rows).encode()


@pytest.fixture
def client(token: str) -> OpenAI:
    return sdk(token)


@pytest.fixture
def prepared(django_capture_on_commit_callbacks) -> Callable[[], None]:
    """Return a function that does what the queue does with waiting fine-tuning jobs."""

    def work() -> None:
        with all_teams("test"):
            waiting = list(FineTuningJob.unscoped.filter(state="validating").values_list("pk", flat=True))
        for pk in waiting:
            tasks.prepare_fine_tuning(str(pk))

    return work


def job_of(public_id: str) -> FineTuningJob:
    with all_teams("test"):
        related = ("team", "run__experiment__team", "run__dataset_version", "dataset_version")
        return FineTuningJob.unscoped.select_related(*related).get(pk=public_id.removeprefix("ftjob-"))


def upload(client: OpenAI, content: bytes = b"", name: str = "tickets.jsonl"):
    return client.files.create(file=(name, content or chat_lines()), purpose="fine-tune")


def order(client: OpenAI, **options):
    file = options.pop("training_file", None) or upload(client).id
    return client.fine_tuning.jobs.create(model="tiny", training_file=file, **options)


def change_run(public_id: str, **fields) -> Run:
    run = job_of(public_id).run
    with team_scope(run.team_id):
        Run.unscoped.filter(pk=run.pk).update(**fields)
        return Run.unscoped.select_related("team", "experiment__team").get(pk=run.pk)


def finish(public_id: str) -> Run:
    """End a job's run as its supervisor would."""
    run = change_run(public_id, status="succeeded", lease_token=None, ended_at=timezone.now(), total_steps=4, step=4)
    with team_scope(run.team_id):
        adapter = run.team.adapters.create(
            run=run, result_of=run, base_model=run.base_model, step=4, sha256="1" * 64, size_bytes=9
        )
        write_adapter(adapter.folder)
        for step in (2, 4):
            run.metrics.create(team=run.team, step=step, values={"loss": 1 / step, "validation_loss": 1 / step})
    tasks.deploy_finished_run(str(run.pk))
    return run


# --- files -------------------------------------------------------------------------------------------------------


def test_a_file_is_kept_listed_read_and_deleted(client, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(chat_lines())
    by_path = client.files.create(file=path, purpose="fine-tune")
    assert (by_path.filename, by_path.bytes, by_path.purpose) == ("rows.jsonl", path.stat().st_size, "fine-tune")
    aging = client.files.create(
        file=("a.jsonl", chat_lines()), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert aging.expires_at - aging.created_at == 7200
    assert client.files.retrieve(by_path.id).id == by_path.id
    assert client.files.content(by_path.id).read() == path.read_bytes()
    assert client.files.wait_for_processing(by_path.id).status == "processed"
    assert client.files.delete(by_path.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(by_path.id)


def test_a_bad_file_is_kept_and_says_what_is_wrong(client):
    bad = client.files.create(file=("bad.jsonl", chat_lines(2) + b"\n{broken"), purpose="fine-tune")
    found = client.files.wait_for_processing(bad.id)
    assert (found.status, found.status_details) == ("error", "Line 3 is not valid JSON.")


def test_lists_of_files_are_paged_without_gaps(client):
    made = [client.files.create(file=(f"{n}.jsonl", b"{}"), purpose="batch").id for n in range(7)]
    listed = [file.id for file in client.files.list(limit=2, purpose="batch")]
    assert listed == made[::-1]
    assert [file.id for file in client.files.list(limit=3, purpose="batch", order="asc")] == made


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"purpose": "assistants"}, "purpose"),
        ({"file": ("rows.csv", b"a,b")}, "file"),
        ({"file": ("rows.jsonl", b"")}, "file"),
        ({"expires_after": {"anchor": "created_at", "seconds": 5}}, "expires_after[seconds]"),
        ({"expires_after": {"anchor": "birth", "seconds": 7200}}, "expires_after[anchor]"),
        ({"extra_body": {"folder": "/etc"}}, "folder"),
    ],
)
def test_what_cannot_be_uploaded_is_refused_by_name(client, options, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(**{"file": ("rows.jsonl", chat_lines()), "purpose": "fine-tune", **options})
    assert caught.value.param == param


def test_a_file_counts_against_the_storage_and_goes_when_its_time_is_up(client, team):
    file = client.files.create(
        file=("a.jsonl", chat_lines()), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    with team_scope(team.pk):
        row = team.apifiles.get(pk=file.id.removeprefix("file-"))
        team.apifiles.update(expires_at=timezone.now())
        team.teamlimits.create(kind=Quota.STORAGE_BYTES, value=1)
    with pytest.raises(openai.RateLimitError) as full:
        upload(client)
    assert (full.value.code, full.value.response.headers["x-should-retry"]) == ("insufficient_quota", "false")
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)
    tasks.prune_api()
    with team_scope(team.pk):
        assert not team.apifiles.filter(pk=row.pk).exists()


# --- jobs --------------------------------------------------------------------------------------------------------


def test_a_job_becomes_a_run_and_its_model_can_be_called_by_name(client, prepared, team, node):
    job = order(client, suffix="triage", seed=7, metadata={"ticket": "4711"}, method={
        "type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 6}}})  # fmt: skip
    assert (job.status, job.seed, job.fine_tuned_model) == ("validating_files", 7, None)
    prepared()
    run = job_of(job.id).run
    chosen = run.hyperparameters
    assert (chosen["epochs"], chosen["batch_size"], chosen["seed"]) == (2, 6, 7)
    assert run.experiment.name == "API: triage"
    assert run.dataset_version.total_rows == 12
    assert client.fine_tuning.jobs.retrieve(job.id).status == "queued"
    change_run(job.id, status="running", lease_token=run.pk, eta_s=60.0)
    running = client.fine_tuning.jobs.retrieve(job.id)
    assert running.status == "running"
    assert running.estimated_finish > timezone.now().timestamp()
    finish(job.id)
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert (done.status, done.finished_at is not None) == ("succeeded", True)
    assert done.fine_tuned_model == f"ft:tiny:service-desk:triage:{job.id[6:14]}"
    assert done.fine_tuned_model in [model.id for model in client.models.list()]
    (figures,) = done.result_files
    assert client.files.content(figures).text.startswith("step,train_loss,valid_loss\n2,0.5,0.5\n")
    with team_scope(team.pk):
        assert team.deployments.get(name=f"ft-triage-{job.id[6:14]}").versions.get().adapter.run_id == run.pk
    assert client.models.delete(done.fine_tuned_model).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(done.fine_tuned_model)


def test_trained_tokens_are_those_that_the_trainer_has_read(client, prepared, node, client_for, alice, tmp_path):
    """A real training of two epochs tells its run how many, and so do the job and the run's page."""
    job = order(client)
    prepared()
    run = job_of(job.id).run
    made = write_job(tmp_path / "job", make_tiny_model(tmp_path / "model"), train=ticket_rows(6), epochs=2)
    code, events = run_here(made)
    assert code == 0
    told = [event for event in events if event["event"] != "metric"]  # `finish` writes points of its own
    lifecycle.record_events(put_to_work(run, node), told)
    assert client.fine_tuning.jobs.retrieve(job.id).trained_tokens is None, "while it runs"
    finish(job.id)
    tokens = 2 * only(events, "started")["tokens_per_epoch"]
    assert tokens > 100
    assert client.fine_tuning.jobs.retrieve(job.id).trained_tokens == tokens
    page = client_for(alice).get(f"/t/service-desk/runs/{run.pk}/").content.decode()
    assert f"{tokens} tokens read in all".encode() in page.replace("\u202f", "").replace(",", "").encode()


def test_legacy_hyperparameters_and_our_own_are_understood(client, prepared):
    job = order(
        client,
        hyperparameters={"n_epochs": 3, "learning_rate_multiplier": "auto"},
        extra_body={"recipe": "fast"},
    )
    asked = {"hyperparameters": {"lora_r": 4, "learning_rate_multiplier": 2}}
    method = {"type": "supervised", "supervised": asked}
    ours = order(client, training_file=job.training_file, extra_body={"method": method})
    prepared()
    first, second = job_of(job.id).run, job_of(ours.id).run
    assert (first.hyperparameters["epochs"], first.recipe) == (3, "fast")
    assert second.hyperparameters["lora_r"] == 4
    usual = order(client, training_file=job.training_file)
    prepared()
    doubled = second.hyperparameters["learning_rate"] / job_of(usual.id).run.hyperparameters["learning_rate"]
    assert doubled == pytest.approx(2)
    assert first.dataset_version_id == second.dataset_version_id, "the same file is stored once"


def test_the_recipe_looks_at_base_model_rows_and_what_is_continued(client, prepared, monkeypatch):
    small = order(client)
    prepared()
    BaseModel.objects.update(parameters=7_000_000_000)
    large = order(client, training_file=small.training_file)
    prepared()
    monkeypatch.setattr(job_settings, "required_settings", lambda parent: {"lora_r": 48, "lora_alpha": 7.0})
    continued = job_of(large.id)
    continued.continue_from = continued.run
    chosen = [job_of(job.id).run.hyperparameters for job in (small, large)]
    assert [one["learning_rate"] for one in chosen] == [0.002, 0.0002]
    with team_scope(continued.team_id):
        taken_over = job_settings.hyperparameters_for(continued, continued.run.dataset_version)
        continued.asked = {"lora_r": 4}  # refused when the run is made, in words of its own
        asked = job_settings.hyperparameters_for(continued, continued.run.dataset_version)
    assert (taken_over.lora_r, taken_over.lora_alpha, asked.lora_r) == (48, 7.0, 4)


def test_a_training_file_counts_once_as_storage_whoever_shows_it(client, prepared, team):
    def stored() -> int:
        with team_scope(team.pk):
            return usage.storage_bytes(team)

    file = upload(client)
    before = stored()
    job = order(client, training_file=file.id)
    prepared()
    version = job_of(job.id).dataset_version
    with team_scope(team.pk):
        (source,) = version.sources(manager="unscoped").all()
        assert stored() == before + version.size_bytes + source.unpacked_bytes
    assert source.upload_path.stat().st_nlink > 1, "one file under two names"
    client.files.delete(file.id)
    assert stored() == before + version.size_bytes + source.unpacked_bytes, "now the version counts it"


def test_preferences_become_rows_with_a_worse_answer(client, prepared):
    file = upload(client, preference_lines())
    job = order(client, training_file=file.id, method={"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}})
    prepared()
    run = job_of(job.id).run
    assert (run.hyperparameters["problem_type"], run.hyperparameters["preference_beta"]) == ("preference", 0.2)
    assert client.fine_tuning.jobs.retrieve(job.id).method.dpo.hyperparameters.beta == 0.2


def test_a_validation_file_is_what_the_run_is_checked_with(client, prepared):
    held_out = upload(client, chat_lines(5, '{"queue": "mail"}'), "held-out.jsonl")
    job = order(client, validation_file=held_out.id)
    prepared()
    version = job_of(job.id).dataset_version
    assert (version.train_rows, version.validation_rows) == (12, 5)
    assert client.fine_tuning.jobs.retrieve(job.id).validation_file == held_out.id


@pytest.mark.parametrize(
    "content",
    [
        b'{"messages": []}\n' * 3,
        b'{"question": "x"}\n',
        b"[]\n",
        b"{broken\n",
        chat_lines(3) + b'\n{"messages": [{"role": "wizard", "content": "x"}]}',
    ],
)
def test_a_bad_training_file_fails_the_job_and_is_named(client, prepared, content):
    job = order(client, training_file=upload(client, content).id)
    prepared()
    failed = client.fine_tuning.jobs.retrieve(job.id)
    assert (failed.status, failed.error.param) == ("failed", "training_file")
    assert failed.error.message
    (newest, *_older) = client.fine_tuning.jobs.list_events(job.id)
    assert (newest.level, newest.message) == ("error", failed.error.message)


def test_a_bad_validation_file_is_named_too(client, prepared):
    bad = upload(client, b'{"messages": "none"}\n' * 5, "held-out.jsonl")
    job = order(client, validation_file=bad.id)
    prepared()
    assert client.fine_tuning.jobs.retrieve(job.id).error.param == "validation_file"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"suffix": "a b"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"wings": 2}}, "hyperparameters.wings"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "integrations"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"extra_body": {"recipe": "secret"}}, "recipe"),
        ({"extra_body": {"gpu": 7}}, "gpu"),
    ],
)
def test_what_a_job_cannot_do_is_refused_by_name(client, options, param, world):
    with pytest.raises(openai.BadRequestError) as caught:
        order(client, training_file=world.file.public_id, **options)
    assert caught.value.param == param


def test_what_is_refused_says_what_there_is_instead(client, world):
    for options, words in (
        ({"method": {"type": "reinforcement"}}, "use supervised, or dpo"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "x"}}]}, "A tracker that an admin has set up"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            order(client, training_file=world.file.public_id, **options)
        assert (caught.value.code, words in caught.value.message) == ("unsupported_parameter", True)
    assert order(client, training_file=world.file.public_id, integrations=[]).integrations == []


def test_what_is_not_there_and_what_is_another_teams_is_the_same(client, stage, world):
    theirs = sdk(stage.other_token)
    for attempt in (
        lambda: theirs.files.retrieve(world.file.public_id),
        lambda: theirs.fine_tuning.jobs.retrieve(world.job.public_id),
        lambda: theirs.fine_tuning.jobs.create(model="tiny", training_file=world.file.public_id),
        lambda: client.fine_tuning.jobs.create(model="nobody", training_file=world.file.public_id),
        lambda: client.fine_tuning.jobs.retrieve("ftjob-1"),
    ):
        with pytest.raises(openai.NotFoundError):
            attempt()
    nobody = theirs.files.with_raw_response
    bodies = []
    for file_id in (world.file.public_id, "file-" + "0" * 32):
        with pytest.raises(openai.NotFoundError) as caught:
            nobody.retrieve(file_id)
        bodies.append(caught.value.response.content)
    assert bodies[0] == bodies[1]


def test_a_job_is_made_once_for_each_idempotency_key_and_for_retries_of_the_sdk(
    client, world, team, django_capture_on_commit_callbacks
):
    def make(key: str = "", tries: str = "", **options):
        headers = {"Idempotency-Key": key} if key else {}
        headers |= {"x-stainless-retry-count": tries} if tries else {}
        return order(client, training_file=world.file.public_id, extra_headers=headers, **options)

    with django_capture_on_commit_callbacks(execute=True):
        first, again = make("one"), make("one")
    assert first.id == again.id
    messages = [message for message in queued_tasks() if message[1] == jobs.PREPARE]
    assert [arguments for _cluster, _task, arguments in messages] == [(str(job_of(first.id).pk),)], "one message"
    with pytest.raises(openai.ConflictError) as caught:
        make("one", suffix="other")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert make("two").id != first.id
    plain = make()
    assert make(tries="1").id == plain.id, "a retry after a timeout"
    assert make().id != plain.id, "asked for twice on purpose"
    with team_scope(team.pk):
        assert team.finetuningjobs.count() == 5


def test_a_job_is_cancelled_and_paused_once_for_each_idempotency_key(client, token, prepared, team):
    lax = sdk(token, strict=False)
    job = order(client)
    prepared()
    for act in (lax.fine_tuning.jobs.pause, lax.fine_tuning.jobs.resume, lax.fine_tuning.jobs.cancel):
        headers = {"Idempotency-Key": act.__name__}
        raw = getattr(lax.fine_tuning.jobs.with_raw_response, act.__name__)
        first, again = raw(job.id, extra_headers=headers), raw(job.id, extra_headers=headers)
        assert (first.headers.get("Idempotent-Replayed"), again.headers["Idempotent-Replayed"]) == (None, "true")
        assert json.loads(first.content) == json.loads(again.content)
    other = order(client)
    with pytest.raises(openai.ConflictError) as caught:
        client.fine_tuning.jobs.cancel(other.id, extra_headers={"Idempotency-Key": "cancel"})
    assert caught.value.code == "idempotency_key_reused"
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.cancel(job.id)  # asked for on purpose


def test_a_cancel_that_the_sdk_sends_again_after_a_timeout_is_no_conflict(client, prepared):
    job = order(client)
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    again = client.fine_tuning.jobs.cancel(job.id, extra_headers={"x-stainless-retry-count": "1"})
    assert again.status == "cancelled"


def test_a_file_is_kept_once_for_each_idempotency_key(client):
    def upload(content: bytes):
        headers = {"Idempotency-Key": "a file"}
        return client.files.create(file=("asks.jsonl", content), purpose="batch", extra_headers=headers)

    first, again = upload(b'{"custom_id": "a"}\n'), upload(b'{"custom_id": "a"}\n')
    assert first.id == again.id
    assert client.files.content(first.id).read() == b'{"custom_id": "a"}\n'
    with pytest.raises(openai.ConflictError):
        upload(b'{"custom_id": "b"}\n')


def test_events_are_paged_newest_first_while_others_arrive(client, prepared, team):
    job = order(client)
    prepared()
    run = job_of(job.id).run
    with team_scope(team.pk):
        for step in range(1, 8):
            run.metrics.create(team=team, step=step, values={"loss": 1.0})
            run.events.create(team=team, message=f"Line {step}", level="warning")
    before = [event.id for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert len(before) == len(set(before)) == 16
    seen = []
    for number, event in enumerate(client.fine_tuning.jobs.list_events(job.id, limit=3)):
        seen.append(event.id)
        if number < 5:
            with team_scope(team.pk):
                run.events.create(team=team, message="meanwhile")
    assert seen == before
    first = client.fine_tuning.jobs.list_events(job.id, limit=20).data
    times = [event.created_at for event in first]
    assert times == sorted(times, reverse=True)
    metric = next(event for event in first if event.type == "metrics")
    assert metric.data["train_loss"] == 1.0


def test_checkpoints_carry_their_figures(client, prepared, node):
    job = order(client)
    prepared()
    finish(job.id)
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=1))
    assert [checkpoint.step_number for checkpoint in checkpoints] == [4, 2]
    assert checkpoints[0].metrics.valid_loss == 0.25
    assert checkpoints[0].fine_tuned_model_checkpoint.endswith(":ckpt-step-4")
    assert client.models.retrieve(checkpoints[0].fine_tuned_model_checkpoint).object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(checkpoints[1].fine_tuned_model_checkpoint)


def test_kept_checkpoints_answer_by_their_names(client, prepared, node, engine, team, load_placements, monkeypatch):
    job = order(client)
    prepared()
    run = finish(job.id)
    write_adapter(run.folder / "kept" / "step-2")
    listed = {one.step_number: one for one in client.fine_tuning.jobs.checkpoints.list(job.id)}
    assert {step: one.is_callable for step, one in listed.items()} == {4: True, 2: True}
    name = listed[2].fine_tuned_model_checkpoint
    assert client.models.retrieve(name).id == name
    monkeypatch.setattr("deployments.targets.WAKE_PATIENCE_S", 0.0)
    with pytest.raises(Unavailable):
        tuned_models.resolve(team, name)
    load_placements(node)
    target = tuned_models.resolve(team, name)
    with team_scope(team.pk):
        assert target.engine_model == kept.adapter_of(job_of(job.id).run, 2).engine_name
    assert target.public_name == name
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name.replace("step-2", "step-3"))


@pytest.mark.parametrize("status", ["validating", "queued", "assigned", "running", "succeeded", "failed", "cancelled"])
def test_cancelling_from_every_state(client, prepared, status):
    job = order(client)
    if status != "validating":
        prepared()
        lease = job_of(job.id).run.pk if status in ("assigned", "running") else None
        change_run(job.id, status=status, lease_token=lease)
    if status in ("succeeded", "failed", "cancelled"):
        with pytest.raises(openai.ConflictError) as caught:
            client.fine_tuning.jobs.cancel(job.id)
        assert caught.value.code == "job_not_cancellable"
        assert caught.value.response.headers["x-should-retry"] == "false"
        return
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == ("running" if status == "running" else "cancelled")
    prepared()
    assert client.fine_tuning.jobs.retrieve(job.id).status == cancelled.status


@pytest.mark.parametrize("early", [True, False], ids=["before there is a run", "with a run"])
def test_cancelling_a_paused_job(client, token, prepared, early):
    """Whoever pauses is answered `paused`, which the SDK's strict model does not know; what comes behind it, does."""
    job = order(client)
    if not early:
        prepared()
    assert sdk(token, strict=False).fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    prepared()
    assert client.fine_tuning.jobs.retrieve(job.id).status == "cancelled"
    if not early:
        dispatch()
        assert job_of(job.id).run.status == "cancelled", "it is not started"
    with pytest.raises(openai.ConflictError):
        client.fine_tuning.jobs.resume(job.id)


def test_a_conflict_is_asked_for_once_though_the_sdk_would_try_again(client, token, prepared):
    job = order(client)
    client.fine_tuning.jobs.cancel(job.id)
    patient = sdk(token, retries=3)
    sent = []
    patient._client.event_hooks["request"] = [sent.append]
    for number, attempt in enumerate(
        (lambda: patient.fine_tuning.jobs.cancel(job.id), lambda: patient.fine_tuning.jobs.resume(job.id)), start=1
    ):
        with pytest.raises(openai.ConflictError):
            attempt()
        assert len(sent) == number


@pytest.mark.parametrize("early", [True, False])
def test_a_paused_job_waits_until_it_is_resumed(token, prepared, node, early):
    lax = sdk(token, strict=False)
    Node.objects.update(heartbeat_at=timezone.now())
    job = order(lax)
    if not early:
        prepared()
    assert lax.fine_tuning.jobs.pause(job.id).status == "paused"
    prepared()
    assert lax.fine_tuning.jobs.retrieve(job.id).status == "paused"
    dispatch()
    assert job_of(job.id).run.status == "queued", "nobody starts it"
    assert lax.fine_tuning.jobs.resume(job.id).status == "queued"
    dispatch()
    assert job_of(job.id).run.status == "assigned"
    with pytest.raises(openai.ConflictError):
        lax.fine_tuning.jobs.resume(job.id)


def test_a_list_of_jobs_is_paged_and_narrowed_by_metadata(client, world):
    file = world.file.public_id
    made = [order(client, training_file=file, metadata={"n": str(n)}).id for n in range(5)]
    listed = [job.id for job in client.fine_tuning.jobs.list(limit=2)]
    assert listed == [*made[::-1], world.job.public_id]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"n": "3"})] == [made[3]]
    for query in ({"metadata[]": "3"}, {"metadata[": "3"}, {"metadata": "n"}):
        with pytest.raises(openai.BadRequestError):
            client.fine_tuning.jobs.list(extra_query=query)


def test_a_file_that_a_job_still_reads_stays(client, prepared):
    job = order(client)
    with pytest.raises(openai.ConflictError):
        client.files.delete(job.training_file)
    prepared()
    assert client.files.delete(job.training_file).deleted
    assert client.fine_tuning.jobs.retrieve(job.id).training_file == job.training_file
    with all_teams("test"):
        assert ApiFile.unscoped.filter(pk=job.training_file.removeprefix("file-")).count() == 0
