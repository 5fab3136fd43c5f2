"""How near the hand-written training comes to what this machine can multiply, and where the rest of the time goes.

`python -m gpu_worker.benchmarks.training_limit JOB_DIR` trains a few steps of a job folder with a stopwatch around each
kind of work, measures the machine's matrix products at the same shapes meanwhile, and prints one JSON object.
"""

import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets_app.rendering import ChatRenderer
from gpu_worker.trainer.fast import decoder, learner
from gpu_worker.trainer.fast.head import VocabularyHead
from gpu_worker.trainer.fast.kernels import Kernels
from gpu_worker.trainer.fast.native import NativeAttention, NativeKernels
from gpu_worker.trainer.fast.products import EightBitProduct, ExactProduct, quantise
from gpu_worker.trainer.fast.projection import AdaptedProjection
from gpu_worker.trainer.fast.weights import FrozenProjection
from gpu_worker.trainer.limits import keep_freed_memory
from gpu_worker.trainer.optimizers import AdamW
from gpu_worker.trainer.plan import TrainingPlan
from gpu_worker.trainer.rows import encode_file
from gpu_worker.trainer.spec import JobFolder, read_spec

WARM_UP_STEPS, STEPS, REPEATS = 2, 6, 5
KERNELS = (
    "activations", "rms_norm", "rms_norm_backward", "rotate", "gated", "gated_backward", "softmax_backward",
)  # fmt: skip


@dataclass(frozen=True)
class Limit:
    """One way of computing, held against the machine. FLOP and seconds are per step; rates in GFLOP/s.

    `flop` counts what is really computed: {"fp32": …, "int8": …}. `groups`: seconds by kind of work.
    """

    tokens: float
    seconds: float
    flop: dict[str, float]
    rates: dict[str, float]
    groups: dict[str, float]

    @property
    def share(self) -> float:
        """The part of the step's time that its products would take at the machine's limit."""
        return sum(self.flop[kind] / (self.rates[kind] * 1e9) for kind in self.flop) / self.seconds


class Stopwatch:
    """Adds up the time spent in each kind of work, without that of other kinds inside it, and the FLOP."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.flop: defaultdict[str, float] = defaultdict(float)
        self._inner: list[float] = []

    def around(self, group: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with the watch around it."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self._inner.append(0.0)
            started = time.perf_counter()
            result = function(*arguments, **named)
            passed = time.perf_counter() - started
            self.seconds[group] += passed - self._inner.pop()
            if self._inner:
                self._inner[-1] += passed
            return result

        return timed

    def watch(self, owner: Any, name: str, group: str, flop: Callable[..., tuple[str, float]] | None = None) -> None:
        """Put the watch around `owner.name`; `flop` tells kind and number of a call's operations."""
        function = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            if flop is not None:
                kind, number = flop(*arguments, **named)
                self.flop[kind] += number
            return function(*arguments, **named)

        setattr(owner, name, self.around(group, counted))


def main(job: JobFolder) -> Limit:
    """Train and measure. Raises: TrainingError."""
    keep_freed_memory()
    watch = Stopwatch()
    _watch_everything(watch)
    spec = read_spec(job)
    rows = encode_file(job.train_rows, ChatRenderer.load(spec.base_model.path), spec.hyperparameters).rows
    one = learner.FastLearner(spec, rows)
    optimizer = AdamW(one.parameters, weight_decay=0.0)
    for name in ("clip", "update"):
        setattr(optimizer, name, watch.around("optimizer", getattr(optimizer, name)))
    plan = TrainingPlan([len(row.token_ids) for row in rows], spec.hyperparameters)
    seconds, tokens = [], 0
    for step in range(WARM_UP_STEPS + STEPS):
        if step == WARM_UP_STEPS:
            watch.seconds.clear()
            watch.flop.clear()
        batch = [rows[row] for row in plan.batch(step)]
        started = time.perf_counter()
        one.accumulate(batch, 1 / sum(row.label_tokens for row in batch))
        optimizer.clip(1.0)
        optimizer.update(1e-4)
        if step >= WARM_UP_STEPS:
            seconds.append(time.perf_counter() - started)
            tokens += sum(len(row.token_ids) for row in batch)
    groups = {name: spent / STEPS for name, spent in watch.seconds.items()}
    groups["everything else"] = sum(seconds) / STEPS - sum(groups.values())
    return Limit(
        tokens=tokens / STEPS,
        seconds=sum(seconds) / STEPS,
        flop={kind: count / STEPS for kind, count in watch.flop.items()},
        rates=_rates(_shapes(spec.base_model.path), len(watch.flop) > 1),
        groups=groups,
    )


def _watch_everything(watch: Stopwatch) -> None:
    for product, kind in ((ExactProduct, "fp32"), (EightBitProduct, "int8")):
        for name in ("forward", "backward"):
            watch.watch(
                product, name, "products with frozen weights",
                lambda self, x, kind=kind: (kind, 2.0 * len(x.exact) * self.inputs * self.outputs),
            )  # fmt: skip
    watch.watch(VocabularyHead, "loss", "vocabulary head", _head_flop)
    for kernels in (Kernels, NativeKernels):
        for name in KERNELS:
            watch.watch(kernels, name, "norms, gates, rotation, rounding")
    watch.watch(AdaptedProjection, "forward", "adapters", _adapter_flop)
    watch.watch(AdaptedProjection, "backward", "adapters", _adapter_backward_flop)
    watch.watch(AdaptedProjection, "add_down_gradients", "adapters", _adapter_down_flop)
    for kernels in (Kernels, NativeKernels):
        watch.watch(kernels, "cross_entropy", "vocabulary head")
    watch.watch(decoder, "attend", "attention", lambda rotated, _stacked, block: _attention_flop(rotated, block, 2))
    watch.watch(
        decoder, "attend_backward", "attention",
        lambda _d, _saved, block, d_rotated, *_rest: _attention_flop(d_rotated, block, 4),
    )  # fmt: skip
    for name, products in (("forward", 2), ("backward", 4)):
        watch.watch(
            NativeAttention, name, "attention",
            lambda fused, *_tensors, products=products: _fused_attention_flop(fused, products),
        )  # fmt: skip
    watch.watch(learner, "pack", "packing")


def _head_flop(head: Any, normed: Tensor, _labels: Tensor, d_normed: Tensor | None = None) -> tuple[str, float]:
    return "fp32", 2.0 * len(normed) * head._weight.numel() * (1 if d_normed is None else 2)


def _adapter_flop(projection: Any, x: Any, _residual: Any = None) -> tuple[str, float]:
    down, up = _adapter_sizes(projection)
    return "fp32", 2.0 * len(x.exact) * (down + up)


def _adapter_backward_flop(projection: Any, d_y: Any, _low: Any) -> tuple[str, float]:
    """B takes part twice, in its own gradient and in that of what it reads; A once, in that of the input."""
    down, up = _adapter_sizes(projection)
    return "fp32", 2.0 * len(d_y.exact) * (down + 2 * up)


def _adapter_down_flop(projection: Any, _d_low: Any, x: Tensor) -> tuple[str, float]:
    return "fp32", 2.0 * len(x) * _adapter_sizes(projection)[0]


def _adapter_sizes(projection: Any) -> tuple[int, int]:
    """Return how many numbers A and B have."""
    adapter = projection._adapter
    if adapter is None:
        return 0, 0
    return adapter.down.numel(), sum(part.up.numel() for part in adapter.parts)


def _attention_flop(rotated: Tensor, block: Any, products: int) -> tuple[str, float]:
    folded = block.query_places.numel()  # all queries of all heads, padding included
    return "fp32", 2.0 * products * folded * block.keys * rotated.shape[2]


def _fused_attention_flop(fused: NativeAttention, products: int) -> tuple[str, float]:
    heads, _groups, size = fused._sizes
    seen = sum(row.count * row.prefix + row.count * (row.count + 1) / 2 for row in fused._rows)
    return "fp32", 2.0 * products * heads * size * seen


# --- the machine -------------------------------------------------------------------------------------------------


def _shapes(model_dir: Path) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of a layer's four stacks."""
    config = json.loads((model_dir / "config.json").read_text(encoding="utf-8"))
    hidden, wide, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    groups = config.get("num_key_value_heads") or heads
    return [(hidden, (heads + 2 * groups) * size), (heads * size, hidden), (hidden, 2 * wide), (wide, hidden)]


def _rates(shapes: list[tuple[int, int]], eight_bit: bool, tokens: int = 400) -> dict[str, float]:
    """Return GFLOP/s of bare products at the layers' shapes, the best of several rounds."""
    flop = sum(2.0 * tokens * inputs * outputs for inputs, outputs in shapes)
    exact = [(torch.randn(tokens, inputs), torch.randn(inputs, outputs)) for inputs, outputs in shapes]
    rates = {"fp32": flop / _fastest([partial(torch.mm, x, w) for x, w in exact]) / 1e9}
    if eight_bit:
        products = [EightBitProduct(FrozenProjection(w.t().contiguous(), None, ()))._forward for _x, w in exact]
        rounded = [quantise(x) for x, _w in exact]
        calls = [partial(product.times, x) for product, x in zip(products, rounded, strict=True)]
        rates["int8"] = flop / _fastest(calls) / 1e9
    return rates


def _fastest(calls: Sequence[Callable[[], Any]]) -> float:
    """Return the seconds of all calls together, each at its best of several."""
    total = 0.0
    for call in calls:
        spent = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            for _again in range(10):
                call()
            spent.append((time.perf_counter() - started) / 10)
        total += min(spent)
    return total


def render(limits: dict[str, Limit]) -> str:
    """Return the tables: what the machine could do, and where the time goes."""
    lines = [
        "| | FLOP a useful token | of it in int8 | machine: GFLOP/s fp32 / int8 | share of the limit reached |",
        "|---|---|---|---|---|",
    ]
    for name, limit in limits.items():
        flop, eight = sum(limit.flop.values()), limit.flop.get("int8", 0.0)
        rates = f"{limit.rates['fp32']:.0f} / {limit.rates['int8']:.0f}" if eight else f"{limit.rates['fp32']:.0f} / –"
        lines.append(
            f"| {name} | {flop / limit.tokens / 1e6:,.0f} M | {eight / flop:.0%} | {rates} | {limit.share:.0%} |"
        )
    spent = next(iter(limits.values())).groups
    groups = sorted(spent, key=lambda group: -spent[group])
    lines += ["", f"| share of a step | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
    for name, limit in limits.items():
        shares = [f"{limit.groups.get(group, 0.0) / limit.seconds:.0%}" for group in groups]
        lines.append(f"| {name} | {' | '.join(shares)} |")
    return "\n".join(lines)


def middle(limits: list[Limit]) -> Limit:
    """Return the measurement with the median share."""
    return sorted(limits, key=lambda limit: limit.share)[statistics.median_low(range(len(limits)))]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(main(JobFolder(Path(sys.argv[1]))))) + "\n")
