"""Compiled kernels are held against the plain ones before a run trusts them: a compiler may have got them wrong."""

import torch
from torch import Tensor
from torch.nn import functional

from gpu_worker.compiled import NativeUnavailable
from gpu_worker.trainer.fast.kernels import Kernels, LowRank, TrainedLowRank
from gpu_worker.trainer.fast.packing import RowSpan
from gpu_worker.trainer.fast.products import Product

# Far above what another order of summing does in float32, far below what any real mistake does.
MOST_OFF = 1e-3
ROWS, WIDTH, RANK = 5, 90, 3
# A shared beginning of 5 tokens, two rows, one shorter and one longer than what is computed together, and a filling.
SPANS = (RowSpan(0, 5, 0), RowSpan(5, 3, 5), RowSpan(8, 21, 5), RowSpan(29, 4, 0))
TOKENS, HEADS, GROUPS, HEAD_SIZE = 33, 4, 2, 80


def require_agreement(compiled: Kernels) -> None:
    """Raises: NativeUnavailable naming the kernel that computes something else than the plain one."""
    found, expected = _results(compiled), _results(Kernels(gelu=compiled.gelu))
    found |= _attention_in_one_pass(compiled)
    expected |= _attention_row_by_row() if "attention" in found else {}
    for name, value in expected.items():
        off = (found[name] - value).abs().max().item()
        if not off <= MOST_OFF * max(1.0, value.abs().max().item()):
            raise NativeUnavailable(f"the kernel {name} failed its check on this machine")


def _results(kernels: Kernels) -> dict[str, Tensor]:
    """Return what every kernel makes of the same few numbers."""
    random = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    hidden, weight, d_normed, residual = some(ROWS, WIDTH), some(WIDTH), some(ROWS, WIDTH), some(ROWS, WIDTH)
    normed, inverse = kernels.rms_norm(hidden, weight, 1e-5)
    back = kernels.rms_norm_backward(d_normed, hidden, inverse, normed.exact, weight, residual)
    gate_up, d_gated = 4 * some(ROWS, WIDTH), some(ROWS, WIDTH // 2)
    heads, angles = some(ROWS, 3, WIDTH // 3), some(ROWS, 1, WIDTH // 6)
    part = LowRank(slice(0, WIDTH), slice(0, RANK), some(RANK, WIDTH))
    finished = kernels.finisher([part], WIDTH)(Product(some(ROWS, WIDTH), some(ROWS, 1)), some(ROWS, RANK), residual)
    trained = TrainedLowRank(part.columns, part.ranks, part.up, torch.zeros(RANK, WIDTH))
    d_low = kernels.low_rank_backward([trained], 0.5)(d_normed, some(ROWS, RANK))
    logits, labels = some(ROWS, WIDTH), torch.arange(ROWS)
    loss = torch.tensor(kernels.cross_entropy(logits, labels, gradient=True))
    d_gate_up, gated_again = kernels.gated_backward(d_gated, gate_up)
    weights, d_weights = torch.softmax(some(ROWS, 7), dim=-1), some(ROWS, 7)
    return {
        "rms_norm": normed.exact,
        "rms_norm_backward": back.exact,
        "gated": kernels.gated(gate_up).exact,
        "gated_backward": d_gate_up.exact,
        "gated_again": gated_again,
        "low_rank_backward": d_low,
        "low_rank_gradient": trained.up_gradient,
        "cross_entropy": loss,
        "cross_entropy_gradient": logits,
        "rotate": kernels.rotate(heads, angles.cos(), angles.sin()),
        "finish": finished,
        "softmax_backward": kernels.softmax_backward(d_weights, weights, 0.5),
    }


def _stacked_and_gradient() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    stacked = torch.randn(TOKENS, (HEADS + 2 * GROUPS) * HEAD_SIZE, generator=random)
    return stacked, torch.randn(TOKENS, HEADS * HEAD_SIZE, generator=random)


def _attention_in_one_pass(kernels: Kernels) -> dict[str, Tensor]:
    fused = kernels.attention(SPANS, heads=HEADS, key_value_heads=GROUPS, head_size=HEAD_SIZE)
    if fused is None:
        return {}
    stacked, d_out = _stacked_and_gradient()
    out, weights = fused.forward(stacked)
    return {"attention": out, "attention_backward": fused.backward(d_out, stacked, weights)}


def _attention_row_by_row() -> dict[str, Tensor]:
    """Return the same from torch's own attention and its own gradient."""
    stacked, d_out = _stacked_and_gradient()
    stacked.requires_grad_()
    with torch.enable_grad():
        parts = []
        for span in SPANS:
            seen = torch.cat([torch.arange(span.prefix), torch.arange(span.first, span.first + span.count)])
            heads = stacked[seen].view(len(seen), -1, HEAD_SIZE).transpose(0, 1)
            queries, keys, values = torch.split(heads, [HEADS, GROUPS, GROUPS])
            own = torch.ones(span.count, len(seen), dtype=torch.bool).tril_(span.prefix)
            mixed = functional.scaled_dot_product_attention(
                queries[:, span.prefix :][None], keys[None], values[None], attn_mask=own, enable_gqa=True
            )
            parts.append(mixed[0].transpose(0, 1).flatten(1))
        out = torch.cat(parts)
        (gradient,) = torch.autograd.grad(out, stacked, d_out)
    return {"attention": out.detach(), "attention_backward": gradient}
