"""The whole examination of a version: every row is read a fixed number of times, never all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from datasets_app.doctor import duplicates
from datasets_app.doctor.options import Options
from datasets_app.doctor.report import Report
from datasets_app.doctor.table import BATCH_ROWS, SPLITS, Batch, Findings, RowTable
from datasets_app.store import read_rows

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
        self._progress(0.0)
        for batch in self._batches():
            self._timed("rows", partial(self._table.add, batch))
        self._timed("duplicates", self._compare)
        self._progress(1.0)
        return Report(rows=self._table.counts, findings=self._findings.sorted(), timings=self._timings)

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
