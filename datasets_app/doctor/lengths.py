"""How many tokens the rows have for a base model, and how many would be cut at each maximal length.

Counted is what is learned: of a conversation of several turns every answer, as `learned_rows` says it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets_app.doctor.skeletons import QuickRenderer
from datasets_app.doctor.table import Batch, Findings, RowTable
from datasets_app.learned_rows import joined, learned_turns
from datasets_app.rendering import ChatRenderer, learned_places
from datasets_app.rows import CanonicalRow
from datasets_app.store import SPLITS

LIMITS: Final = (128, 256, 512, 1024, 2048, 4096, 8192)
PERCENTILES: Final = (50, 75, 90, 95, 99)
# Bars of the histogram: upper edges, each a third of an octave apart, from 16 tokens on.
EDGES: Final = tuple(dict.fromkeys(round(16 * 2 ** (n / 3)) for n in range(31)))
DROP: Final = ("exclude_found",)


@dataclass(frozen=True)
class _Counted:
    """Tokens of one row: what is read and not learned, each answer that is learned, the longest row to learn from.

    They are one row to learn from unless the template tells earlier turns otherwise.
    """

    prompt: int
    answers: tuple[int, ...]
    longest: int


class Lengths:
    """Counts the tokens of every row with the tokenizer and chat template that training will use."""

    def __init__(self, tokenizer_folder: Path) -> None:
        self._renderer = ChatRenderer.load(tokenizer_folder)
        self._quick = QuickRenderer(self._renderer)
        self._prompts = array("l")
        self._learned = array("l")
        self._longest = array("l")
        self._answers = array("l")
        self._last = array("l")
        # The tokenizer works without the interpreter's lock: it counts while the next analyses look at the batch.
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._counting: Future[None] | None = None

    def add(self, batch: Batch) -> None:
        """Count the tokens of a batch."""
        texts = [None if _has_turns(row) else self._quick.texts(row.messages) for row in batch.rows]
        self._wait()
        self._counting = self._pool.submit(self._count, batch.rows, texts)

    def _count(self, rows: Sequence[CanonicalRow], texts: Sequence[tuple[str, str] | None]) -> None:
        # Equal texts, such as answers from a closed set, are counted once.
        unique = list(dict.fromkeys(text for both in texts if both for text in both))
        counts = dict(zip(unique, self._renderer.count_tokens(unique), strict=True))
        for row, both in zip(rows, texts, strict=True):
            if both is None:
                self._note(self._turns(row))
            else:
                prompt, answer = counts[both[0]], counts[both[1]]
                self._note(_Counted(prompt, (answer,), prompt + answer))

    def _turns(self, row: CanonicalRow) -> _Counted:
        learned = joined(learned_turns(self._renderer, row.messages))
        return _Counted(
            prompt=sum(one.tokens - one.answer_tokens for one in learned),
            answers=tuple(end - start for one in learned for start, end in one.learned),
            longest=max(one.tokens for one in learned),
        )

    def _note(self, counted: _Counted) -> None:
        self._prompts.append(counted.prompt)
        self._learned.append(sum(counted.answers))
        self._longest.append(counted.longest)
        self._answers.extend(counted.answers)
        self._last.append(counted.answers[-1] if counted.answers else 0)

    def _wait(self) -> None:
        if self._counting is not None:
            self._counting.result()
            self._counting = None

    def report(self, table: RowTable, findings: Findings, *, max_length: int) -> dict[str, Any]:
        """Return the figures for the report; add a finding about rows that are longer than `max_length`.

        `prompt` and `learned` are tokens of a row, together what a step computes; `answer` those of each answer, and
        `longest_answers` the most tokens of a row's last one, which is always learned, in each split.
        """
        self._wait()
        self._pool.shutdown()
        totals, learned = _counts(self._longest), _counts(self._learned)
        cut = np.flatnonzero(totals > max_length)
        examples = (
            table.example(one, params={"tokens": int(totals[one]), "answer_tokens": int(learned[one])})
            for one in cut.tolist()
        )
        params = {"limit": max_length, "percent": _percent(len(cut), len(totals))}
        findings.add("too_long", "warning", cut, params=params, examples=examples, fixes=DROP)
        return {
            "row": _figures(totals),
            "prompt": _figures(_counts(self._prompts)),
            "learned": _figures(learned),
            "answer": _figures(_counts(self._answers)),
            "longest_answers": {
                split: int(_counts(self._last)[table.splits == SPLITS.index(split)].max(initial=0))
                for split in table.counts
            },
            "histogram": {"edges": list(EDGES), "counts": _histogram(totals)},
            "truncated": [
                {
                    "limit": limit,
                    "rows": int((totals > limit).sum()),
                    "percent": _percent(int((totals > limit).sum()), len(totals)),
                    "splits": {
                        split: int((totals[table.splits == SPLITS.index(split)] > limit).sum())
                        for split in table.counts
                    },
                }
                for limit in LIMITS
            ],
        }


def _has_turns(row: CanonicalRow) -> bool:
    """Tell whether several answers of a row are learned. Preferences compare the last one only."""
    return not row.rejected and len(row.messages) > 2 and len(learned_places(row.messages)) > 1


def _counts(counted: array[int]) -> npt.NDArray[np.int64]:
    return np.array(counted, dtype=np.int64)


def _figures(counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return least, most, mean, sum and percentiles; all of them 0 without rows."""
    if not len(counts):
        counts = np.zeros(1, dtype=np.int64)
    at = np.percentile(counts, PERCENTILES, method="inverted_cdf")
    return {
        "min": int(counts.min()),
        "max": int(counts.max()),
        "mean": round(float(counts.mean()), 1),
        "sum": int(counts.sum()),
        "percentiles": {str(share): int(value) for share, value in zip(PERCENTILES, at, strict=True)},
    }


def _histogram(counts: npt.NDArray[np.int64]) -> list[int]:
    """Return how many rows have up to 16 tokens, up to the next edge, and so on; the last bar has no upper edge."""
    bars = np.searchsorted(np.array(EDGES), counts, side="left")
    return [int(count) for count in np.bincount(bars, minlength=len(EDGES) + 1)]


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 2) if whole else 0.0
