"""Rows as token ids: read, rendered once, and cut to length by the rules the person chose."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets_app.learned_rows import EncodedRow, joined, learned_turns
from datasets_app.rendering import ChatRenderer, Message, RenderedRow, RenderingError
from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.errors import TrainingError

# Where all of a row is learned: every token but the first is predicted from those before it.
FIRST = 1


@dataclass(frozen=True)
class EncodedRows:
    """All rows of a file; `truncated` were cut to length, `skipped` were left out."""

    rows: tuple[EncodedRow, ...]
    truncated: int
    skipped: int

    @property
    def tokens(self) -> int:
        """All tokens of all rows."""
        return sum(row.tokens for row in self.rows)

    @property
    def label_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(row.label_tokens for row in self.rows)


def encode_file(
    path: Path, renderer: ChatRenderer, hyperparameters: Hyperparameters, *, at_most: int | None = None
) -> EncodedRows:
    """Render the rows of a JSON-lines file, at most the first `at_most` of them.

    Raises: TrainingError (bad_data) naming the row's number in the file the person uploaded.
    """
    cutter, learns_all = Cutter(renderer, hyperparameters), hyperparameters.train_on_prompt
    rows: list[EncodedRow] = []
    truncated = skipped = 0
    for number, messages in read_messages(path):
        if at_most is not None and len(rows) >= at_most:
            break
        for whole in joined(_rendered(messages, number, renderer, hyperparameters), hyperparameters.max_length):
            row = cutter.fit(whole, number)
            skipped += row is None
            if row is not None:
                truncated += row is not whole
                rows.append(replace(row, prompt_length=FIRST, given=()) if learns_all else row)
    return EncodedRows(tuple(rows[:at_most]), truncated, skipped)


def _rendered(
    messages: Sequence[Message], number: int, renderer: ChatRenderer, chosen: Hyperparameters
) -> list[RenderedRow]:
    """Return the answers of a conversation that are learned, each with all that comes before it."""
    every = chosen.problem_type == "chat" and chosen.learned_turns == "every"
    try:
        turns = learned_turns(renderer, messages, every=every)
    except (RenderingError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError("bad_data", f"Row {number} cannot be used: {error}") from error
    if not all(turn.prompt_length for turn in turns):
        raise TrainingError("bad_base_model", "The base model's chat template gives an empty prompt.")
    return turns


def common_prefix_length(sequences: Sequence[tuple[int, ...]]) -> int:
    """Return how many tokens all sequences begin with; the first and last in dictionary order decide it."""
    first, last = min(sequences), max(sequences)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return sum(1 for _ in same)


def read_messages(path: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield (row number for people, messages) for each line. Raises: TrainingError (bad_data)."""
    for number, content in read_rows(path):
        yield number, content["messages"]


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (row number for people, content) for each line. Raises: TrainingError (bad_data)."""
    try:
        with path.open(encoding="utf-8") as file:
            for line_number, line in enumerate(file, start=1):
                if line.strip():
                    content = json.loads(line)
                    number, _messages = int(content.get("row", line_number)), content["messages"]
                    yield number, content
    except FileNotFoundError as error:
        raise TrainingError("bad_data", f"The data file {path.name} is missing from the job folder.") from error
    except (ValueError, KeyError, AttributeError) as error:
        raise TrainingError("bad_data", f"The data file {path.name} is damaged: {type(error).__name__}.") from error


class Cutter:
    """Cuts rows that are longer than `max_length`: the prompt first, and the answer only if it was allowed."""

    def __init__(self, renderer: ChatRenderer, hyperparameters: Hyperparameters) -> None:
        self._max_length = hyperparameters.max_length
        self._side = hyperparameters.truncation
        self._long_answers = hyperparameters.long_answers
        self._turn_length = _assistant_turn_length(renderer)

    def fit(self, row: EncodedRow, number: int) -> EncodedRow | None:
        """Return the row itself if it fits, a shorter one if not, None if it is to be left out."""
        if len(row.token_ids) <= self._max_length:
            return row
        least_prompt = min(self._turn_length + 1, row.prompt_length)
        room_for_prompt = self._max_length - row.label_tokens
        if room_for_prompt >= least_prompt:
            return self._with_short_prompt(row, room_for_prompt, row.label_tokens)
        if self._long_answers == "skip":
            return None
        if self._long_answers == "cut" and self._max_length > least_prompt:
            return self._with_short_prompt(row, least_prompt, self._max_length - least_prompt)
        raise TrainingError(
            "bad_data",
            f"The answer of row {number} has {row.label_tokens} tokens and does not fit into {self._max_length}. "
            "Raise the longest row, shorten the answer, or choose to leave such rows out.",
        )

    def _with_short_prompt(self, row: EncodedRow, prompt_length: int, answer_length: int) -> EncodedRow:
        prompt = row.token_ids[: row.prompt_length]
        if self._side == "start":
            prompt = prompt[len(prompt) - prompt_length :]
        else:
            # The words that open the assistant's turn are no part of the text and must stay in front of the answer.
            opening = prompt[len(prompt) - self._turn_length :] if self._turn_length else ()
            prompt = prompt[: prompt_length - len(opening)] + opening
        answer = row.token_ids[row.prompt_length :][:answer_length]
        return EncodedRow(prompt + answer, prompt_length)


def _assistant_turn_length(renderer: ChatRenderer) -> int:
    """Return how many tokens at the end of every prompt belong to the template and not to the person's text."""
    one, other = (tuple(renderer.prompt_ids([{"role": "user", "content": text}])) for text in ("a", "7 b"))
    return common_prefix_length([one[::-1], other[::-1]])
