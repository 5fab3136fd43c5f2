"""All loaded adapters stacked in one pair of matrices per adapted module, so that one step serves any mix of them.

Each adapter owns a range of rank rows. The compiled kernel takes a step's tokens in tiles of one adapter. In plain
torch the tokens of a small step are multiplied by the rows of all adapters in use, and each keeps only the products
with its own adapter's rows: few operations, each adapter read once; in a step of many tokens arithmetic would weigh
more than operations, so each stretch of tokens meets its own adapter only.
Idea: Punica, arXiv:2310.18547, without its kernel.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.engine.adapter_folder import LoraWeights, projection_widths
from gpu_worker.engine.errors import NoRoom
from gpu_worker.engine.kernels import NativeKernels, column_ends
from gpu_worker.engine.memory import untouched_zeros
from gpu_worker.engine.model_shape import ModelShape
from gpu_worker.engine.weights import interleave_pairs

TILE_TOKENS = 8
"""Tokens of one adapter that one thread computes together, so that the adapter's rows are read once for all of them."""
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

    `foreign` marks products that a token must not keep; None if there are none. Shapes: foreign (tokens, rank rows).
    """

    ranks: RankRange
    tokens: slice
    foreign: Tensor | None


@dataclass(frozen=True)
class LoraTiles:
    """For the compiled kernel: first token, tokens, first rank row and rank of each tile. Shapes: (tiles, 4), int64."""

    table: Tensor


LoraPlan = Sequence[LoraRun] | LoraTiles


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
        self._device = device
        self._rank_budget = rank_budget
        self._ranges: dict[int, RankRange] = {}
        # of each module and layer. Shapes: a (rank budget, in), b (rank budget, out)
        self._a: dict[str, list[Tensor]] = {}
        self._b: dict[str, list[Tensor]] = {}
        self._widths = projection_widths(shape)
        for module, widths in self._widths.items():
            for bank, width in zip((self._a, self._b), widths, strict=True):
                bank[module] = [untouched_zeros((rank_budget, width), device, dtype) for _ in range(shape.layers)]
        self._ends = {one.name: column_ends([self._widths[name][1] for name in one.modules]) for one in PROJECTIONS}
        self._addresses = {one.name: [self._addresses_of(one, n) for n in range(shape.layers)] for one in PROJECTIONS}

    def add(self, uid: int, rank: int, weights: LoraWeights) -> None:
        """Copy an adapter into free rank rows. Raises: NoRoom if there are not enough side by side."""
        ranks = self._free_range(rank)
        rows = slice(ranks.start, ranks.end)
        for module in self._widths:
            for layer in range(self._shape.layers):
                pair = weights.get((layer, module))
                a, b = self._a[module][layer][rows], self._b[module][layer][rows]
                if pair is None:
                    a.zero_()
                    b.zero_()
                else:
                    a.copy_(pair.a)
                    b.copy_(self._output_order(module, pair.b).t())
        self._ranges[uid] = ranks

    def remove(self, uid: int) -> None:
        """Free an adapter's rank rows."""
        del self._ranges[uid]

    def plan(self, adapter_uids: Sequence[int | None]) -> LoraPlan:
        """Return what a step has to multiply, given the adapter of each of its tokens (None: bare base model)."""
        stretches = [(uid, len(list(group))) for uid, group in itertools.groupby(adapter_uids)]
        active = {uid for uid, _ in stretches if uid is not None}
        if self._kernels is not None and active:
            return self._tiles(stretches)
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
        if isinstance(plan, LoraTiles):
            assert self._kernels is not None
            addresses, ends = self._addresses[projection.name][layer], self._ends[projection.name]
            self._kernels.low_rank(x, plan.table, addresses, ends, y)
            return
        for run in plan:
            rows, column = slice(run.ranks.start, run.ranks.end), 0
            for module in projection.modules:
                products = x[run.tokens] @ self._a[module][layer][rows].t()
                if run.foreign is not None:
                    # filled and not multiplied by zero: one tenant's overflow must not become another's NaN
                    products.masked_fill_(run.foreign, 0.0)
                width = self._widths[module][1]
                y[run.tokens, column : column + width].addmm_(products, self._b[module][layer][rows])
                column += width

    def _tiles(self, stretches: Sequence[tuple[int | None, int]]) -> LoraTiles:
        # so few tokens are cut in halves, one for each of two threads
        size = TILE_TOKENS if sum(count for _, count in stretches) > TILE_TOKENS else TILE_TOKENS // 2
        table, start = [], 0
        for uid, count in stretches:
            if uid is not None:
                ranks = self._ranges[uid]
                table += [
                    (start + done, min(size, count - done), ranks.start, ranks.end - ranks.start)
                    for done in range(0, count, size)
                ]
            start += count
        return LoraTiles(torch.tensor(table))

    def _addresses_of(self, projection: FusedProjection, layer: int) -> Tensor:
        banks = [bank[module][layer] for bank in (self._a, self._b) for module in projection.modules]
        return torch.tensor([bank.data_ptr() for bank in banks])

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
        ranks = RankRange(self._ranges[uids[0]].start, self._ranges[uids[-1]].end)
        return LoraRun(ranks, slice(0, len(tokens)), tokens[:, None] != owners[None, :])

    def _free_range(self, rank: int) -> RankRange:
        start = 0
        for taken in sorted(self._ranges.values(), key=lambda ranks: ranks.start):
            if taken.start - start >= rank:
                break
            start = taken.end
        if start + rank > self._rank_budget:
            raise NoRoom("There is no room for another adapter; unload one first.")
        return RankRange(start, start + rank)

    def _output_order(self, module: str, b: Tensor) -> Tensor:
        """Bring the rows of B into the order of the decoder's own rows."""
        return interleave_pairs(b, self._shape.head_dim) if module in ("q_proj", "k_proj") else b
