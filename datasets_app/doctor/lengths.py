"""How many tokens the rows have for a base model, and how many would be cut at each maximal length."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets_app.doctor.skeletons import QuickRenderer
from datasets_app.doctor.table import Batch, Findings, RowTable
from datasets_app.rendering import ChatRenderer
from datasets_app.store import SPLITS

LIMITS: Final = (128, 256, 512, 1024, 2048, 4096, 8192)
PERCENTILES: Final = (50, 75, 90, 95, 99)
# Bars of the histogram: upper edges, each a third of an octave apart, from 16 tokens on.
EDGES: Final = tuple(dict.fromkeys(round(16 * 2 ** (n / 3)) for n in range(31)))
DROP: Final = ("exclude_found",)


class Lengths:
    """Counts the tokens of every row with the tokenizer and chat template that training will use."""

    def __init__(self, tokenizer_folder: Path) -> None:
        self._renderer = ChatRenderer.load(tokenizer_folder)
        self._quick = QuickRenderer(self._renderer)
        self._prompts = array("l")
        self._answers = array("l")
        # The tokenizer works without the interpreter's lock: it counts while the next analyses look at the batch.
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._counting: Future[None] | None = None

    def add(self, batch: Batch) -> None:
        """Count the tokens of a batch."""
        texts = [self._quick.texts(row.messages) for row in batch.rows]
        self._wait()
        self._counting = self._pool.submit(self._count, texts)

    def _count(self, texts: Sequence[tuple[str, str]]) -> None:
        # Equal texts, such as answers from a closed set, are counted once.
        unique = list(dict.fromkeys(text for both in texts for text in both))
        counts = dict(zip(unique, self._renderer.count_tokens(unique), strict=True))
        self._prompts.extend(counts[prompt] for prompt, _answer in texts)
        self._answers.extend(counts[answer] for _prompt, answer in texts)

    def _wait(self) -> None:
        if self._counting is not None:
            self._counting.result()
            self._counting = None

    def report(self, table: RowTable, findings: Findings, *, max_length: int) -> dict[str, Any]:
        """Return the figures for the report; add a finding about rows that are longer than `max_length`."""
        self._wait()
        self._pool.shutdown()
        prompts, answers = np.array(self._prompts, dtype=np.int64), np.array(self._answers, dtype=np.int64)
        totals = prompts + answers
        cut = np.flatnonzero(totals > max_length)
        examples = (
            table.example(one, params={"tokens": int(totals[one]), "answer_tokens": int(answers[one])})
            for one in cut.tolist()
        )
        params = {"limit": max_length, "percent": _percent(len(cut), len(totals))}
        findings.add("too_long", "warning", cut, params=params, examples=examples, fixes=DROP)
        return {
            "row": _figures(totals),
            "prompt": _figures(prompts),
            "answer": _figures(answers),
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
