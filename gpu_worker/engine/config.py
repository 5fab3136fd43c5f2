"""Limits of one engine process."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineConfig:
    """Bounds on memory and on the waiting line. Every bound is enforced, none is a hint."""

    max_running: int = 32
    """Sequences that may be generated at the same time."""
    max_waiting: int = 128
    """Sequences that may wait when all places to run are taken; one more is refused with 503."""
    max_context: int = 4096
    """Prompt and answer tokens of one sequence; never above the base model's own limit or the cache."""
    default_max_tokens: int = 512
    """Answer tokens when the caller names no limit. Room is reserved at admission, so this is not the whole context."""
    kv_cache_bytes: int = 256 * 2**20
    """Most memory of the key/value cache, running sequences and reusable prefixes together."""
    prefix_cache_share: float = 0.25
    """Most of that memory that ended sequences may go on holding for others that begin alike."""
    prefill_tokens: int = 256
    """Prompt tokens computed in one step beside the running answers: bounds how long a step can delay them."""
    prefix_cache: bool = True
    """Reuse the keys and values of equal prompt beginnings under the same adapter."""
    draft_tokens: int = 15
    """Tokens that a schema forces or earlier answers suggest, computed ahead in one step; 0 switches drafting off."""
    max_adapters: int = 32
    """Adapters loaded at the same time."""
    max_lora_rank: int = 64
    """Highest rank r of one adapter."""
    lora_rank_budget: int = 512
    """Sum of the ranks of all loaded adapters."""
