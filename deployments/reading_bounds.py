"""How many tokens may be read to say how sure a model is: bounds, for what is set aside before anybody is asked.

They follow the rule by which fields are scored, and what engines count: ours the prompt and what values have in common
once, vLLM all of it for each value. Texts are measured as those of prompts are.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Final

from datasets_app.fields import value_of
from deployments.admission import likely_tokens
from deployments.engine_client import EngineTarget
from experiments.scoring.choosing import ClosedFields

# Quotes, commas and brackets are tokens of their own, shorter than those of texts.
_TOKENS_OF_SIGNS: Final = 4


def of_values(engine: EngineTarget, values: Iterable[str], *, before: int) -> int:
    """Return how many tokens are read to score values once; `before`: those of the prompt and the answer up to them."""
    sizes = [likely_tokens(value) + _TOKENS_OF_SIGNS for value in values]
    return sum(sizes) + before * (1 if engine.scores_values else len(sizes))


def of_fields(engine: EngineTarget, fields: ClosedFields, names: Collection[str], *, prompt: int, written: int) -> int:
    """Return how many tokens are read to score closed fields in one answer.

    `written`: how many tokens the open fields of that answer have at most, all together.
    """
    followed = fields.most_followed(names)
    most, before = 0, prompt + 1
    for name in fields.names[: fields.names.index([*followed][-1]) + 1 if followed else 0]:
        before += likely_tokens(name) + _TOKENS_OF_SIGNS
        if name not in fields.labels:
            before, written = before + written, 0
            continue
        values = [_text(label) for label in fields.labels[name]]
        most += followed.get(name, 0) * of_values(engine, values, before=before)
        before += max(map(likely_tokens, values)) + _TOKENS_OF_SIGNS
    return most


def _text(label: str) -> str:
    return json.dumps(value_of(label), ensure_ascii=False)
