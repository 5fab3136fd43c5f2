"""What an examination may be told; the defaults suit most datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class Options:
    """`schema`: the JSON schema to check answers against, instead of the inferred one. `max_length`: the tokens that
    a training row may have before it is cut. `rare_below`: labels with fewer training rows are reported as rare.
    `near_share`: the share of common text from which two questions are near duplicates. `seed`: of every sample.
    """

    schema: Mapping[str, Any] | None = None
    max_length: int = 1024
    rare_below: int = 5
    near_share: float = 0.75
    label_errors: bool = True
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the options that `to_dict` wrote; unknown names are ignored, absent ones get their default."""
        return cls(**{one.name: stored[one.name] for one in fields(cls) if one.name in stored})
