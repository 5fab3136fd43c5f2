"""The vocabulary head of the general way: only where an answer token is predicted, and a piece at a time.

Logits are the largest tensors of a model with a large vocabulary: those of 2,000 answer tokens among 150,000 words have
1.2 GB, and autograd would hold them three times. The head is frozen, so all that the backward pass needs of a piece is
its gradient by the hidden states, which are far narrower: it is computed at once, and the logits are forgotten.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

# Of one piece, in float32. On CPUs small enough that freed memory is kept for the next one (see `limits.py`).
CHUNK_BYTES = {"cpu": 16 * 1024 * 1024, "cuda": 256 * 1024 * 1024}
Head = Callable[[Tensor], Tensor]


class AnswerHead:
    """What a model does with hidden states to find how likely tokens are."""

    def __init__(self, logits: Head, vocabulary: int, device: str) -> None:
        """`logits`: of hidden states (tokens, width), row by row, with frozen weights."""
        self._logits = logits
        self._rows = max(1, CHUNK_BYTES[device] // (4 * vocabulary))

    @classmethod
    def of(cls, causal_lm: Any, device: str) -> "AnswerHead | None":
        """Return it for a model that is a decoder with such a head, as a probe shows; None for others."""
        probe = torch.arange(4, device=device)[None]
        head = causal_lm.get_output_embeddings()
        if not isinstance(head, torch.nn.Module) or any(weight.requires_grad for weight in head.parameters()):
            return None
        causal_lm.eval()
        with torch.no_grad():
            whole = causal_lm(input_ids=probe, use_cache=False).logits
            try:
                hidden = causal_lm.get_decoder()(input_ids=probe, use_cache=False).last_hidden_state
                found = next(
                    (logits for logits in _candidates(head, causal_lm) if _are_alike(logits(hidden), whole)), None
                )
            except (AttributeError, TypeError):
                return None
        return found and cls(found, whole.shape[-1], device)

    def logprobs(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """Return the log probability of each label. Shapes: hidden (L, width); labels, result (L,)."""
        found: Tensor = _Logprobs.apply(hidden, labels, self._logits, self._rows)  # type: ignore[no-untyped-call]
        return found


class _Logprobs(torch.autograd.Function):
    """Each log probability depends on one hidden state only, so their gradients are known before the loss is."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, labels: Tensor, logits: Head, rows: int) -> Tensor:
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        found = torch.empty(len(labels), device=hidden.device)
        for start in range(0, len(labels), rows):
            part = slice(start, start + rows)
            found[part] = _piece(logits, hidden[part], labels[part], None if gradient is None else gradient[part])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return found

    @staticmethod
    def backward(ctx: Any, *d_found: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * d_found[0][:, None].to(gradient.dtype), None, None, None


def _piece(logits: Head, hidden: Tensor, labels: Tensor, gradient: Tensor | None) -> Tensor:
    """Return log probabilities and write their gradients, if they are wanted."""
    if gradient is None:
        return -functional.cross_entropy(logits(hidden).float(), labels, reduction="none")
    # What is held here is held for one piece; nobody who counts what is remembered shall hear of it.
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):
        hidden = hidden.detach().requires_grad_()
        found = -functional.cross_entropy(logits(hidden).float(), labels, reduction="none")
        gradient.copy_(torch.autograd.grad(found.sum(), hidden)[0])
    return found.detach()


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _candidates(head: Head, causal_lm: Any) -> Iterator[Head]:
    """Yield what models are known to do with their head's logits, nothing last: small logits hardly show a cap."""
    config = causal_lm.config.get_text_config()
    cap, factor, divisor = (
        getattr(config, name, None) for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
    )
    if cap:
        yield lambda hidden: cap * torch.tanh(head(hidden) / cap)
    if factor:
        yield lambda hidden: head(hidden) * factor
    if divisor:
        yield lambda hidden: head(hidden) / divisor
    yield head


def _are_alike(some: Tensor, others: Tensor) -> bool:
    return some.shape == others.shape and torch.allclose(some.float(), others.float(), rtol=1e-3, atol=1e-3)
