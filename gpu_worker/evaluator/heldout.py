"""The rows that are asked, and what an answer to one is."""

import json
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets_app.rendering import ChatRenderer, RenderingError
from experiments.problem_file import Problem
from gpu_worker.evaluator.baselines import question_of
from gpu_worker.evaluator.problems import continuation
from gpu_worker.trainer.errors import TrainingError


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


@dataclass(frozen=True)
class Answer:
    """What a model answered, and why it ended there (stop or length)."""

    text: str
    finish: str


def choose_rows(
    path: Path,
    renderer: ChatRenderer,
    *,
    count: int,
    seed: int,
    problem: Problem | None = None,
    without: Collection[int] = (),
) -> list[HeldOutRow]:
    """Return at most `count` held-out rows, the same ones for the same seed, in the order of the file.

    Rows whose numbers are in `without` are left out.

    Raises: TrainingError if there are none.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if without:
        lines = [line for line in lines if json.loads(line)["row"] not in without]
    if not lines:
        raise TrainingError("bad_data", "There are no held-out rows to measure on. Import the dataset with some.")
    chosen = sorted(random.Random(seed).sample(range(len(lines)), min(count, len(lines))))  # noqa: S311 — no secret
    read = _read_text if problem and problem.problem_type == "pretraining" else _read_row
    return [read(json.loads(lines[place]), renderer) for place in chosen]


def _read_text(content: dict[str, Any], renderer: ChatRenderer) -> HeldOutRow:
    """Return a text whose second half is the answer to its first."""
    prompt, expected = continuation(content, renderer)
    prompt_ids = tuple(renderer.encode(prompt)) or (renderer.eos_id,)
    return HeldOutRow(
        row=content["row"],
        question=prompt,
        prompt=prompt,
        expected=expected,
        prompt_ids=prompt_ids,
        answer_tokens=len(renderer.encode(expected)),
        content=content,
    )


def _read_row(content: dict[str, Any], renderer: ChatRenderer) -> HeldOutRow:
    messages = content["messages"]
    try:
        rendered = renderer.row(messages)
    except RenderingError as error:
        raise TrainingError("bad_data", f"Row {content['row']} cannot be rendered: {error}") from error
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
