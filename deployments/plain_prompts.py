"""What a legacy completion continues: one text, the token ids of one, or several of either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

One = str | list[int]
Prompt = One | list[str] | list[list[int]]


def each(prompt: Prompt) -> Sequence[One]:
    """Return the single prompts of a request."""
    if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
        return [cast(One, prompt)]
    return cast(Sequence[One], prompt)


def shown(prompt: Prompt) -> str:
    """Return the prompts as one text for people; token ids stay numbers."""
    return "\n".join(one if isinstance(one, str) else str(one) for one in each(prompt))
