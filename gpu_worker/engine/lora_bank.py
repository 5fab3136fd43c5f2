"""All loaded adapters stacked in one pair of matrices per projection, so that one step serves any mix of them.

Each adapter owns a range of rank rows. In a step of few tokens, all tokens are multiplied by the rows of all adapters
in use, and each keeps only the products with its own adapter's rows: few operations, each adapter read once. In a step
of many tokens arithmetic would weigh more than operations, so each stretch of tokens meets its own adapter only.
Idea: Punica, arXiv:2310.18547, without its kernel.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from gpu_worker.engine.adapter_folder import LoraWeights
from gpu_worker.engine.errors import NoRoom
from gpu_worker.engine.kernels import NativeKernels, column_ends
from gpu_worker.engine.model_shape import ModelShape
from gpu_worker.engine.weights import interleave_pairs

NATIVE_STRETCH = 4
"""The compiled kernel goes token by token: it gains as long as few tokens in a row have the same adapter."""
MASKED_TOKENS = 32
"""Steps of at most this many tokens multiply all adapters at once."""


@dataclass(frozen=True)
class FusedProjection:
    """A projection of the decoder, and the adapter modules whose outputs stand side by side in it."""

    name: str
    modules: tuple[str, ...]


QKV = FusedProjection("qkv", ("q_proj", "k_proj", "v_proj"))
OUTPUT = FusedProjection("output", ("o_proj",))
GATE_UP = FusedProjection("gate_up", ("gate_proj", "up_proj"))
DOWN = FusedProjection("down", ("down_proj",))
PROJECTIONS = (QKV, OUTPUT, GATE_UP, DOWN)


@dataclass(frozen=True)
class RankRange:
    """The rank rows [start, end) of one adapter, or of several whose rows are adjacent."""

    start: int
    end: int


@dataclass(frozen=True)
class LoraRun:
    """Adjacent rank rows and the flat tokens they meet in a step.

    `foreign` marks products that a token must not keep; None if there are none.
    Shapes: foreign[name] (tokens of the run, modules of the projection * rank rows), bool.
    """

    ranks: RankRange
    tokens: slice
    foreign: dict[str, Tensor] | None


@dataclass(frozen=True)
class LoraTokens:
    """Each token's own rank rows, for the compiled kernel.

    Shapes: first[modules] (tokens,): first row in the bank of a projection of so many modules; ranks (tokens,).
    """

    first: dict[int, Tensor]
    ranks: Tensor


LoraPlan = Sequence[LoraRun] | LoraTokens


class LoraBank:
    """Adapter weights of one base model in preallocated memory; adding or removing one copies nothing else."""

    def __init__(
        self,
        shape: ModelShape,
        *,
        rank_budget: int,
        device: torch.device,
        dtype: torch.dtype,
        kernels: NativeKernels | None = None,
    ) -> None:
        self._shape = shape
        self._kernels = kernels
        self._ends = {
            projection.name: column_ends([self._module_width(module) for module in projection.modules])
            for projection in PROJECTIONS
        }
        self._device = device
        self._rank_budget = rank_budget
        self._ranges: dict[int, RankRange] = {}
        widths = {
            QKV: (shape.hidden, shape.qkv_width),
            OUTPUT: (shape.query_width, shape.hidden),
            GATE_UP: (shape.hidden, 2 * shape.intermediate),
            DOWN: (shape.intermediate, shape.hidden),
        }
        self._a: dict[str, list[Tensor]] = {}
        self._b: dict[str, list[Tensor]] = {}
        for projection, (width_in, width_out) in widths.items():
            rows = rank_budget * len(projection.modules)
            layers = range(shape.layers)
            self._a[projection.name] = [untouched_zeros((rows, width_in), device, dtype) for _ in layers]
            self._b[projection.name] = [untouched_zeros((rows, width_out), device, dtype) for _ in layers]

    def add(self, uid: int, rank: int, weights: LoraWeights) -> None:
        """Copy an adapter into free rank rows. Raises: NoRoom if there are not enough side by side."""
        ranks = self._free_range(rank)
        for layer in range(self._shape.layers):
            for projection in PROJECTIONS:
                self._write(ranks, layer, projection, weights)
        self._ranges[uid] = ranks

    def remove(self, uid: int) -> None:
        """Free an adapter's rank rows."""
        del self._ranges[uid]

    def plan(self, adapter_uids: Sequence[int | None]) -> LoraPlan:
        """Return what a step has to multiply, given the adapter of each of its tokens (None: bare base model)."""
        stretches = [(uid, len(list(group))) for uid, group in itertools.groupby(adapter_uids)]
        active = {uid for uid, _ in stretches if uid is not None}
        if self._kernels is not None and active and len(adapter_uids) <= NATIVE_STRETCH * len(stretches):
            return self._tokens(adapter_uids)
        if len(stretches) > 1 and len(adapter_uids) <= MASKED_TOKENS and active:
            tokens = torch.tensor([-1 if uid is None else uid for uid in adapter_uids], device=self._device)
            return tuple(self._masked_run(run, tokens) for run in self._adjacent(active))
        ends = itertools.accumulate(count for _, count in stretches)
        return tuple(
            LoraRun(self._ranges[uid], slice(end - count, end), None)
            for (uid, count), end in zip(stretches, ends, strict=True)
            if uid is not None
        )

    def apply(self, plan: LoraPlan, layer: int, projection: FusedProjection, x: Tensor, y: Tensor) -> None:
        """Add the low-rank updates to the projection's output, in place.

        Shapes: x (tokens, in), y (tokens, out).
        """
        parts = len(projection.modules)
        if isinstance(plan, LoraTokens):
            assert self._kernels is not None
            a, b, ends = self._a[projection.name][layer], self._b[projection.name][layer], self._ends[projection.name]
            self._kernels.low_rank(x, a, b, plan.first[parts], plan.ranks, ends, y)
            return
        for run in plan:
            rows = slice(run.ranks.start * parts, run.ranks.end * parts)
            products = x[run.tokens] @ self._a[projection.name][layer][rows].t()
            if run.foreign is not None:
                # filled and not multiplied by zero: one tenant's overflow must not become another's NaN
                products.masked_fill_(run.foreign[projection.name], 0.0)
            y[run.tokens].addmm_(products, self._b[projection.name][layer][rows])

    def _tokens(self, adapter_uids: Sequence[int | None]) -> LoraTokens:
        none = RankRange(0, 0)
        ranges = [none if uid is None else self._ranges[uid] for uid in adapter_uids]
        first = torch.tensor([ranks.start for ranks in ranges])
        counts = {len(projection.modules) for projection in PROJECTIONS}
        ranks = torch.tensor([ranks.end - ranks.start for ranks in ranges])
        return LoraTokens({modules: first * modules for modules in counts}, ranks)

    def _adjacent(self, active: Iterable[int]) -> list[list[int]]:
        """Group adapters whose rank rows touch, so that each group is one multiplication."""
        first, *others = sorted(active, key=lambda uid: self._ranges[uid].start)
        groups = [[first]]
        for uid in others:
            if self._ranges[groups[-1][-1]].end == self._ranges[uid].start:
                groups[-1].append(uid)
            else:
                groups.append([uid])
        return groups

    def _masked_run(self, uids: Sequence[int], tokens: Tensor) -> LoraRun:
        sizes = torch.tensor([self._ranges[uid].end - self._ranges[uid].start for uid in uids], device=self._device)
        owners = torch.tensor(uids, device=self._device).repeat_interleave(sizes)
        foreign = {
            projection.name: tokens[:, None] != owners.repeat_interleave(len(projection.modules))[None, :]
            for projection in PROJECTIONS
        }
        ranks = RankRange(self._ranges[uids[0]].start, self._ranges[uids[-1]].end)
        return LoraRun(ranks, slice(0, len(tokens)), foreign)

    def _free_range(self, rank: int) -> RankRange:
        start = 0
        for taken in sorted(self._ranges.values(), key=lambda ranks: ranks.start):
            if taken.start - start >= rank:
                break
            start = taken.end
        if start + rank > self._rank_budget:
            raise NoRoom("There is no room for another adapter; unload one first.")
        return RankRange(start, start + rank)

    def _write(self, ranks: RankRange, layer: int, projection: FusedProjection, weights: LoraWeights) -> None:
        rank, parts = ranks.end - ranks.start, len(projection.modules)
        rows = slice(ranks.start * parts, ranks.end * parts)
        a, b = self._a[projection.name][layer][rows], self._b[projection.name][layer][rows]
        # zero outside its own module's columns: the update of a fused projection is block-diagonal
        a.zero_()
        b.zero_()
        column = 0
        for part, module in enumerate(projection.modules):
            width = self._module_width(module)
            pair = weights.get((layer, module))
            if pair is not None:
                own = slice(part * rank, (part + 1) * rank)
                a[own].copy_(pair.a)
                b[own, column : column + width].copy_(self._output_order(module, pair.b).t())
            column += width

    def _module_width(self, module: str) -> int:
        shape = self._shape
        widths = {"q_proj": shape.query_width, "k_proj": shape.kv_width, "v_proj": shape.kv_width}
        widths |= {"gate_proj": shape.intermediate, "up_proj": shape.intermediate}
        return widths.get(module, shape.hidden)

    def _output_order(self, module: str, b: Tensor) -> Tensor:
        """Bring the rows of B into the order of the decoder's own rows."""
        return interleave_pairs(b, self._shape.head_dim) if module in ("q_proj", "k_proj") else b


def untouched_zeros(size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return zeros; on the CPU, memory that is never written costs nothing (torch.zeros would touch every page)."""
    if device.type != "cpu" or dtype not in (torch.float32, torch.float16):
        return torch.zeros(size, device=device, dtype=dtype)
    return torch.from_numpy(numpy.zeros(size, dtype=numpy.float32 if dtype == torch.float32 else numpy.float16))
