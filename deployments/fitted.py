"""What temperatures were fitted under: probabilities are calibrated only where the model is asked in the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.scoring.calibration import EXACT


@dataclass(frozen=True)
class Fitted:
    """The base model's weights in the evaluation, and its rows' system prompts as digests.

    `prompts`: None where each row, or nearly so, had one of its own, so that another one is nothing new.
    """

    weights: str = EXACT
    prompts: frozenset[str] | None = None

    @classmethod
    def under(cls, weights: str, prompts: Collection[str] | None) -> Fitted:
        """Return it for system prompts as they read."""
        return cls(weights, None if prompts is None else frozenset(map(_digest, prompts)))

    @classmethod
    def kept(cls, kept: Mapping[str, Any]) -> Fitted:
        """Return what `to_json` has kept."""
        return cls(kept["weights"], None if kept["prompts"] is None else frozenset(kept["prompts"]))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON knows it, always in the same order."""
        return {"weights": self.weights, "prompts": None if self.prompts is None else sorted(self.prompts)}

    def holds_for(self, weights: str, messages: Sequence[Mapping[str, str]]) -> bool:
        """Whether an engine with these weights is asked in the way in which the temperatures were fitted."""
        return weights == self.weights and (self.prompts is None or _digest(system_of(messages)) in self.prompts)


def system_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what a conversation says as the system, '' if nothing."""
    return "\n".join(message["content"] for message in messages if message["role"] == "system")


def _digest(prompt: str) -> str:
    return hashlib.sha256(prompt.encode(errors="surrogatepass")).hexdigest()
