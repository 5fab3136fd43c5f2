"""Job folders for tests: small support tickets, run in this process or in one of its own."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from gpu_worker.trainer.events import Events
from gpu_worker.trainer.job import Job
from gpu_worker.trainer.spec import JobFolder
from gpu_worker.trainer.stop import StopFlag
from tests.forked import Forked

ROOT = Path(__file__).resolve().parents[3]
QUEUES = {"printer": "Hardware", "password": "Access", "invoice": "Billing", "network": "Network"}
SYSTEM = "You route tickets. Answer with JSON."


def ticket_rows(count: int, *, seed: int = 0) -> list[dict]:
    """Canonical rows of different lengths that share a system prompt."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        topic = chance.choice(sorted(QUEUES))
        text = f"Ticket {number}: the {topic} " + "is broken again " * chance.randint(0, 4)
        answer = json.dumps({"queue": QUEUES[topic], "urgency": chance.choice(["High", "Low"])})
        messages = [("system", SYSTEM), ("user", text), ("assistant", answer)]
        rows.append({"row": number + 2, "messages": [{"role": r, "content": c} for r, c in messages]})
    return rows


def write_job(
    folder: Path,
    base_model: Path,
    *,
    train: list[dict],
    validation: list[dict] = (),
    resume: bool = False,
    path: str = "auto",
    start: Path | None = None,
    **chosen: object,
) -> JobFolder:
    """Write a job folder; `chosen` are hyperparameters other than the defaults, `start` an adapter to go on from."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    spec = {
        "format": 1,
        "run": "8b7c1a52-0000-4000-8000-000000000001",
        "base_model": {"slug": "tiny", "path": str(base_model), "revision": "1"},
        "hyperparameters": {"compile_kernels": False, **chosen},  # compiling takes seconds; few tests are about it
        "resume": resume,
        "path": path,
        "start_adapter": "start" if start else None,
    }
    if start:
        shutil.copytree(start, folder / "start", dirs_exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    for name, rows in (("train", train), ("validation", validation)):
        if rows:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / "data" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return JobFolder(folder)


def job_for_several(folder: Path, base_model: Path, **chosen: object) -> JobFolder:
    """Write a job folder that several processes train as one would: few rows, and no equal share for each of them."""
    chosen = {"epochs": 2, "batch_size": 4, "evaluations_per_epoch": 1, "lora_r": 4, **chosen}
    return write_job(folder, base_model, train=ticket_rows(13), validation=ticket_rows(5, seed=9), **chosen)


def run_here(job: JobFolder, *, stop: StopFlag | None = None) -> tuple[int, list[dict]]:
    """Run a job in this process; return its exit code and events."""
    stream = io.StringIO()
    code = Job(job, Events(stream), stop or StopFlag()).run()
    return code, parse(stream.getvalue())


def command(job: JobFolder) -> list[str]:
    """What starts the trainer."""
    return [sys.executable, "-m", "gpu_worker.trainer", str(job.root)]


def start_process(job: JobFolder) -> Forked:
    """Start the trainer in a process of its own."""
    return Forked(command(job), cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run_process(job: JobFolder) -> tuple[int, list[dict], str]:
    """Run the trainer to its end; return its exit code, events and standard error."""
    process = start_process(job)
    out, err = process.communicate(timeout=120)
    return process.returncode, parse(out), err


def parse(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def losses(events: list[dict]) -> dict[int, float]:
    """{step: training loss}."""
    return {event["step"]: event["loss"] for event in events if "loss" in event}


def validation_losses(events: list[dict]) -> dict[int, float]:
    """{step: validation loss}."""
    return {e["step"]: e["validation_loss"] for e in events if e["event"] == "metric" and "validation_loss" in e}


def only(events: list[dict], name: str) -> dict:
    """The one event of that name."""
    (found,) = [event for event in events if event["event"] == name]
    return found
