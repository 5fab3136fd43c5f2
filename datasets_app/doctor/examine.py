"""The whole examination of a version: every row is read a fixed number of times, never all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from datasets_app.doctor import duplicates
from datasets_app.doctor.answers import AnswerCheck, AnswerSurvey
from datasets_app.doctor.balance import balance, find_imbalance
from datasets_app.doctor.lengths import Lengths
from datasets_app.doctor.options import Options
from datasets_app.doctor.report import Report
from datasets_app.doctor.table import BATCH_ROWS, SPLITS, Batch, Findings, RowTable
from datasets_app.store import read_rows

FEW_ROWS: Final = 50

# Called with the share of the work that is done, from 0 to 1; may raise to stop the work.
Progress = Callable[[float], None]


def examine(
    folder: Path,
    rows_paths: Mapping[str, Path],
    tokenizer_folder: Path | None = None,
    options: Options | None = None,
    progress: Progress = lambda _share: None,
) -> Report:
    """Examine the canonical rows of a version and return the report.

    `rows_paths`: the file of each split that has rows. `folder`: where the side files with ids go.
    `tokenizer_folder`: a base model's folder; without it nothing is said about tokens.
    Raises: OSError, RenderingError, and whatever `progress` raises.
    """
    return _Examination(folder, rows_paths, tokenizer_folder, options or Options(), progress).run()


class _Examination:
    def __init__(
        self,
        folder: Path,
        rows_paths: Mapping[str, Path],
        tokenizer_folder: Path | None,
        options: Options,
        progress: Progress,
    ) -> None:
        self._paths = {split: rows_paths[split] for split in SPLITS if split in rows_paths}
        self._tokenizer_folder = tokenizer_folder
        self._options = options
        self._progress = progress
        self._table = RowTable()
        self._findings = Findings(self._table, folder)
        self._timings: dict[str, float] = {}

    def run(self) -> Report:
        survey = AnswerSurvey(self._options.schema)
        learn_from = {"train"} if "train" in self._paths else set(self._paths)
        for batch in self._batches():
            self._timed("rows", partial(self._table.add, batch))
            if batch.split in learn_from:
                self._timed("answers", partial(survey.add, batch))
        plan = survey.plan()
        check = AnswerCheck(plan)
        lengths = Lengths(self._tokenizer_folder) if self._tokenizer_folder else None
        for batch in self._batches():
            self._timed("answers", partial(check.add, batch))
            if lengths:
                self._timed("tokens", partial(lengths.add, batch))
        table, findings = self._table, self._findings
        check.report(table, findings)
        find_imbalance(table, check.labels, findings, rare_below=self._options.rare_below)
        self._timed("duplicates", self._compare)
        if table.counts.get("train", 0) < FEW_ROWS:
            findings.note("few_rows", "warning", table.counts.get("train", 0))
        tokens = lengths.report(table, findings, max_length=self._options.max_length) if lengths else None
        self._progress(1.0)
        return Report(
            rows=table.counts,
            findings=findings.sorted(),
            schema=plan.schema,
            balance=balance(table, check.labels),
            tokens=tokens,
            timings=self._timings,
        )

    def _compare(self) -> None:
        duplicates.find_duplicates(self._table, self._findings)
        duplicates.find_leaks(self._table, self._findings)

    def _batches(self) -> Iterator[Batch]:
        first = 0
        for split, path in self._paths.items():
            rows = read_rows(path)
            while chunk := list(islice(rows, BATCH_ROWS)):
                yield Batch(split, first, chunk)
                first += len(chunk)

    def _timed(self, part: str, work: Callable[[], None]) -> None:
        begun = time.perf_counter()
        work()
        self._timings[part] = round(self._timings.get(part, 0.0) + time.perf_counter() - begun, 3)
