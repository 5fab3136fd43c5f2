"""The whole examination of a version: every row is read a fixed number of times, never all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from datasets_app.doctor.answers import AnswerCheck, AnswerPlan, AnswerSurvey
from datasets_app.doctor.balance import balance, find_imbalance
from datasets_app.doctor.duplicates import find_equal
from datasets_app.doctor.label_errors import LabelErrors
from datasets_app.doctor.languages import Languages
from datasets_app.doctor.lengths import Lengths
from datasets_app.doctor.near import find_near
from datasets_app.doctor.neighbours import Neighbours, Sample
from datasets_app.doctor.options import Options
from datasets_app.doctor.personal import PersonalData
from datasets_app.doctor.report import LEARNED, READ, Report
from datasets_app.doctor.shingles import CommonPieces
from datasets_app.doctor.table import BATCH_ROWS, Batch, Findings, RowTable
from datasets_app.findings import FEW_ROWS
from datasets_app.rows import CanonicalRow
from datasets_app.store import SPLITS, count_rows, read_rows

# Called with the share of the work that is done, from 0 to 1; may raise to stop the work.
Progress = Callable[[float], None]
Look = Callable[[Batch], None]


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
        table, findings, options = self._table, self._findings, self._options
        self._progress(0.0)
        plan, sample = self._learn()
        check, personal, languages = AnswerCheck(plan), PersonalData(), Languages(len(table))
        neighbours = Neighbours(CommonPieces(sample.texts), options.near_share, rows=len(table))
        suspects = LabelErrors(len(table), options.seed)
        lengths = Lengths(self._tokenizer_folder) if self._tokenizer_folder else None
        looks: dict[str, Look] = {
            "answers": check.add,
            "personal_data": personal.add,
            "languages": languages.add,
            "neighbours": lambda batch: neighbours.add(batch.rows),
        }
        if options.label_errors:
            looks["label_errors"] = suspects.add
        if lengths:
            looks["tokens"] = lengths.add
        self._read(looks, LEARNED, READ)
        labels = check.labels
        if table.counts.get("train", 0) < FEW_ROWS:
            findings.note("few_rows", "warning", table.counts.get("train", 0))
        check.report(table, findings)
        find_imbalance(table, labels, findings, rare_below=options.rare_below)
        self._timed("duplicates", partial(find_equal, table, labels, findings))
        self._timed("neighbours", lambda: find_near(table, neighbours.clusters(), labels, findings))
        if options.label_errors:
            self._timed("label_errors", partial(suspects.report, table, labels, findings))
        personal.report(table, findings)
        mix = languages.report(findings)
        tokens = lengths.report(table, findings, max_length=options.max_length) if lengths else None
        self._progress(1.0)
        return Report(
            rows=table.counts,
            findings=findings.sorted(),
            schema=plan.schema,
            balance=balance(table, labels),
            tokens=tokens,
            languages=mix,
            timings=self._timings,
        )

    def _learn(self) -> tuple[AnswerPlan, Sample]:
        """Read all rows once to know what is usual: the schema of the answers, and a sample of the questions."""
        survey, sample = AnswerSurvey(self._options.schema), Sample()
        learn_from = {"train"} if "train" in self._paths else set(self._paths)

        def learn(batch: Batch) -> None:
            if batch.split in learn_from:
                survey.add(batch)
                sample.add(batch.rows)

        self._read({"rows": self._table.add, "answers": learn}, 0.0, LEARNED)
        return survey.plan(), sample

    def _read(self, looks: Mapping[str, Look], begin: float, end: float) -> None:
        """Read all rows and let every look see them; report the progress between two shares of the work."""
        total = max(1, sum(count_rows(path) for path in self._paths.values()))
        first = 0
        for split, path in self._paths.items():
            rows = read_rows(path)
            while chunk := self._timed("reading", partial(_next, rows)):
                batch = Batch(split, first, chunk)
                for part, look in looks.items():
                    self._timed(part, partial(look, batch))
                first += len(chunk)
                self._progress(begin + (end - begin) * first / total)

    def _timed(self, part: str, work: Callable[[], Any]) -> Any:
        """Do a part of the work, and note how long it took."""
        begun = time.perf_counter()
        done = work()
        self._timings[part] = round(self._timings.get(part, 0.0) + time.perf_counter() - begun, 4)
        return done


def _next(rows: Iterator[CanonicalRow]) -> list[CanonicalRow]:
    return list(islice(rows, BATCH_ROWS))
