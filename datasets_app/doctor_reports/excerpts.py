"""The beginnings of the rows that a report shows, kept beside it so that its page need not search the rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from datasets_app.doctor.report import Example, Report
from datasets_app.rows import CanonicalRow
from datasets_app.store import read_ids

# As many rows of each finding as the report's page shows.
SHOWN_EXAMPLES: Final = 5
REVIEWED_EXAMPLES: Final = 100
REVIEWED: Final = frozenset({"label_error"})
CHARACTERS: Final = 600
NAME: Final = "excerpts.json"


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a row's question and answer; `row` is its line in the source."""

    id: int
    split: str
    row: int
    prompt: str
    answer: str

    @classmethod
    def of(cls, split: str, row: CanonicalRow) -> Excerpt:
        """Return the excerpt of a row."""
        return cls(row.id, split, row.row, _begin(row.prompt), _begin(row.answer))


def _begin(text: str) -> str:
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]}…"


def shown_examples(code: str, examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """Return the examples of a finding that its card shows."""
    return examples[: REVIEWED_EXAMPLES if code in REVIEWED else SHOWN_EXAMPLES]


def write_excerpts(folder: Path, rows_paths: Mapping[str, Path], report: Report) -> None:
    """Write the excerpts of all rows that the report's page shows."""
    examples = [one for finding in report.findings for one in shown_examples(finding.code, finding.examples)]
    wanted: dict[str, set[int]] = {}
    for one in examples:
        wanted.setdefault(one.split, set()).add(one.id)
        if "other_id" in one.params:
            wanted.setdefault(one.params["other_split"], set()).add(one.params["other_id"])
    found = [
        asdict(Excerpt.of(split, row))
        for split, ids in wanted.items()
        if split in rows_paths
        for row in read_ids(rows_paths[split], ids)
    ]
    (folder / NAME).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def read_excerpts(folder: Path) -> dict[int, Excerpt]:
    """Return the excerpts beside a report by the id of the row; none if they are gone."""
    try:
        stored: Iterable[dict[str, object]] = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {int(str(one["id"])): Excerpt(**one) for one in stored}  # type: ignore[arg-type]
