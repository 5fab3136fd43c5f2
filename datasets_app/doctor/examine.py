"""The whole examination of a version: every row is read a fixed number of times, never all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from datasets_app.doctor import duplicates
from datasets_app.doctor.answers import AnswerCheck, AnswerPlan, AnswerSurvey
from datasets_app.doctor.balance import Labels, balance, find_imbalance
from datasets_app.doctor.lengths import Lengths
from datasets_app.doctor.near import find_near
from datasets_app.doctor.neighbours import Neighbours, Sample
from datasets_app.doctor.options import Options
from datasets_app.doctor.report import Report
from datasets_app.doctor.shingles import CommonPieces
from datasets_app.doctor.table import BATCH_ROWS, Batch, Findings, RowTable
from datasets_app.store import SPLITS, read_rows

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
        survey, sample = self._first_reading()
        plan = survey.plan()
        check, lengths, neighbours = self._second_reading(plan, sample)
        table, findings, labels = self._table, self._findings, check.labels
        check.report(table, findings)
        find_imbalance(table, labels, findings, rare_below=self._options.rare_below)
        self._timed("duplicates", partial(self._compare, labels))
        self._timed("neighbours", lambda: find_near(table, neighbours.clusters(), labels, findings))
        if table.counts.get("train", 0) < FEW_ROWS:
            findings.note("few_rows", "warning", table.counts.get("train", 0))
        tokens = lengths.report(table, findings, max_length=self._options.max_length) if lengths else None
        self._progress(1.0)
        return Report(
            rows=table.counts,
            findings=findings.sorted(),
            schema=plan.schema,
            balance=balance(table, labels),
            tokens=tokens,
            timings=self._timings,
        )

    def _first_reading(self) -> tuple[AnswerSurvey, Sample]:
        """Learn what is usual: the schema of the answers, and a sample of the questions."""
        survey, sample = AnswerSurvey(self._options.schema), Sample()
        learn_from = {"train"} if "train" in self._paths else set(self._paths)
        for batch in self._batches():
            self._timed("rows", partial(self._table.add, batch))
            if batch.split in learn_from:
                self._timed("answers", partial(survey.add, batch))
                self._timed("neighbours", partial(sample.add, batch.rows))
        return survey, sample

    def _second_reading(self, plan: AnswerPlan, sample: Sample) -> tuple[AnswerCheck, Lengths | None, Neighbours]:
        """Look at every row."""
        check = AnswerCheck(plan)
        lengths = Lengths(self._tokenizer_folder) if self._tokenizer_folder else None
        neighbours = Neighbours(CommonPieces(sample.texts), self._options.near_share)
        for batch in self._batches():
            self._timed("answers", partial(check.add, batch))
            self._timed("neighbours", partial(neighbours.add, batch.rows))
            if lengths:
                self._timed("tokens", partial(lengths.add, batch))
        return check, lengths, neighbours

    def _compare(self, labels: Labels) -> None:
        duplicates.find_duplicates(self._table, self._findings)
        duplicates.find_leaks(self._table, self._findings)
        duplicates.find_conflicts(self._table, labels, self._findings)

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
