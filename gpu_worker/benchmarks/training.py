"""Training measured against the stock loop: transformers' Trainer with PEFT, on the same rows in the same order.

Each subject runs in a process of its own, in turn, several rounds: other load on the machine hits all of them alike.
`manage.py benchmark training` calls `run`.
"""

import csv
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from datasets_app.demo_tickets import DEMO_SYSTEM_PROMPT, generate

BATCH_SIZE = 8
WARM_UP_STEPS = 3
VALIDATION_ROWS = 48
HYPERPARAMETERS = {
    "batch_size": BATCH_SIZE,
    "micro_batch_size": BATCH_SIZE,
    "epochs": 1.0,
    "learning_rate": 5e-4,
    "schedule": "constant",
    "warmup_share": 0.0,
    "evaluations_per_epoch": 0.0,
    "validation_rows": VALIDATION_ROWS,
    "precision": "fp32",
    "seed": 1,
    # A random order for all, as stock loops have it: batches of similar length would spare the stock loop padding.
    "group_by_length": False,
}
# The same for all subjects; sleeping instead of spinning threads bear other load on the machine best.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

SUBJECTS = {
    "transformers Trainer + PEFT": ("gpu_worker.benchmarks.stock_training", "auto"),
    "Tuneport, general path": ("gpu_worker.trainer", "general"),
    "Tuneport, fast path": ("gpu_worker.trainer", "auto"),
}


@dataclass(frozen=True)
class Measurement:
    """One subject in one round. Speed in useful tokens (all tokens of the rows, no padding) per second and step."""

    subject: str
    tokens_per_s: tuple[float, ...]
    train_loss: float
    validation_loss: float
    peak_memory_bytes: int
    start_up_s: float
    cpu_s_per_step: float


def run(
    *,
    rows: Path | None,
    model_dir: Path,
    quick: bool = False,
    progress: Callable[[str], object] = print,
) -> str:
    """Measure all subjects and return the Markdown section.

    `rows`: a CSV file with the columns prompt and response; None: demo tickets. `quick`: a few steps, one round.
    """
    steps, rounds = (WARM_UP_STEPS + 2, 1) if quick else (13, 2)
    conversations = _conversations(rows, steps * BATCH_SIZE + VALIDATION_ROWS)
    measurements = []
    for number in range(rounds):
        for subject in SUBJECTS:
            measured = measure(subject, conversations, model_dir)
            measurements.append(measured)
            speed = statistics.median(measured.tokens_per_s)
            progress(f"round {number + 1}: {subject}: {speed:.0f} tokens/s, loss {measured.train_loss:.4f}")
    return render(measurements, source=rows.name if rows else "demo tickets", steps=steps, rounds=rounds)


def measure(subject: str, conversations: Sequence[list[dict[str, str]]], model_dir: Path) -> Measurement:
    """Train once in a fresh process and read its events. Raises: RuntimeError if it fails."""
    module, path = SUBJECTS[subject]
    with tempfile.TemporaryDirectory() as folder:
        job_dir = Path(folder)
        _write_job(job_dir, conversations, model_dir, path=path)
        started = time.time()
        with (job_dir / "stderr").open("w+", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(job_dir)],
                env={**os.environ, **ENVIRONMENT, "TUNEPORT_STANDALONE": "1"},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            events = [json.loads(line) | {"cpu_s": _cpu_s(process.pid)} for line in process.stdout or ()]
            if process.wait():
                errors.seek(0)
                raise RuntimeError(f"{subject} failed ({process.returncode}): {errors.read()[-2000:]}")
    return _read_events(subject, events, started)


def _cpu_s(pid: int) -> float:
    """Return the CPU time a process has used so far, by all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def render(measurements: Sequence[Measurement], *, source: str, steps: int, rounds: int) -> str:
    """Return the table, the first subject's speed being 1.00, and a sentence on what was done."""
    lines = [
        "## Training",
        "",
        f"SmolLM2-135M-Instruct, LoRA r = 16 on all linear layers, float32, batch {BATCH_SIZE}, rows from {source}, "
        f"{steps} steps in {rounds} rounds, subjects in turn, each in a fresh process; "
        f"the first {WARM_UP_STEPS} steps of each are left out. Same rows, same order, same initial adapter.",
        "",
        "| loop | useful tokens/s, median (of rounds: least–most) | ratio | training loss, last step | validation loss "
        "| peak memory, MB | start-up, s | CPU, s a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    baseline = 0.0
    for subject in SUBJECTS:
        own = [measured for measured in measurements if measured.subject == subject]
        speed = statistics.median(speed for measured in own for speed in measured.tokens_per_s)
        baseline = baseline or speed
        medians = [statistics.median(measured.tokens_per_s) for measured in own]
        lines.append(
            f"| {subject} | {speed:.0f} ({min(medians):.0f}–{max(medians):.0f}) | {speed / baseline:.2f} "
            f"| {own[-1].train_loss:.4f} | {own[-1].validation_loss:.4f} "
            f"| {max(measured.peak_memory_bytes for measured in own) / 1e6:,.0f} "
            f"| {statistics.median(measured.start_up_s for measured in own):.1f} "
            f"| {statistics.median(measured.cpu_s_per_step for measured in own):.2f} |"
        )
    return "\n".join(lines)


# --- input and output of a subject -------------------------------------------------------------------------------


def _conversations(rows: Path | None, count: int) -> list[list[dict[str, str]]]:
    """Return `count` conversations in a fixed random order."""
    if rows is None:
        pairs = [(ticket.text, ticket.response) for ticket in generate(7, count)]
    else:
        with rows.open(encoding="utf-8", newline="") as file:
            pairs = [(row["prompt"], row["response"]) for row in csv.DictReader(file)]
        random.Random(7).shuffle(pairs)  # noqa: S311 -- no secret
    return [
        [
            {"role": "system", "content": DEMO_SYSTEM_PROMPT},
            {"role": "user", "content": prompt},
            {"role": "assistant", "content": response},
        ]
        for prompt, response in pairs[:count]
    ]


def _write_job(job_dir: Path, conversations: Sequence[list[dict[str, str]]], model_dir: Path, *, path: str) -> None:
    spec = {
        "format": 1,
        "run": "benchmark",
        "base_model": {"slug": model_dir.name, "path": str(model_dir), "revision": "local"},
        "hyperparameters": HYPERPARAMETERS,
        "resume": False,
        "path": path,
    }
    (job_dir / "data").mkdir()
    (job_dir / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    parts = {"validation": conversations[:VALIDATION_ROWS], "train": conversations[VALIDATION_ROWS:]}
    for name, part in parts.items():
        lines = [json.dumps({"row": number, "messages": messages}) for number, messages in enumerate(part, start=2)]
        (job_dir / "data" / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def _read_events(subject: str, events: list[dict[str, Any]], started: float) -> Measurement:
    steps = [event for event in events if event["event"] == "metric" and "loss" in event]
    training = next(event for event in events if event["event"] == "phase" and event["phase"] == "training")
    finished = events[-1]
    return Measurement(
        subject=subject,
        tokens_per_s=tuple(step["tokens_per_s"] for step in steps[WARM_UP_STEPS:]),
        train_loss=steps[-1]["loss"],
        validation_loss=finished["validation_loss"],
        peak_memory_bytes=finished["peak_memory_bytes"],
        start_up_s=training["at"] - started,
        cpu_s_per_step=statistics.median(
            after["cpu_s"] - before["cpu_s"] for before, after in pairwise(steps[WARM_UP_STEPS - 1 :])
        ),
    )
