"""The main job by API alone: from a CSV to a called endpoint, with the real base model."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from openai import NotFoundError, OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.journeys.installation import MODEL, Installation

pytestmark = pytest.mark.slow
STEPS = 14
SHORT = {
    "max_steps": STEPS,
    "evaluation_rows": 4,
    "max_new_tokens": 24,
    "validation_rows": 4,
    "checkpoint_every_steps": 2,
}
# Who is killed as soon as which step is reached; the first three must not disturb the training at all.
VICTIMS = {"node_agent": 2, "gpu_worker.engine": 2, "qcluster": 2, "gpu_worker.trainer": 4, "supervise": 8}


@pytest.fixture(scope="module")
def version(installation: Installation, tickets: Path) -> str:
    """A ready dataset version, imported over the API."""
    names = {"train_file": "train.csv", "validation_file": "validation.csv", "test_file": "test.csv"}
    files = {field: (name, (tickets / name).read_bytes(), "text/csv") for field, name in names.items()}
    answer = installation.api("POST", "/api/datasets/", data={"name": "Tickets by API"}, files=files)
    assert answer.status_code == 201, answer.text
    key = answer.json()["id"]

    def state() -> dict:
        return installation.api("GET", f"/api/dataset-versions/{key}/").json()

    installation.until(lambda: state()["status"] not in ("draft", "importing"), "the import")
    assert (state()["status"], state()["train_rows"], state()["test_rows"]) == ("ready", 40, 8)
    return key


@pytest.fixture(scope="module")
def client(installation: Installation) -> OpenAI:
    return OpenAI(
        base_url=f"{installation.url}/v1",
        api_key=installation.token,
        max_retries=0,
        _strict_response_validation=True,
    )


def test_from_csv_to_a_called_endpoint_whatever_is_killed(installation: Installation, version: str, client: OpenAI):
    choice = {"name": "Journey", "dataset_version": version, "base_model": MODEL, "recipe": "fast"}
    order = {**choice, "hyperparameters": SHORT, "deploy_as": "journey"}
    answer = installation.api("POST", "/api/experiments/", json=order)
    assert answer.status_code == 201, answer.text
    run = _finished_in_spite_of_kills(installation, answer.json()["id"])
    assert (run["status"], run["step"], run["total_steps"]) == ("succeeded", STEPS, STEPS), run
    points = installation.api("GET", f"/api/runs/{run['id']}/metrics/?page_size=200").json()["results"]
    assert [point["step"] for point in points] == sorted({point["step"] for point in points})
    losses = _losses(installation, run["id"])
    assert list(losses) == list(range(1, STEPS + 1))
    assert losses[STEPS] < losses[1]
    report = installation.api("GET", f"/api/runs/{run['id']}/evaluation/").json()
    assert (report["split"], report["rows"]) == ("test", 4)

    installation.until(lambda: "journey" in {model.id for model in client.models.list()}, "the deployment")
    question = [{"role": "user", "content": "VPN is down for anna.k@example.org"}]
    installation.until(lambda: _deployed(installation), "the deployment to be ready", timeout_s=60)
    plain = client.chat.completions.create(model="journey", messages=question, max_tokens=8, temperature=0)
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
    assert plain.choices[0].finish_reason in ("stop", "length")
    stream = client.chat.completions.create(
        model="journey",
        messages=question,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == plain.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


def _finished_in_spite_of_kills(installation: Installation, run: str) -> dict:
    for victim, step in VICTIMS.items():
        installation.until(lambda least=step: installation.run_state(run)["step"] >= least, f"step {step}")
        [pid, *_] = installation.until(lambda name=victim: installation.pids(name), f"{victim} to be there")
        os.kill(pid, signal.SIGKILL)
    return installation.finished(run)


def _deployed(installation: Installation) -> bool:
    rows = installation.api("GET", "/api/deployments/").json()["results"]
    return any(row["name"] == "journey" and row["state"] == "ready" for row in rows)


def test_from_an_uploaded_file_to_a_called_fine_tuned_model(installation: Installation, client: OpenAI):
    """What a script written for the hosted service does, with a training that is over in a moment."""
    chosen = {"n_epochs": 1, "max_steps": 2, "evaluation_rows": 1, "sample_rows": 0, "max_new_tokens": 4}
    made = _ordered(client, "moment", chosen)

    def job() -> FineTuningJob:
        return client.fine_tuning.jobs.retrieve(made.id)

    installation.until(lambda: job().status in ("succeeded", "failed", "cancelled"), "the job to end")
    done = job()
    assert (done.status, done.error) == ("succeeded", None)
    assert done.fine_tuned_model == f"ft:{MODEL}:triage-team:moment:{made.id[6:14]}"
    assert any(event.type == "metrics" for event in client.fine_tuning.jobs.list_events(made.id))
    assert next(iter(client.fine_tuning.jobs.checkpoints.list(made.id))).step_number == 2
    patient = client.with_options(max_retries=20)  # the adapter is loaded by the first call, which is told to come back
    question = [{"role": "user", "content": "Ticket 3"}]
    answer = patient.chat.completions.create(model=done.fine_tuned_model, messages=question, max_tokens=6)
    assert (answer.model, answer.usage.completion_tokens > 0) == (done.fine_tuned_model, True)


def _ordered(client: OpenAI, suffix: str, chosen: dict[str, int]) -> FineTuningJob:
    """Upload sixteen rows and order a training."""
    rows = [
        {"messages": [{"role": "user", "content": f"Ticket {n}"}, {"role": "assistant", "content": '{"queue": "vpn"}'}]}
        for n in range(16)
    ]
    content = "\n".join(map(json.dumps, rows)).encode()
    file = client.files.wait_for_processing(client.files.create(file=("rows.jsonl", content), purpose="fine-tune").id)
    method = {"type": "supervised", "supervised": {"hyperparameters": chosen}}
    return client.fine_tuning.jobs.create(
        model=MODEL, training_file=file.id, suffix=suffix, extra_body={"method": method}
    )


def test_a_training_that_is_paused_goes_on_where_it_was(installation: Installation, client: OpenAI):
    """The real trainer stops at whatever step it has reached, gives its slot back, and continues the same curve."""
    # no checkpoint is due before the end: the one to go on from is written because of the pause
    chosen = {"n_epochs": 100, "max_steps": 200, "sample_rows": 0, "evaluation_rows": 1, "checkpoint_every_steps": 1000}
    chosen |= {"evaluations_per_epoch": 0}
    job = _ordered(client, "paused", chosen)
    # the strict client does not know that a job may be paused
    lax = OpenAI(base_url=client.base_url, api_key=client.api_key, max_retries=0).fine_tuning.jobs

    def run() -> str:
        return lax.retrieve(job.id).model_extra["run_id"]

    key = installation.until(run, "the run")
    installation.until(lambda: installation.run_state(key)["step"] >= 3, "step 3")
    lax.pause(job.id)
    installation.until(lambda: lax.retrieve(job.id).status == "paused", "the pause")
    installation.until(lambda: not installation.pids("gpu_worker.trainer", key), "the trainer to be gone")
    paused = installation.run_state(key)
    before = _losses(installation, key)
    step = paused["step"]
    assert (paused["status"], paused["attempt"], list(before)) == ("queued", 0, list(range(1, step + 1)))
    assert 3 <= step < 200
    assert lax.resume(job.id).status == "queued"
    installation.until(lambda: installation.run_state(key)["step"] >= step + 2, "two steps more")
    lax.cancel(job.id)
    assert installation.finished(key)["status"] == "cancelled"
    after = _losses(installation, key)
    assert list(after) == list(range(1, len(after) + 1))
    assert {known: after[known] for known in before} == before
    assert after[step + 2] < before[1]
    said = installation.api("GET", f"/api/runs/{key}/events/?page_size=200").json()["results"]
    assert f"The run goes on from step {step}." in [line["message"] for line in said]
    assert sum(line["message"] == "Training." for line in said) == 2


def _losses(installation: Installation, run: str) -> dict[int, float]:
    points = installation.api("GET", f"/api/runs/{run}/metrics/?page_size=200").json()["results"]
    return {point["step"]: point["values"]["loss"] for point in points if point["values"].get("loss") is not None}


def test_the_base_model_answers_and_strangers_are_told_nothing(installation: Installation, client: OpenAI):
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=4)
    assert answer.model == MODEL
    with pytest.raises(NotFoundError) as refused:
        client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "Hi"}])
    assert refused.value.code == "model_not_found"


def test_the_api_describes_itself(installation: Installation):
    document = installation.api("GET", "/api/schema/", headers={"Accept": "application/json"})
    assert document.status_code == 200
    paths = json.loads(document.content)["paths"]
    assert {"/api/datasets/", "/api/experiments/", "/api/runs/{id}/cancel/", "/api/deployments/"} <= set(paths)
