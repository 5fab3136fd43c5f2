"""The rows that are asked, and what an answer to one is."""

import json
import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets_app.rendering import ChatRenderer, RenderingError
from experiments.problem_file import Problem
from experiments.trials import MOST_ASKED_ROWS, MOST_CALIBRATION_ROWS
from gpu_worker.evaluator.problems import continuation
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.heldout import HeldOutRow, heldout_row


@dataclass(frozen=True)
class Answer:
    """What a model answered, and why it ended there (stop or length)."""

    text: str
    finish: str


@dataclass(frozen=True)
class Supply:
    """How many rows there are to ask. `apart`: they are test rows, and validation rows are there besides."""

    count: int
    validation: int
    apart: bool

    @classmethod
    def of(cls, data: Path) -> "Supply":
        """Count the rows of a job folder; where there are no test rows, validation rows stand in for them."""
        paths = data / "heldout.jsonl", data / "validation.jsonl"
        heldout, validation = (read_lines(path) if path.exists() else [] for path in paths)
        apart = bool(heldout) and heldout[:1] != validation[:1]
        return cls(len(heldout if apart else validation), len(validation), apart)

    def asked(self, wanted: int) -> int:
        """Return how many rows a report asks at most; `wanted` is 0 for all, of which some are left to calibrate by."""
        if wanted:
            return min(wanted, self.count)
        left = 0 if self.apart else min(self.count // 2, MOST_CALIBRATION_ROWS)
        return min(self.count - left, MOST_ASKED_ROWS)

    def spare(self, asked: int) -> int:
        """Return how many validation rows are not asked."""
        return self.validation if self.apart else self.count - asked


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
    lines = list(enumerate(read_lines(path))) if path.exists() else []
    if without:
        lines = [(place, line) for place, line in lines if json.loads(line)["row"] not in without]
    if not lines:
        raise TrainingError("bad_data", "There are no held-out rows to measure on. Import the dataset with some.")
    chosen = sorted(random.Random(seed).sample(range(len(lines)), min(count, len(lines))))  # noqa: S311 — no secret
    read = _read_text if problem and problem.problem_type == "pretraining" else _read_row
    rows = []
    for number in chosen:
        place, line = lines[number]
        rows.append(replace(read(json.loads(line), renderer), place=place))
    return rows


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file of JSON lines, cut at line feeds alone: texts may have other line ends in them."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


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
    try:
        return heldout_row(content, renderer)
    except RenderingError as error:
        raise TrainingError("bad_data", f"Row {content['row']} cannot be rendered: {error}") from error
