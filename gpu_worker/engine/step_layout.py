"""Where everything of a step lies: flat token positions, cache slots, and which tokens attend together.

Built once per step on the CPU and used by every layer. The tokens of all rows form one flat batch. Rows of few tokens
(decoding, verified drafts) attend together in one padded call; rows of many tokens (prompts) one call each. Compiled
kernels need no padding and take prompts of moderate length as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_worker.engine.block_pool import BLOCK_SIZE, PADDING_BLOCK
from gpu_worker.engine.runner import StepRow
from gpu_worker.engine.token_tree import depths

SHORT_ROW = 16
"""Rows of at most this many tokens are padded to a common length and attend together."""
DIRECT_WORK = 2**16
"""Compiled kernels take rows of up to so many tokens times positions; beyond, torch's tiled attention is faster."""


@dataclass(frozen=True)
class ShortRows:
    """Rows that attend in one call: B rows of up to M tokens over up to T cached positions.

    Shapes: blocks (B * T / BLOCK_SIZE,); mask, near_mask (B, 1, groups * M, T), 0 or -inf; query_index (B * M,) flat
    tokens, with repetition where a row is shorter; answer_index (tokens,) positions in (B * M) of the true ones. Both
    indices are None when every row has one token: then flat tokens and padded positions are the same.
    `near_mask` is for layers that look at what is near; it is the mask itself where all of every row is.
    """

    tokens: int
    rows: int
    width: int
    blocks: Tensor
    mask: Tensor
    near_mask: Tensor
    query_index: Tensor | None
    answer_index: Tensor | None


@dataclass(frozen=True)
class DirectRows:
    """The tokens of all short rows, for kernels that read the cache where it lies.

    Shapes: tables: the rows' cache blocks one after the other; first (tokens,) where a token's begin in them;
    lengths (tokens,): positions that it sees. All int64, on the CPU.
    """

    tables: Tensor
    first: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class LongRow:
    """A row that attends alone, over its own past and itself.

    Shapes: blocks (n,); mask, near_mask (end - start, length) additive, or None where plain causality says the same.
    `near_mask` is for layers that look at what is near; it is the mask itself where all of the row is.
    """

    start: int
    end: int
    length: int
    blocks: Tensor
    mask: Tensor | None
    near_mask: Tensor | None


@dataclass(frozen=True)
class StepLayout:
    """A step over N flat tokens.

    Shapes: token_ids, positions, slots (N,); logit_index (sum of logit_count,), in the order of the caller's rows.
    `adapter_uids` has N entries.
    """

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    adapter_uids: list[int | None]
    short: ShortRows | DirectRows | None
    long: tuple[LongRow, ...]
    logit_index: Tensor


def lay_out(
    rows: Sequence[StepRow],
    *,
    query_groups: int,
    device: torch.device,
    dtype: torch.dtype,
    direct: bool = False,
    window: int | None = None,
) -> StepLayout:
    """Return the layout of a step.

    `query_groups`: query heads per key/value head; `direct`: short rows as such; `window`: how many tokens back the
    layers look that do not look at everything, where there are such.
    """
    # short rows first; within both parts the rows of one adapter side by side, so that their tokens are one stretch
    alone = [_attends_alone(row, direct) for row in rows]
    order = sorted(range(len(rows)), key=lambda index: (alone[index], _uid(rows[index])))
    ordered = [rows[index] for index in order]
    short_count = alone.count(False)
    starts, total = [], 0
    for row in ordered:
        starts.append(total)
        total += len(row.token_ids)
    places = torch.cat([torch.arange(row.start, row.start + len(row.token_ids)) for row in ordered])
    short: ShortRows | DirectRows | None = None
    if short_count and direct:
        short = _direct_rows(ordered[:short_count], places)
    elif short_count:
        short = _to_device(_short_rows(ordered[:short_count], places, query_groups, dtype, window), device)
    return StepLayout(
        token_ids=torch.tensor([token for row in ordered for token in row.token_ids]).to(device),
        positions=_positions(ordered, places).to(device),
        slots=_slots(ordered, places).to(device),
        adapter_uids=[row.adapter_uid for row in ordered for _ in row.token_ids],
        short=short,
        long=tuple(
            _long_row(row, start, device, dtype, window)
            for row, start in zip(ordered[short_count:], starts[short_count:], strict=True)
        ),
        logit_index=_logit_index(rows, order, starts).to(device),
    )


def _uid(row: StepRow) -> int:
    return row.adapter_uid or 0


def _attends_alone(row: StepRow, direct: bool) -> bool:
    tokens = len(row.token_ids)
    short = tokens * (row.start + tokens) <= DIRECT_WORK if direct else tokens <= SHORT_ROW
    return bool(row.parents) or not short


def _positions(rows: Sequence[StepRow], places: Tensor) -> Tensor:
    """Return how many tokens each flat token has before it: its place in the cache, or less in a tree."""
    if not any(row.parents for row in rows):
        return places
    found: list[int] = []
    for row in rows:
        found += [row.start + depth for depth in (depths(row.parents) if row.parents else range(len(row.token_ids)))]
    return torch.tensor(found)


def _slots(rows: Sequence[StepRow], places: Tensor) -> Tensor:
    """Return the cache slot of every flat token."""
    blocks = torch.tensor(
        [
            row.block_table[position // BLOCK_SIZE]
            for row in rows
            for position in range(row.start, row.start + len(row.token_ids))
        ]
    )
    return blocks * BLOCK_SIZE + places % BLOCK_SIZE


def _logit_index(rows: Sequence[StepRow], order: Sequence[int], starts: Sequence[int]) -> Tensor:
    start_of = dict(zip(order, starts, strict=True))
    index: list[int] = []
    for number, row in enumerate(rows):
        end = start_of[number] + len(row.token_ids)
        index.extend(range(end - row.logit_count, end))
    return torch.tensor(index, dtype=torch.long)


def _short_rows(
    rows: Sequence[StepRow], positions: Tensor, groups: int, dtype: torch.dtype, window: int | None
) -> ShortRows:
    counts = [len(row.token_ids) for row in rows]
    width, tokens = max(counts), sum(counts)
    block_count = max((row.start + len(row.token_ids) - 1) // BLOCK_SIZE + 1 for row in rows)
    blocks = torch.tensor([_padded(row.block_table, block_count) for row in rows]).flatten()
    query_index = answer_index = None
    padded_positions = positions[:tokens].view(len(rows), 1) if width == 1 else None
    if padded_positions is None:
        offsets = torch.arange(width)
        lengths = torch.tensor(counts)
        firsts = lengths.cumsum(0) - lengths
        # short rows repeat their last token; what it computes is thrown away
        query_index = (firsts[:, None] + torch.minimum(offsets[None, :], lengths[:, None] - 1)).flatten()
        answer_index = (offsets[None, :] < lengths[:, None]).flatten().nonzero().flatten()
        padded_positions = positions[query_index].view(len(rows), width)
    own, seen = padded_positions[:, :, None], torch.arange(block_count * BLOCK_SIZE)[None, None, :]
    mask, near = _masks(seen > own, own, seen, dtype=dtype, window=window)
    # one mask row per (group, token), in the order in which the queries of a key/value head are folded
    folded = mask.repeat(1, groups, 1).unsqueeze(1)
    return ShortRows(
        tokens=tokens,
        rows=len(rows),
        width=width,
        blocks=blocks,
        mask=folded,
        near_mask=folded if near is mask else near.repeat(1, groups, 1).unsqueeze(1),
        query_index=query_index,
        answer_index=answer_index,
    )


def _direct_rows(rows: Sequence[StepRow], positions: Tensor) -> DirectRows:
    counts = torch.tensor([len(row.token_ids) for row in rows])
    sizes = torch.tensor([len(row.block_table) for row in rows])
    firsts = sizes.cumsum(0) - sizes
    return DirectRows(
        tables=torch.tensor([block for row in rows for block in row.block_table]),
        first=firsts.repeat_interleave(counts),
        lengths=positions[: int(counts.sum())] + 1,
    )


def _padded(block_table: Sequence[int], count: int) -> list[int]:
    table = list(block_table[:count])
    return table + [PADDING_BLOCK] * (count - len(table))


def _to_device(short: ShortRows, device: torch.device) -> ShortRows:
    if device.type == "cpu":
        return short
    return ShortRows(
        tokens=short.tokens,
        rows=short.rows,
        width=short.width,
        blocks=short.blocks.to(device),
        mask=short.mask.to(device),
        near_mask=short.near_mask.to(device),
        query_index=None if short.query_index is None else short.query_index.to(device),
        answer_index=None if short.answer_index is None else short.answer_index.to(device),
    )


def _masks(
    hidden: Tensor, own: Tensor, seen: Tensor, *, dtype: torch.dtype, window: int | None
) -> tuple[Tensor, Tensor]:
    """Return what hides `hidden` from queries at the positions `own`, and what hides all that is not near as well."""
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
    if window is None or int(own.max()) < window:
        return mask, mask
    return mask, mask.masked_fill(seen <= own - window, float("-inf"))


def _long_row(row: StepRow, flat_start: int, device: torch.device, dtype: torch.dtype, window: int | None) -> LongRow:
    count = len(row.token_ids)
    length = row.start + count
    mask = near_mask = None
    if row.parents or row.start or (window is not None and length > window):
        own, seen = torch.arange(row.start, length), torch.arange(length)
        if row.parents:
            own = row.start + torch.tensor(depths(row.parents))
            seen = torch.cat([seen[: row.start], own])
        hidden = _hidden_in_tree(row) if row.parents else seen[None, :] > own[:, None]
        mask, near_mask = _masks(hidden, own[:, None], seen[None, :], dtype=dtype, window=window)
        mask, near_mask = mask.to(device), near_mask.to(device)
    block_count = (length - 1) // BLOCK_SIZE + 1
    return LongRow(
        start=flat_start,
        end=flat_start + count,
        length=length,
        blocks=torch.tensor(row.block_table[:block_count]).to(device),
        mask=mask if row.parents or row.start else None,
        near_mask=near_mask,
    )


def _hidden_in_tree(row: StepRow) -> Tensor:
    """Let each token of a tree see the cache, its ancestors and itself. Shapes: result (tokens, start + tokens)."""
    count = len(row.token_ids)
    seen = torch.zeros((count, count), dtype=torch.bool)
    for place, parent in enumerate(row.parents):
        if parent >= 0:
            seen[place] = seen[parent]
        seen[place, place] = True
    return torch.cat([torch.zeros((count, row.start), dtype=torch.bool), ~seen], dim=1)
