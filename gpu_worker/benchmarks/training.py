"""Training measured against the stock loop: transformers' Trainer with PEFT, on the same rows in the same order.

Each subject runs in a process of its own, in turn, several rounds: other load on the machine hits all of them alike.
`manage.py benchmark training` calls `run`.
"""

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from datasets_app.demo_tickets import DEMO_SYSTEM_PROMPT, generate
from datasets_app.rendering import ChatRenderer
from gpu_worker.benchmarks import bars, llamafactory_peer, training_bars, training_limit
from gpu_worker.benchmarks.tables import conversation, read_pairs
from gpu_worker.benchmarks.training_bars import LossPair
from gpu_worker.benchmarks.training_limit import Limit
from gpu_worker.compiled import CACHE_VARIABLE, NativeUnavailable
from gpu_worker.computing import ALLOCATING, WAITING
from gpu_worker.trainer.fast.native import NativeKernels
from gpu_worker.trainer.plan import TrainingPlan
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import JobFolder, read_spec

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
    "compile_kernels": False,
    "seed": 1,
    # A random order for all, as stock loops have it: batches of similar length would spare the stock loop padding.
    "group_by_length": False,
}
# The same for all subjects.
ENVIRONMENT = {**WAITING, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
# What the portal gives its children besides; other programs have what the C library gives everybody.
OWN_ENVIRONMENT = {**ENVIRONMENT, **ALLOCATING}


@dataclass(frozen=True)
class Subject:
    """One way of training: the program, which way of ours it takes, and hyperparameters of its own."""

    module: str
    path: str = "auto"
    chosen: tuple[tuple[str, object], ...] = ()


COMPILED = (("compile_kernels", True),)
EIGHT_BIT = (("precision", "int8"), *COMPILED)
TRAINER = "gpu_worker.trainer"
SUBJECTS = {
    "transformers Trainer + PEFT": Subject("gpu_worker.benchmarks.stock_training"),
    "Tuneport, general path": Subject(TRAINER, path="general"),
    "Tuneport, by hand": Subject(TRAINER),
    "Tuneport, by hand, compiled": Subject(TRAINER, chosen=COMPILED),
    "Tuneport, by hand, compiled, int8": Subject(TRAINER, chosen=EIGHT_BIT),
}
PEER = "LLaMA-Factory"
# Those whose work is held against the machine's limit.
LIMITED = ("Tuneport, by hand, compiled", "Tuneport, by hand, compiled, int8")
LIMIT_ROUNDS = 5  # each takes seconds, and other machines on the same host disturb the product rates
SEEDS = (1, 2, 3, 4)
"""Initial adapters and orders of rows from which 8-bit arithmetic is held against exact one: after so few steps one
pair of validation losses says little, since any rounding leads elsewhere."""
SEED_STEPS = 30


@dataclass(frozen=True)
class Measurement:
    """One subject in one round. Speed in useful tokens (all tokens of the rows, no padding) per second and step."""

    subject: str
    tokens_per_s: tuple[float, ...]
    train_loss: float
    validation_loss: float | None
    peak_memory_bytes: int
    start_up_s: float
    cpu_s_per_step: float


def run(
    *,
    rows: Path | None,
    model_dir: Path,
    quick: bool = False,
    peers: Sequence[str] = (),
    progress: Callable[[str], object] = print,
) -> str:
    """Measure all subjects and return the Markdown section.

    `rows`: a CSV file with the columns prompt and response; None: demo tickets. `quick`: a few steps, one round.
    `peers`: may name "llamafactory", which is then installed beside the data if it is not there yet.
    """
    steps, rounds = (WARM_UP_STEPS + 2, 1) if quick else (13, 2)
    limit_rounds, seeds, seed_steps = (1, SEEDS[:1], steps) if quick else (LIMIT_ROUNDS, SEEDS, SEED_STEPS)
    data_dir = model_dir.parent.parent
    conversations = _conversations(rows, steps * BATCH_SIZE + VALIDATION_ROWS)
    subjects: dict[str, str] = dict.fromkeys(SUBJECTS, sys.executable)
    remarks = []
    if "llamafactory" in peers:
        peer, missing = llamafactory_peer.install(data_dir / "peers" / "llamafactory", progress=progress)
        if missing:
            remarks.append(f"{PEER}: not installed ({missing}).")
        else:
            subjects[PEER] = str(peer)
    cache = data_dir / "cache"
    _warm_up(cache)
    measurements: list[Measurement] = []
    limits: dict[str, list[Limit]] = {name: [] for name in LIMITED}
    for number in range(rounds):
        for subject, python in subjects.items():
            try:
                measured = measure(subject, conversations, model_dir, python=python, cache=cache)
            except RuntimeError as error:
                if subject != PEER:
                    raise
                remarks.append(f"{PEER}: did not run ({str(error).strip().splitlines()[-1]}).")
                continue
            measurements.append(measured)
            speed = statistics.median(measured.tokens_per_s)
            progress(f"round {number + 1}: {subject}: {speed:.0f} tokens/s, loss {measured.train_loss:.4f}")
    for number in range(limit_rounds):
        for subject in LIMITED:
            limits[subject].append(limit := measure_limit(subject, conversations, model_dir, cache=cache))
            progress(f"round {number + 1}: {subject}: {limit.share:.0%} of the machine's limit")
    told = _conversations(rows, seed_steps * BATCH_SIZE + VALIDATION_ROWS)
    pairs = [_losses(seed, told, model_dir, cache, progress) for seed in seeds]
    section = render(
        measurements, source=f"{rows.parent.name}/{rows.name}" if rows else "demo tickets", steps=steps, rounds=rounds
    )
    reached = {name: training_limit.middle(found) for name, found in limits.items()}
    shares = {name: limit.share for name, limit in reached.items()}
    held = bars.table(training_bars.bars(measurements, shares, pairs))
    rounding = training_bars.rounding_words(pairs, steps=seed_steps)
    return "\n\n".join([section, *dict.fromkeys(remarks), rounding, LIMIT_WORDS, training_limit.render(reached), held])


def _losses(
    seed: int,
    conversations: Sequence[list[dict[str, str]]],
    model_dir: Path,
    cache: Path,
    progress: Callable[[str], object],
) -> LossPair:
    """Train in exact and in 8-bit arithmetic from the same initial adapter in the same order of rows."""
    found = []
    for subject in (training_bars.FP32, training_bars.INT8):
        chosen = replace(SUBJECTS[subject], chosen=(*SUBJECTS[subject].chosen, ("seed", seed)))
        measured = measure(subject, conversations, model_dir, cache=cache, how=chosen)
        if measured.validation_loss is None:
            raise RuntimeError(f"{subject} told no validation loss.")
        found.append(measured.validation_loss)
    pair = LossPair(*found)
    progress(f"seed {seed}: validation loss {pair.exact:.4f} in fp32, {pair.rounded:.4f} in int8")
    return pair


OURS = ('{"event"', '{"tokens"')  # how lines begin that are meant for us; peers print other things too
LIMIT_WORDS = (
    "The limit is what bare matrix products at the layers' shapes reach on this machine in the same process; the share "
    "is the time that a step's products would take at that speed, divided by the step's time. FLOP are those really "
    "computed: shared beginnings once, the vocabulary head on answer tokens only. The bar of 55 % is one of exact "
    "arithmetic; 8-bit arithmetic is shown beside it: a processor that multiplies 8-bit tiles many times faster than "
    "floats leaves most of a step to what stays exact, adapters, head, norms and attention."
)


def _warm_up(cache: Path) -> None:
    """Compile what is compiled once per machine, so that start-up is measured with a warm cache."""
    os.environ[CACHE_VARIABLE] = str(cache)
    with contextlib.suppress(NativeUnavailable):
        NativeKernels(eight_bit=False)


def measure(
    subject: str,
    conversations: Sequence[list[dict[str, str]]],
    model_dir: Path,
    *,
    python: str = sys.executable,
    cache: Path | None = None,
    how: Subject | None = None,
) -> Measurement:
    """Train once in a fresh process and read its events. `how`: instead of the subject's own way.

    Raises: RuntimeError if it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        job_dir = Path(folder)
        if subject == PEER:
            _write_job(job_dir, conversations, model_dir, Subject(""))
            _write_order(job_dir)
            command = llamafactory_peer.command(python, job_dir)
        else:
            way = how or SUBJECTS[subject]
            _write_job(job_dir, conversations, model_dir, way)
            command = [python, "-m", way.module, str(job_dir)]
        started = time.time()
        events = _watched(subject, command, job_dir, cache)
    return _read_events(subject, events, started)


def measure_limit(
    subject: str, conversations: Sequence[list[dict[str, str]]], model_dir: Path, *, cache: Path | None = None
) -> Limit:
    """Hold one of our ways against the machine, in a fresh process. Raises: RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        job_dir = Path(folder)
        _write_job(job_dir, conversations, model_dir, SUBJECTS[subject])
        command = [sys.executable, "-m", "gpu_worker.benchmarks.training_limit", str(job_dir)]
        (found,) = _watched(subject, command, job_dir, cache)
    found.pop("cpu_s")
    return Limit(**found)


def _watched(subject: str, command: Sequence[str], job_dir: Path, cache: Path | None) -> list[dict[str, Any]]:
    """Return the JSON lines that a process prints, each with the CPU time used so far. Raises: RuntimeError."""
    kept = {CACHE_VARIABLE: str(cache)} if cache else {}
    environment = OWN_ENVIRONMENT if subject.startswith("Tuneport") else ENVIRONMENT
    with (job_dir / "stderr").open("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment, **kept, "TUNEPORT_STANDALONE": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        lines = (line for line in process.stdout or () if line.startswith(OURS))
        events = [json.loads(line) | {"cpu_s": _cpu_s(process.pid)} for line in lines]
        if process.wait():
            errors.seek(0)
            raise RuntimeError(f"{subject} failed ({process.returncode}): {errors.read()[-2000:]}")
    return events


def _cpu_s(pid: int) -> float:
    """Return the CPU time a process has used so far, by all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def render(measurements: Sequence[Measurement], *, source: str, steps: int, rounds: int) -> str:
    """Return the table, the first subject's speed being 1.00, and a sentence on what was done."""
    lines = [
        "## Training",
        "",
        f"SmolLM2-135M-Instruct, LoRA r = 16 on all linear layers, float32 unless said, batch {BATCH_SIZE}, "
        f"rows from {source}, {steps} steps in {rounds} rounds, subjects in turn, each in a fresh process; "
        f"the first {WARM_UP_STEPS} steps of each are left out. Same rows, same order, same initial adapter; "
        "Tuneport's processes get the memory settings that the portal starts them with, the others the C library's.",
        "",
        "| loop | useful tokens/s, median (of rounds: least–most) | ratio | training loss, last step | validation loss "
        "| peak memory, MB | start-up, s | CPU, s a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    baseline = 0.0
    for subject in dict.fromkeys(measured.subject for measured in measurements):
        own = [measured for measured in measurements if measured.subject == subject]
        speed = training_bars.speed_of(own)
        baseline = baseline or speed
        medians = [statistics.median(measured.tokens_per_s) for measured in own]
        lines.append(
            f"| {subject} | {speed:.0f} ({min(medians):.0f}–{max(medians):.0f}) | {speed / baseline:.2f} "
            f"| {own[-1].train_loss:.4f} | {_figure(own[-1].validation_loss)} "
            f"| {max(measured.peak_memory_bytes for measured in own) / 1e6:,.0f} "
            f"| {statistics.median(measured.start_up_s for measured in own):.1f} "
            f"| {statistics.median(measured.cpu_s_per_step for measured in own):.2f} |"
        )
    return "\n".join(lines)


def _figure(loss: float | None) -> str:
    return "–" if loss is None else f"{loss:.4f}"


# --- input and output of a subject -------------------------------------------------------------------------------


def _conversations(rows: Path | None, count: int) -> list[list[dict[str, str]]]:
    """Return `count` conversations in a fixed random order."""
    if rows is None:
        pairs = [(ticket.text, ticket.response) for ticket in generate(7, count)]
    else:
        pairs = read_pairs(rows)
        random.Random(7).shuffle(pairs)  # noqa: S311 -- no secret
    return [conversation(DEMO_SYSTEM_PROMPT, pair) for pair in pairs[:count]]


def _write_job(job_dir: Path, conversations: Sequence[list[dict[str, str]]], model_dir: Path, subject: Subject) -> None:
    spec = {
        "format": 1,
        "run": "benchmark",
        "base_model": {"slug": model_dir.name, "path": str(model_dir), "revision": "local"},
        "hyperparameters": HYPERPARAMETERS | dict(subject.chosen),
        "resume": False,
        "path": subject.path,
    }
    (job_dir / "data").mkdir()
    (job_dir / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    parts = {"validation": conversations[:VALIDATION_ROWS], "train": conversations[VALIDATION_ROWS:]}
    for name, part in parts.items():
        lines = [json.dumps({"row": number, "messages": messages}) for number, messages in enumerate(part, start=2)]
        (job_dir / "data" / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def _write_order(job_dir: Path) -> None:
    """Write which rows belong to which step, and their tokens, for programs that have no way to know."""
    spec = read_spec(JobFolder(job_dir))
    renderer = ChatRenderer.load(spec.base_model.path)
    lengths = [
        len(row.token_ids) for row in encode_file(job_dir / "data" / "train.jsonl", renderer, spec.hyperparameters).rows
    ]
    plan = TrainingPlan(lengths, spec.hyperparameters)
    batches = [plan.batch(step) for step in range(plan.total_steps)]
    tokens = [sum(lengths[row] for row in batch) for batch in batches]
    (job_dir / "order.json").write_text(json.dumps({"batches": batches, "tokens": tokens}), encoding="utf-8")


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
