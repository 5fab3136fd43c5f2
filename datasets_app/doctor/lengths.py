"""How many tokens the rows have for a base model, and how many would be cut at each maximal length."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

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
        self._prompts = array("l")
        self._answers = array("l")

    def add(self, batch: Batch) -> None:
        """Count the tokens of a batch."""
        counts = self._renderer.row_lengths([row.messages for row in batch.rows])
        self._prompts.extend(prompt for prompt, _answer in counts)
        self._answers.extend(answer for _prompt, answer in counts)

    def report(self, table: RowTable, findings: Findings, *, max_length: int) -> dict[str, Any]:
        """Return the figures for the report; add a finding about rows that are longer than `max_length`."""
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
