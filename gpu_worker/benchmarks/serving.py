"""Serving measured against transformers' generate with PEFT: the same requests, the same adapters, one run.

Our engine is asked over HTTP on the loopback device, as a deployment is; transformers runs static batches in its own
process, without HTTP, which is the best case for it. `manage.py benchmark serving` calls `run`.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gpu_worker.benchmarks.serving_load import Load, Request, ask_alone, ask_in_flight, first_tokens
from gpu_worker.benchmarks.serving_workload import Workload, prepare_workload

IN_FLIGHT = 8
KEY = "benchmark"
BASE_NAME = "base"
# The same for all subjects: sleeping instead of spinning threads bear other load on the machine best.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
START_LIMIT_S = 300.0


@dataclass(frozen=True)
class Figures:
    """One subject on one kind of request. Times in seconds, memory in bytes; None: not measured."""

    subject: str
    latency_s: float
    first_token_s: float
    one_adapter_per_s: float
    mixed_per_s: float
    mixed_p95_s: float
    equal: str
    resident_bytes: int
    cold_start_s: float
    hot_add_s: float | None = None


def run(
    *,
    rows: Path | None,
    model_dir: Path,
    quick: bool = False,
    progress: Callable[[str], object] = print,
) -> str:
    """Measure both subjects and return the Markdown section.

    `rows`: a CSV file with the columns prompt and response; None: demo tickets. `quick`: few requests, untrained
    adapters whose answers run to their limit.
    """
    requests, training_steps = (8, 2) if quick else (16, 24)
    with tempfile.TemporaryDirectory() as folder:
        progress(f"training one adapter for {training_steps} steps")
        workload = prepare_workload(rows, model_dir, Path(folder), requests=requests, training_steps=training_steps)
        baseline = _measure_transformers(workload, Path(folder), progress)
        figures = _measure_engine(workload, Path(folder), baseline, progress)
    return render([baseline, *figures], workload, source=rows.name if rows else "demo tickets", requests=requests)


@dataclass(frozen=True)
class _Baseline(Figures):
    """The baseline with its answers: the judge of ours."""

    answers: tuple[str, ...] = ()


def _measure_transformers(workload: Workload, folder: Path, progress: Callable[[str], object]) -> _Baseline:
    """Measure generate with PEFT in a process of its own. Raises: RuntimeError if it fails."""
    order = folder / "baseline.json"
    order.write_text(json.dumps(workload.to_dict() | {"in_flight": IN_FLIGHT}), encoding="utf-8")
    child = subprocess.run(
        [sys.executable, "-m", "gpu_worker.benchmarks.stock_serving", str(order)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"the baseline failed ({child.returncode}): {child.stderr[-2000:]}")
    found = json.loads(child.stdout.splitlines()[-1])
    progress(f"transformers: {found['latency_s']:.2f} s alone, {found['mixed_per_s']:.2f} mixed requests/s")
    answers = tuple(found.pop("answers"))
    return _Baseline(subject="transformers generate + PEFT, static batches", equal="is it", answers=answers, **found)


def _measure_engine(
    workload: Workload, folder: Path, baseline: _Baseline, progress: Callable[[str], object]
) -> list[Figures]:
    """Measure our engine, with free answers and within a schema."""
    with running_engine(workload.model_dir, folder):
        pass  # the first start of a base model computes the self-check's reference; it is not the usual one
    with running_engine(workload.model_dir, folder) as (client, pid, cold_start_s):
        hot_add_s = statistics.median([_load(client, name, path) for name, path in workload.adapters.items()])
        found = []
        for subject, schema in (("Tuneport engine", None), ("Tuneport engine, JSON schema", workload.schema)):
            load = _requests(workload, schema)
            measured = _measure_load(client, load)
            found.append(
                Figures(
                    subject=subject,
                    equal=_agreement(measured.answers, baseline) if schema is None else "as without drafting (test)",
                    resident_bytes=resident_bytes(pid),
                    cold_start_s=cold_start_s,
                    hot_add_s=hot_add_s,
                    **measured.figures(),
                )
            )
            progress(f"{subject}: {found[-1].latency_s:.2f} s alone, {found[-1].mixed_per_s:.2f} mixed requests/s")
    return found


@dataclass(frozen=True)
class _Measured:
    alone: Load
    first_token_s: float
    one: Load
    mixed: Load

    @property
    def answers(self) -> list[str]:
        return self.alone.answers

    def figures(self) -> dict[str, float]:
        return {
            "latency_s": statistics.median(self.alone.latencies_s),
            "first_token_s": self.first_token_s,
            "one_adapter_per_s": self.one.per_s,
            "mixed_per_s": self.mixed.per_s,
            "mixed_p95_s": self.mixed.p95_s,
        }


def _requests(workload: Workload, schema: dict[str, Any] | None) -> list[Request]:
    names = list(workload.adapters)
    return [
        Request(names[number % len(names)], messages, workload.max_tokens, schema)
        for number, messages in enumerate(workload.conversations)
    ]


def _measure_load(client: httpx.Client, mixed: Sequence[Request]) -> _Measured:
    one = [Request(mixed[0].model, request.messages, request.max_tokens, request.schema) for request in mixed]
    ask_alone(client, one[:1])
    alone = one[: max(4, len(one) // 3)]
    return _Measured(
        alone=ask_alone(client, alone),
        first_token_s=statistics.median(first_tokens(client, alone)),
        one=ask_in_flight(client, one, IN_FLIGHT),
        mixed=ask_in_flight(client, mixed, IN_FLIGHT),
    )


def _agreement(answers: Sequence[str], baseline: _Baseline) -> str:
    equal = sum(own == other for own, other in zip(answers, baseline.answers, strict=False))
    return f"{equal}/{min(len(answers), len(baseline.answers))}"


def _load(client: httpx.Client, name: str, path: Path) -> float:
    """Load an adapter into the running engine; return how long that took."""
    started = time.perf_counter()
    client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path)}).raise_for_status()
    return time.perf_counter() - started


@contextmanager
def running_engine(model_dir: Path, folder: Path) -> Iterator[tuple[httpx.Client, int, float]]:
    """Run an engine; yield a client for it, its process id and the seconds from start to service."""
    ready_file = folder / "engine.json"
    started = time.perf_counter()
    command = [sys.executable, "-m", "gpu_worker.engine", "--base-model", str(model_dir), "--name", BASE_NAME]
    with (folder / "engine.log").open("ab") as log:
        child = subprocess.Popen(
            [*command, "--ready-file", str(ready_file)],
            env={**os.environ, **ENVIRONMENT, "ENGINE_API_KEY": KEY},
            stderr=log,
        )
    try:
        while not ready_file.exists():
            if child.poll() is not None or time.perf_counter() - started > START_LIMIT_S:
                raise RuntimeError(f"the engine did not start: {(folder / 'engine.log').read_text()[-2000:]}")
            time.sleep(0.02)
        cold_start_s = time.perf_counter() - started
        port = json.loads(ready_file.read_text())["port"]
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=600, trust_env=False) as client:
            yield client, child.pid, cold_start_s
    finally:
        child.terminate()
        child.wait()


def resident_bytes(pid: int) -> int:
    """Return the memory that a process occupies now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def render(figures: Sequence[Figures], workload: Workload, *, source: str, requests: int) -> str:
    """Return the table and a sentence on what was done."""
    lines = [
        "## Serving",
        "",
        f"SmolLM2-135M-Instruct in float32 with {len(workload.adapters)} LoRA adapters (r = 16, all linear layers), "
        f"greedy, {requests} requests from {source} of {workload.prompt_tokens:.0f} prompt tokens on average and at "
        f"most {workload.max_tokens} answer tokens; {IN_FLIGHT} requests in flight for the rates. "
        "Tuneport over HTTP, transformers without.",
        "",
        f"| engine | alone: latency, s | first token, s | requests/s, one adapter | {len(workload.adapters)} mixed "
        "| mixed: p95, s | answers equal transformers' | resident, MB | cold start, s | hot add, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in figures:
        hot_add = "–" if row.hot_add_s is None else f"{row.hot_add_s:.2f}"
        lines.append(
            f"| {row.subject} | {row.latency_s:.2f} | {row.first_token_s:.2f} | {row.one_adapter_per_s:.2f} "
            f"| {row.mixed_per_s:.2f} | {row.mixed_p95_s:.1f} | {row.equal} | {row.resident_bytes / 1e6:,.0f} "
            f"| {row.cold_start_s:.1f} | {hot_add} |"
        )
    return "\n".join(lines)
