"""A row that is asked instead of learned: by the evaluator at the end, and while training goes on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from datasets_app.rendering import ChatRenderer

MOST_CHARACTERS: Final = 4_000
# An answer more than twice as long as the longest right one is wrong in any case: no time is spent on its rest.
_LONGEST_FACTOR, _LONGEST_MARGIN = 2, 16


@dataclass(frozen=True)
class HeldOutRow:
    """One row to be answered: its line in the source file, the prompt's tokens and the right answer.

    `prompt` is the last thing the user says, `question` all that is said before the answer.
    """

    row: int
    prompt: str
    question: str
    expected: str
    prompt_ids: tuple[int, ...]
    answer_tokens: int
    content: Mapping[str, Any] = field(default_factory=dict)
    """The row as the job folder has it."""
    place: int = 0
    """The row's place in its file, from 0."""


def heldout_row(content: Mapping[str, Any], renderer: ChatRenderer) -> HeldOutRow:
    """Return a row of a job folder as a question. Raises: RenderingError if it cannot be rendered."""
    messages = content["messages"]
    rendered = renderer.row(messages)
    prompts = [message["content"] for message in messages[:-1] if message["role"] == "user"]
    return HeldOutRow(
        row=content["row"],
        prompt=prompts[-1] if prompts else "",
        question=question_of(messages),
        expected=messages[-1]["content"],
        prompt_ids=rendered.token_ids[: rendered.prompt_length],
        answer_tokens=len(rendered.token_ids) - rendered.prompt_length,
        content=content,
    )


def question_of(messages: Sequence[Mapping[str, str]]) -> str:
    """Return what is asked in a row: all its turns but the system prompt, which is mostly the same, and the answer."""
    texts = [message["content"] for message in messages[:-1] if message["role"] != "system"]
    return "\n".join(texts)[:MOST_CHARACTERS]


def answer_limit(rows: Iterable[HeldOutRow], most: int) -> int:
    """Return how many tokens an answer may have: `most`, or less where the right answers are all short."""
    longest = max((row.answer_tokens for row in rows), default=0)
    return min(most, _LONGEST_FACTOR * longest + _LONGEST_MARGIN)
