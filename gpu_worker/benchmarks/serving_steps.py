"""What a decode step costs besides its products with the frozen matrices: attention, adapters, norms, all the rest.

`python -m gpu_worker.benchmarks.serving_steps ORDER.json` prints one line of JSON, a list of `StepCost`. In a process
of its own, with an engine's decoder and threads.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpu_worker.benchmarks.children import figures_of
from gpu_worker.engine.adapter_folder import open_adapter
from gpu_worker.engine.block_pool import BLOCK_SIZE
from gpu_worker.engine.config import EngineConfig, Precision
from gpu_worker.engine.decoder import DecoderRunner
from gpu_worker.engine.kernels import NativeKernels
from gpu_worker.engine.model_shape import ModelShape, read_model_shape
from gpu_worker.engine.runner import StepRow
from gpu_worker.engine.sequence import AdapterRef
from gpu_worker.engine.weights import DecoderWeights, Placing, load_weights

ROWS = (1, 8)
# What every row has in the cache: a ticket with its system prompt, and the half of an answer.
PAST_TOKENS = 150
ROUNDS = 40


@dataclass(frozen=True)
class StepCost:
    """One decoded token for each of `rows` sequences, which take turns between `adapters` adapters (0: none)."""

    rows: int
    adapters: int
    step_s: float
    products_s: float

    @property
    def overhead(self) -> float:
        """What the step takes beyond its products with the frozen matrices, as a share of them."""
        return self.step_s / self.products_s - 1


def measure_steps(
    model_dir: Path, adapters: Sequence[Path], folder: Path, *, weights: Precision, environment: dict[str, str]
) -> list[StepCost]:
    """Measure in a child process. Raises: RuntimeError if it fails."""
    order = {"model_dir": str(model_dir), "adapters": list(map(str, adapters)), "weights": weights}
    program = "gpu_worker.benchmarks.serving_steps"
    costs = figures_of(program, order, folder / "steps.json", environment=environment, what="measuring steps")
    return [StepCost(**cost) for cost in costs]


def sentence(costs: Sequence[StepCost], *, arithmetic: str) -> str:
    """Return what it says, in Markdown."""
    told = "; ".join(
        f"{cost.rows} {'row' if cost.rows == 1 else 'rows'} {_under(cost.adapters)} {1e3 * cost.step_s:.1f} ms "
        f"({cost.overhead:+.0%})"
        for cost in costs
    )
    return (
        f"A decode step in {arithmetic} behind {PAST_TOKENS} tokens, and what it takes beyond its products with the "
        f"frozen matrices, measured in turn: {told}."
    )


def _under(adapters: int) -> str:
    if not adapters:
        return "without adapter"
    return "under one adapter" if adapters == 1 else f"under {adapters} adapters"


def _measure(order: dict[str, Any]) -> list[StepCost]:
    shape = read_model_shape(Path(order["model_dir"]))
    kernels = NativeKernels(shape)
    placing = Placing(torch.device("cpu"), torch.float32, order["weights"] == "int8")
    weights = load_weights(Path(order["model_dir"]), shape, replace(placing, quantise=kernels.quantise))
    config = EngineConfig()
    blocks_each = -(-(PAST_TOKENS + 1) // BLOCK_SIZE)
    runner = DecoderRunner(
        shape, weights, blocks=1 + max(ROWS) * blocks_each, lora_rank_budget=config.lora_rank_budget, kernels=kernels
    )
    loaded = []
    for uid, path in enumerate(order["adapters"]):
        loaded.append(AdapterRef(uid, f"adapter-{uid}"))
        runner.add_adapter(loaded[-1], runner.read_adapter(open_adapter(Path(path), max_rank=config.max_lora_rank)))
    costs = []
    for rows in ROWS:
        products = _products(weights, shape, rows)
        for used in dict.fromkeys((0, 1, min(rows, len(loaded)))):
            step = [_row(number, blocks_each, loaded[number % used].uid if used else None) for number in range(rows)]
            step_s, products_s = _in_turn(lambda step=step: runner.forward(step), products)  # type: ignore[misc]
            costs.append(StepCost(rows, used, step_s, products_s))
    return costs


def _row(number: int, blocks_each: int, adapter_uid: int | None) -> StepRow:
    first = 1 + number * blocks_each
    blocks = tuple(range(first, first + blocks_each))
    return StepRow(f"row-{number}", (number,), PAST_TOKENS, blocks, adapter_uid, logit_count=1)


def _products(weights: DecoderWeights, shape: ModelShape, rows: int) -> Callable[[], Tensor]:
    """Return a function that does all products of a step with the frozen matrices, and nothing else."""
    hidden, attended = torch.randn(rows, shape.hidden), torch.randn(rows, shape.query_width)
    inner = torch.randn(rows, shape.intermediate)

    @torch.inference_mode()
    def products() -> Tensor:
        for layer in weights.layers:
            layer.qkv(hidden)
            layer.output.add_to(hidden, attended)
            layer.gate_up(hidden)
            layer.down.add_to(hidden, inner)
        return weights.head(hidden)

    return products


def _in_turn(*subjects: Callable[[], object]) -> list[float]:
    """Return the median seconds of each subject; they take turns, so that what else is at work meets all of them."""
    seconds: list[list[float]] = [[] for _ in subjects]
    for number in range(ROUNDS + 3):
        for own, subject in zip(seconds, subjects, strict=True):
            started = time.perf_counter()
            subject()
            if number >= 3:  # the first ones warm up
                own.append(time.perf_counter() - started)
    return [statistics.median(own) for own in seconds]


if __name__ == "__main__":
    print(json.dumps([asdict(cost) for cost in _measure(json.loads(Path(sys.argv[1]).read_text()))]))
