"""Serving measured against peers: the same requests, the same adapters, one run.

Engines are asked over HTTP on the loopback device, as a deployment is; transformers runs static batches in its own
process, without HTTP, which is the best case for it. Every engine is warmed with other requests than are measured,
under every adapter alike: what is compared is an engine at work. `manage.py benchmark serving` calls `run`.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from datasets_app.rendering import ChatRenderer
from gpu_worker.benchmarks import bars, serving_bars
from gpu_worker.benchmarks.children import figures_of
from gpu_worker.benchmarks.processor_time import Stolen
from gpu_worker.benchmarks.serving_adapters import Switching, measure_switching
from gpu_worker.benchmarks.serving_bars import WITHIN_SCHEMA
from gpu_worker.benchmarks.serving_load import (
    Load,
    Request,
    ask_alone,
    ask_in_flight,
    ask_in_turn,
    first_tokens,
    rounds_of,
)
from gpu_worker.benchmarks.serving_page import EXACT, Figures, agreed, render
from gpu_worker.benchmarks.serving_peers import measure_peers
from gpu_worker.benchmarks.serving_steps import StepCost, measure_steps, sentence
from gpu_worker.benchmarks.serving_workload import Workload, prepare_workload
from gpu_worker.benchmarks.training import ENVIRONMENT
from gpu_worker.compiled import CACHE_VARIABLE
from gpu_worker.engine.config import Precision

IN_FLIGHT = 8
CROWD = 32
KEY = "benchmark"
BASE_NAME = "base"
START_LIMIT_S = 300.0


@dataclass(frozen=True)
class Subject:
    """One way of running our own engine: its arithmetic, and whether answers keep to the schema."""

    name: str
    weights: Precision
    within_schema: bool = False


OWN = (
    Subject(EXACT, "fp32"),
    Subject(EXACT + WITHIN_SCHEMA, "fp32", within_schema=True),
    Subject("Tuneport engine, int8", "int8"),
    Subject("Tuneport engine, int8" + WITHIN_SCHEMA, "int8", within_schema=True),
)


def run(
    *,
    rows: Path | None,
    model_dir: Path,
    quick: bool = False,
    peers: Sequence[str] = (),
    progress: Callable[[str], object] = print,
) -> str:
    """Measure all subjects and return the Markdown section.

    `rows`: a CSV file with the columns prompt and response; None: demo tickets. `quick`: few requests, untrained
    adapters whose answers run to their limit. `peers`: keys of `serving_peers.PEERS`, installed beside the data.
    """
    requests, training_steps = (4, 2) if quick else (CROWD, 24)
    own = OWN[:2] if quick else OWN
    with tempfile.TemporaryDirectory() as folder:
        progress(f"training each adapter for {training_steps} steps")
        workload = prepare_workload(rows, model_dir, Path(folder), requests=requests, training_steps=training_steps)
        baseline = _measure_transformers(workload, Path(folder), progress)
        figures: list[Figures] = [baseline]
        remarks: list[str] = []
        if peers:
            others, remarks = _measure_peers(peers, workload, Path(folder), baseline, progress)
            figures += others
        steps: dict[Precision, list[StepCost]] = {}
        switching: dict[Precision, Switching] = {}
        for weights in dict.fromkeys(subject.weights for subject in own):
            chosen = [subject for subject in own if subject.weights == weights]
            found, switching[weights] = _measure_engine(workload, Path(folder), baseline, chosen, progress)
            figures += found
            steps[weights] = _measure_steps(workload, Path(folder), weights, progress)
            remarks += [switching[weights].sentence(switching["fp32"]), sentence(steps[weights], arithmetic=weights)]
            progress(remarks[-2])
    section = render(figures, workload, source=rows.name if rows else "demo tickets", in_flight=IN_FLIGHT, crowd=CROWD)
    held = serving_bars.bars(figures, steps["fp32"], switching["fp32"], in_flight=IN_FLIGHT, crowd=CROWD)
    return "\n\n".join([section, *remarks, serving_bars.WORDS, bars.table(held)])


def _measure_transformers(workload: Workload, folder: Path, progress: Callable[[str], object]) -> Figures:
    """Measure generate with PEFT in a process of its own: its answers judge ours. Raises: RuntimeError if it fails."""
    stolen = Stolen()
    found = figures_of(
        "gpu_worker.benchmarks.stock_serving",
        workload.to_dict() | {"in_flight": IN_FLIGHT},
        folder / "baseline.json",
        environment=ENVIRONMENT,
        what="the baseline",
    )
    progress(f"transformers: {found['latency_s']:.2f} s alone, {found['mixed_per_s']:.2f} mixed requests/s")
    answers = {"alone": found.pop("answers")}
    return Figures(
        subject="transformers generate + PEFT, static batches",
        equal="is it",
        answers=answers,
        stolen_share=stolen.share(),
        **found,
    )


def _measure_peers(
    names: Sequence[str], workload: Workload, folder: Path, baseline: Figures, progress: Callable[[str], object]
) -> tuple[list[Figures], list[str]]:
    """Return a row for each peer that runs, and a remark on each that does not."""
    found, remarks = measure_peers(
        names,
        workload,
        rounds_of(_requests(workload, None)),
        folder,
        environments=workload.model_dir.parent.parent / "peers",
        settings={"in_flight": IN_FLIGHT, "crowd": CROWD},
        environment=ENVIRONMENT,
        progress=progress,
    )
    renderer = ChatRenderer.load(workload.model_dir)
    rows = []
    for title, figures in found.items():
        answers = {name: [renderer.decode(ids) for ids in found] for name, found in figures.pop("answers").items()}
        equal = agreed(answers["alone"], baseline.answers["alone"])
        rows.append(Figures(subject=title, equal=equal, answers=answers, **figures))
    return rows, remarks


def _measure_engine(
    workload: Workload,
    folder: Path,
    baseline: Figures,
    subjects: Sequence[Subject],
    progress: Callable[[str], object],
) -> tuple[list[Figures], Switching]:
    """Measure one process of our engine with each of the subjects, which share their arithmetic.

    Returns what ten adapters in turn cost, too, asked as the first subject is.
    """
    options = ("--weights", subjects[0].weights)
    with running_engine(workload.model_dir, folder, *options):
        pass  # the first start of a base model computes the self-check's reference; it is not the usual one
    with running_engine(workload.model_dir, folder, *options) as (client, pid, cold_start_s):
        hot_add_s = statistics.median([_load(client, name, path) for name, path in workload.adapters.items()])
        found = []
        for subject in subjects:
            schema = workload.schema if subject.within_schema else None
            stolen = Stolen()
            measured = _measure_load(client, _requests(workload, schema), workload.others)
            found.append(
                Figures(
                    subject=subject.name,
                    equal=agreed(measured.alone.answers, baseline.answers["alone"]),
                    resident_bytes=resident_bytes(pid),
                    cold_start_s=cold_start_s,
                    hot_add_s=hot_add_s,
                    stolen_share=stolen.share(),
                    **measured.figures(),
                )
            )
            _tell(found[-1], progress)
        switching = measure_switching(
            client,
            _requests(workload, None),
            workload.others,
            next(iter(workload.adapters.values())),
            folder,
            subject=subjects[0].name,
            in_flight=(1, IN_FLIGHT),
            load=_load,
        )
    return found, switching


def _measure_steps(
    workload: Workload, folder: Path, weights: Precision, progress: Callable[[str], object]
) -> list[StepCost]:
    costs = measure_steps(
        workload.model_dir,
        list(workload.adapters.values()),
        folder,
        weights=weights,
        environment={CACHE_VARIABLE: str(folder / "cache"), **ENVIRONMENT},
    )
    progress(sentence(costs, arithmetic=weights))
    return costs


def _tell(figures: Figures, progress: Callable[[str], object]) -> None:
    progress(
        f"{figures.subject}: {figures.latency_s:.2f} s alone, {figures.one_adapter_per_s:.2f} requests/s with one "
        f"adapter, {figures.mixed_per_s or 0:.2f} mixed"
    )


@dataclass(frozen=True)
class _Measured:
    alone: Load
    first: Load
    one: Load
    mixed: Load
    crowd_one: Load
    crowd_mixed: Load

    def figures(self) -> dict[str, Any]:
        return {
            "latency_s": statistics.median(self.alone.latencies_s),
            "first_token_s": statistics.median(self.first.latencies_s),
            "one_adapter_per_s": self.one.per_s,
            "mixed_per_s": self.mixed.per_s,
            "mixed_p95_s": self.mixed.p95_s,
            "crowd_one_per_s": self.crowd_one.per_s,
            "crowd_mixed_per_s": self.crowd_mixed.per_s,
            "answers": {
                "alone": self.alone.answers,
                "first": self.first.answers,
                "one": self.one.answers,
                "mixed": self.mixed.answers,
                "one, crowd": self.crowd_one.answers,
                "mixed, crowd": self.crowd_mixed.answers,
            },
        }


def _requests(workload: Workload, schema: dict[str, Any] | None) -> list[Request]:
    names = list(workload.adapters)
    return [
        Request(names[number % len(names)], messages, workload.max_tokens, schema)
        for number, messages in enumerate(workload.conversations)
    ]


def _measure_load(
    client: httpx.Client,
    requests: Sequence[Request],
    warm_up: Sequence[Any],
) -> _Measured:
    """Warm up under every adapter, then measure. Each round asks other requests than the one before it.

    An engine that keeps what it has computed of a prompt would otherwise answer the later rounds from memory.
    """
    for request in {request.model: request for request in requests}.values():
        ask_in_flight(client, [replace(request, messages=messages) for messages in warm_up], IN_FLIGHT)
    rounds = rounds_of(requests)
    one, mixed = ask_in_turn(client, rounds["one"], rounds["mixed"], IN_FLIGHT)
    crowd_one, crowd_mixed = ask_in_turn(client, rounds["one, crowd"], rounds["mixed, crowd"], CROWD)
    return _Measured(
        alone=ask_alone(client, rounds["alone"]),
        first=first_tokens(client, rounds["first"]),
        one=one,
        mixed=mixed,
        crowd_one=crowd_one,
        crowd_mixed=crowd_mixed,
    )


def _load(client: httpx.Client, name: str, path: Path) -> float:
    """Load an adapter into the running engine; return how long that took."""
    started = time.perf_counter()
    client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path)}).raise_for_status()
    return time.perf_counter() - started


@contextmanager
def running_engine(model_dir: Path, folder: Path, *options: str) -> Iterator[tuple[httpx.Client, int, float]]:
    """Run an engine; yield a client for it, its process id and the seconds from start to service."""
    ready_file = folder / "engine.json"
    started = time.perf_counter()
    command = [sys.executable, "-m", "gpu_worker.engine", "--base-model", str(model_dir), "--name", BASE_NAME]
    with (folder / "engine.log").open("ab") as log:
        child = subprocess.Popen(
            [*command, "--ready-file", str(ready_file), *options],
            env={CACHE_VARIABLE: str(folder / "cache"), **os.environ, **ENVIRONMENT, "ENGINE_API_KEY": KEY},
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
