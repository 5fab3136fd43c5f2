"""How likely values are, asked of whichever engine there is: ours has a route for it, vLLM tells of a prompt's tokens.

Which of them an engine is, its agent says when it starts one. For vLLM each value is put into the answer and the whole
conversation is read as a prompt (`prompt_logprobs`), one request for each value, a few at a time. vLLM uses no cached
prefix for such requests, so each reads all of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from deployments import engine_client
from deployments.engine_client import EngineFailed, EngineTarget, ScoredValues

_AT_ONCE: Final = 8

Token = tuple[str, float]
"""A token's id and its log probability."""


def score_values(target: EngineTarget, body: Mapping[str, Any], *, caller: int | None = None) -> ScoredValues:
    """Return how likely each value is, given that it is one of them; `body` as our engine's route wants it.

    Raises: as `engine_client.chat`; EngineFailed from an engine that tells nothing of a prompt's tokens.
    """
    if target.scores_values:
        return engine_client.score_values(target, body, caller=caller)
    with ThreadPoolExecutor(min(_AT_ONCE, len(body["values"]))) as pool:
        read = list(pool.map(partial(_read, target, body, caller), body["values"]))
    tokens = [_tokens(answer) for answer in read]
    common = _common([[name for name, _logprob in one] for one in tokens])
    sums = [math.fsum(logprob for _name, logprob in one[common:]) for one in tokens]
    most = max(sums)
    whole = most + math.log(math.fsum(math.exp(one - most) for one in sums))
    usages = [answer.get("usage") or {} for answer in read]
    cached = ((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for usage in usages)
    return ScoredValues(
        [one - whole for one in sums], sum(int(usage.get("prompt_tokens") or 0) for usage in usages), sum(cached)
    )


def _read(target: EngineTarget, body: Mapping[str, Any], caller: int | None, value: str) -> dict[str, Any]:
    """Have the engine read one value as a part of the answer, or as all of it."""
    written = {"role": "assistant", "content": body["beginning"] + value + body["ending"]}
    asked = {
        "model": body["model"],
        "messages": [*body["messages"], written],
        "add_generation_prompt": False,
        # Else the template ends the turn, which belongs to a value that is the whole answer.
        "continue_final_message": bool(body["ending"]),
        "prompt_logprobs": 0,
        "max_tokens": 1,
        "temperature": 0.0,
        "cache_salt": body["cache_salt"],
    }
    return engine_client.chat(target, asked, caller=caller)


def _tokens(answer: Mapping[str, Any]) -> list[Token]:
    """Return the tokens of a prompt; nothing is known of the first one. Raises: EngineFailed."""
    try:
        # Where an engine adds likelier tokens, the prompt's own one stands first.
        firsts = [next(iter(one.items())) for one in answer["prompt_logprobs"] if one]
        return [(name, float(said["logprob"])) for name, said in firsts]
    except (LookupError, TypeError, ValueError, AttributeError):
        raise EngineFailed(str(engine_client.cannot_score())) from None


def _common(texts: Sequence[list[str]]) -> int:
    """Return how many tokens all texts begin with: those of the prompt, which are no different for any value."""
    first, last = min(texts), max(texts)
    pairs = enumerate(zip(first, last, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(last)))
