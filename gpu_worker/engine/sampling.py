"""Choose the next token from a row of logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NUCLEUS_CANDIDATES = 1024
"""Tokens looked at first for top_p: sorting a whole vocabulary costs milliseconds and is rarely needed."""


@dataclass(frozen=True)
class SamplingParams:
    """How one sequence is generated."""

    max_tokens: int
    temperature: float = 0.0
    """0 is greedy; then top_p, top_k, min_p and seed do not matter."""
    top_p: float = 1.0
    top_k: int = 0
    """Sample among this many likeliest tokens; 0: among all."""
    min_p: float = 0.0
    """Never sample a token that is less likely than this share of the likeliest one."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit for every time that the answer holds it already."""
    presence_penalty: float = 0.0
    """Taken from a token's logit once if the answer holds it already."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    """None: no log probabilities; k >= 0: those of the chosen token and of the k likeliest."""
    ignore_eos: bool = False
    """Generate max_tokens whatever the model says: for measurements only."""


@dataclass(frozen=True)
class TokenLogprob:
    """Natural log probability of a chosen token, with the likeliest alternatives (token id, log probability)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def seeded_generator(params: SamplingParams) -> torch.Generator | None:
    """Return the random source of one sequence, or None where generation is greedy."""
    if params.temperature == 0:
        return None
    generator = torch.Generator()
    if params.seed is None:
        generator.seed()
    else:
        generator.manual_seed(params.seed % 2**63)
    return generator


def sample_token(logits: Tensor, params: SamplingParams, generator: torch.Generator | None) -> int:
    """Return the id of the next token.

    Shapes: logits (vocab,), float32 on the CPU.
    """
    if generator is None:
        return int(logits.argmax())
    if 0 < params.top_k < logits.numel():
        logits = logits.masked_fill(logits < logits.topk(params.top_k).values[-1], float("-inf"))
    probabilities = torch.softmax(logits / params.temperature, -1)
    if params.min_p:
        probabilities = probabilities.masked_fill(probabilities < params.min_p * probabilities.max(), 0.0)
    if params.top_p < 1:
        if params.min_p:
            probabilities = probabilities / probabilities.sum()
        return _sample_nucleus(probabilities, params.top_p, generator)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def penalised(logits: Tensor, output_ids: Sequence[int], params: SamplingParams) -> Tensor:
    """Return the logits with what the answer holds already made less likely, or more if a penalty is negative.

    Shapes: logits (vocab,), result the same. Source: OpenAI's definition of frequency and presence penalties.
    """
    if not output_ids or not (params.frequency_penalty or params.presence_penalty):
        return logits
    counts = torch.bincount(torch.tensor(output_ids), minlength=logits.numel())
    return logits - params.frequency_penalty * counts - params.presence_penalty * (counts > 0)


def _sample_nucleus(probabilities: Tensor, top_p: float, generator: torch.Generator) -> int:
    """Sample among the smallest set of likeliest tokens whose probabilities reach top_p."""
    candidates = min(NUCLEUS_CANDIDATES, probabilities.numel())
    values, ids = probabilities.topk(candidates)
    if float(values.sum()) < top_p:
        values, ids = probabilities.sort(descending=True)
    # a token stays while the mass before it is below top_p, so that the first one always stays
    keep = (values.cumsum(0) - values) < top_p
    chosen = torch.multinomial(values * keep, 1, generator=generator)
    return int(ids[chosen])


def token_logprob(logits: Tensor, token_id: int, top: int) -> TokenLogprob:
    """Return the model's own log probability (temperature 1) of a token and of the `top` likeliest.

    Shapes: logits (vocab,).
    """
    logprobs = torch.log_softmax(logits.float(), -1)
    likeliest: tuple[tuple[int, float], ...] = ()
    if top:
        values, ids = logprobs.topk(top)
        likeliest = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprob(token_id, float(logprobs[token_id]), likeliest)
