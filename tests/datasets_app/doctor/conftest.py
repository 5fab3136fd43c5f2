"""Versions made on the spot: a list of (split, prompt, answer) becomes files, the doctor's report comes back."""

import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest

from datasets_app.doctor.examine import examine
from datasets_app.doctor.options import Options
from datasets_app.doctor.report import Report
from datasets_app.rows import CanonicalRow
from datasets_app.store import write_rows

SUBJECTS = {
    "IT": ["printer", "laptop", "screen", "keyboard", "network", "password", "login", "server"],
    "HR": ["holiday", "contract", "salary", "insurance", "pension", "training", "interview", "leave"],
    "Post": ["parcel", "letter", "stamp", "courier", "envelope", "delivery", "mailbox", "freight"],
}
FILLERS = re.findall(
    r"\w+",
    """
please today again office colleague floor morning since broken waiting question urgent customer building
second nobody answer problem yesterday meeting window number system because always strange tomorrow somebody
reception manager version report change paper weekly little green blue early later remote local spare
    """,
)

Rows = Iterable[tuple[str, str, str]]


def write_version(folder: Path, rows: Rows) -> dict[str, Path]:
    """Write canonical rows; the line of a row is its number in the list plus one, as below a header."""
    lines = defaultdict(list)
    for number, (split, prompt, answer) in enumerate(rows, start=1):
        messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
        lines[split].append(CanonicalRow(number + 1, messages, number))
    paths = {split: folder / f"{split}.parquet" for split in lines}
    for split, path in paths.items():
        write_rows(path, lines[split])
    return paths


def examined(folder: Path, rows: Rows, tokenizer_folder: Path | None = None, **options: object) -> Report:
    """Return the report about rows, with the options given by name."""
    return examine(folder, write_version(folder, rows), tokenizer_folder, Options(**options))


@pytest.fixture
def diagnose(tmp_path: Path) -> Callable[..., Report]:
    """Return a function that examines rows in the test's own folder."""
    return partial(examined, tmp_path)


def good_rows(count: int) -> list[tuple[str, str, str]]:
    """Return rows without a fault: different tickets, two closed fields, the last tenth for validation."""
    dice = random.Random(5)
    rows = []
    for number in range(count):
        queue = dice.choices(list(SUBJECTS), weights=[3, 2, 1])[0]
        words = " ".join(dice.sample(SUBJECTS[queue], 3) + dice.sample(FILLERS, 6))
        answer = {"queue": queue, "urgency": dice.choice(["Low", "High"])}
        rows.append(("train" if number < 0.9 * count else "validation", words, json.dumps(answer)))
    return rows
