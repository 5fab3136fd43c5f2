"""Limits of one engine process."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "int8"]


@dataclass(frozen=True)
class EngineConfig:
    """Bounds on memory and on the waiting line. Every bound is enforced, none is a hint."""

    weights: Precision = "fp32"
    """Arithmetic of the base model: exact, or faster and slightly different. No answer depends on others in any."""
    max_running: int = 32
    """Sequences that may be generated at the same time."""
    max_waiting: int = 128
    """Sequences that may wait when all places to run are taken; one more is refused with 503."""
    max_waiting_share: float = 0.5
    """Most of the waiting line that one team may fill, so that a burst of one leaves room for the others."""
    max_wait_s: float = 60.0
    """A sequence that could not start within this time is refused with 503 instead of waiting on."""
    max_context: int = 4096
    """Prompt and answer tokens of one sequence; never above the base model's own limit or the cache."""
    default_max_tokens: int = 512
    """Answer tokens when the caller names no limit. Room is reserved at admission, so this is not the whole context."""
    kv_cache_bytes: int = 256 * 2**20
    """Most memory of the key/value cache, running sequences and reusable prefixes together."""
    prefix_cache_share: float = 0.125
    """Most of that memory that ended sequences may go on holding for others that begin alike."""
    prefill_tokens: int = 256
    """Prompt tokens computed in one step beside the running answers: bounds how long a step can delay them."""
    prefix_cache: bool = True
    """Reuse the keys and values of equal prompt beginnings under the same adapter."""
    draft_tokens: int = 15
    """Tokens that a schema forces or earlier answers suggest, computed ahead in one step; 0 switches drafting off."""
    max_adapters: int = 32
    """Adapters in memory at the same time; the least recently used idle one makes room for another."""
    max_known_adapters: int = 512
    """Adapters that may be asked for: those in memory, and those whose folder is read again when one is asked for."""
    max_lora_rank: int = 64
    """Highest rank r of one adapter."""
    lora_rank_budget: int = 512
    """Sum of the ranks of all adapters in memory."""
