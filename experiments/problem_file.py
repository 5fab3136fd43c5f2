"""What an adapter answers where that is not just any text: kept beside its weights as `problem.json`.

The mapping of labels belongs to the artefact: whoever serves the folder answers with exactly these names. Pure;
trainer, evaluator and engine read it too.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

PROBLEM_FILE: Final = "problem.json"
FORMAT: Final = 1
KINDS: Final = ("classification", "regression", "preference", "pretraining")
MAX_LABELS: Final = 1_000
MAX_LABEL_CHARACTERS: Final = 500
MAX_DECIMALS: Final = 12
MAX_FILE_BYTES: Final = 4 * 2**20


@dataclass(frozen=True)
class Problem:
    """A problem type with what its answers are made of.

    `labels` are the allowed answers of a classification. Of a regression, `decimals` is how many places its numbers
    have behind the point at most, `negative` whether there are any below zero, `minimum` and `maximum` the range of the
    training rows. `loss` and `beta` say how preferences were learned.
    """

    problem_type: str
    labels: tuple[str, ...] = ()
    decimals: int = 0
    negative: bool = False
    minimum: float | None = None
    maximum: float | None = None
    loss: str = ""
    beta: float | None = None

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=2) + "\n"

    @property
    def grammar(self) -> str:
        """Return the Lark grammar that every answer follows, empty where answers are free."""
        if self.problem_type == "classification":
            return "start: " + " | ".join(json.dumps(label, ensure_ascii=False) for label in self.labels)
        if self.problem_type == "regression":
            sign = "-?" if self.negative else ""
            places = rf"(\.[0-9]{{1,{self.decimals}}})?" if self.decimals else ""
            return f"start: /{sign}[0-9]{{1,12}}{places}/"
        return ""


def read_problem(folder: Path) -> Problem | None:
    """Return what the adapter in `folder` answers, None for free text. Raises: ValueError."""
    path = folder / PROBLEM_FILE
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{PROBLEM_FILE} is larger than {MAX_FILE_BYTES} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{PROBLEM_FILE} is not valid JSON") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(f"{PROBLEM_FILE} is not of format {FORMAT}")
    return _checked(content)


def _checked(content: Mapping[str, Any]) -> Problem:
    labels = content.get("labels", [])
    is_list = isinstance(labels, list) and len(labels) <= MAX_LABELS
    if not is_list or not all(isinstance(label, str) and 0 < len(label) <= MAX_LABEL_CHARACTERS for label in labels):
        raise ValueError(f"{PROBLEM_FILE} has labels that are not short texts")
    try:
        problem = Problem(**{**content, "labels": tuple(labels)})
    except TypeError as error:
        raise ValueError(f"{PROBLEM_FILE} has entries that are not known") from error
    numbers = [number for number in (problem.minimum, problem.maximum, problem.beta) if number is not None]
    is_whole = type(problem.decimals) is int and 0 <= problem.decimals <= MAX_DECIMALS
    if problem.problem_type not in KINDS or not is_whole or type(problem.negative) is not bool:
        raise ValueError(f"{PROBLEM_FILE} is of an unknown kind")
    if not isinstance(problem.loss, str) or not all(_is_number(number) for number in numbers):
        raise ValueError(f"{PROBLEM_FILE} has numbers that are none")
    if (problem.problem_type == "classification") != bool(problem.labels):
        raise ValueError(f"{PROBLEM_FILE} has labels exactly for a classification")
    return problem


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
