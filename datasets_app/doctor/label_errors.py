"""Labels that are probably wrong: a simple model, asked about rows it was not taught with, is sure of another one.

The idea is confident learning (Northcutt et al. 2021, arXiv:1911.00068) with a bag of words and word pairs. Its
ranking matters more than its number: planted wrong labels stand at the top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets_app.doctor.balance import Codes, Labels, kept
from datasets_app.doctor.report import Example
from datasets_app.doctor.table import Batch, Findings, Positions, RowTable

Floats = npt.NDArray[np.float64]

# Of more rows an even sample is looked at.
MAX_ROWS: Final = 50_000
MAX_CHARACTERS: Final = 2_000
MIN_ROWS: Final = 200
MIN_ROWS_PER_LABEL: Final = 5
MAX_LABELS: Final = 500
# A model that is wrong about most rows cannot judge labels.
MIN_ACCURACY: Final = 0.5


@dataclass(frozen=True)
class _Suspects:
    """Rows of one field with the label that the model prefers; `own` is the probability of the given label."""

    field: str
    positions: Positions
    given: Codes
    preferred: Codes
    own: Floats


class LabelErrors:
    """Keeps the prompts of a sample of rows, then asks a model of each closed field about their labels."""

    def __init__(self, rows: int, seed: int) -> None:
        self._stride = max(1, -(-rows // MAX_ROWS))
        self._seed = seed
        self._positions: list[int] = []
        self._texts: list[str] = []

    def add(self, batch: Batch) -> None:
        """Note the prompts of a batch."""
        for position, row in enumerate(batch.rows, start=batch.first):
            if position % self._stride == 0:
                self._positions.append(position)
                self._texts.append(row.prompt[:MAX_CHARACTERS])

    def report(self, table: RowTable, labels: Labels, findings: Findings) -> None:
        """Add a finding about suspected labels, the surest ones first."""
        if len(self._texts) < MIN_ROWS or not labels.fields:
            return
        # A heavy library, which small versions do without.
        from datasets_app.doctor import label_model

        positions, features = np.array(self._positions, dtype=np.int64), label_model.features_of(self._texts)
        suspects = [
            found
            for field in labels.fields
            if (found := self._suspects(field, positions, labels.codes(field)[positions], features, label_model.judge))
        ]
        places = [position for found in suspects for position in found.positions.tolist()]
        findings.add(
            "label_error",
            "warning",
            places,
            params={"examined": len(positions), "rows": len(table)},
            examples=_examples(table, labels, suspects),
        )

    def _suspects(
        self, field: str, positions: Positions, codes: Codes, features: Any, judge: Callable[..., Any]
    ) -> _Suspects | None:
        frequent = np.flatnonzero(np.bincount(codes[codes >= 0], minlength=1) >= MIN_ROWS_PER_LABEL)
        if not 2 <= len(frequent) <= MAX_LABELS:
            return None
        rows = np.flatnonzero(np.isin(codes, frequent))
        given = np.searchsorted(frequent, codes[rows]).astype(np.int32)
        best, own, found = judge(features[rows], given, self._seed)
        if (best == given).mean() < MIN_ACCURACY:
            return None
        return _Suspects(
            field,
            positions[rows[found]],
            frequent[given[found]].astype(np.int32),
            frequent[best[found]].astype(np.int32),
            own[found],
        )


def _examples(table: RowTable, labels: Labels, suspects: Sequence[_Suspects]) -> Iterator[Example]:
    """Yield suspected rows of all fields, the least likely labels first."""
    ranked = [
        (float(own), int(position), found.field, int(given), int(preferred))
        for found in suspects
        for own, position, given, preferred in zip(
            found.own, found.positions, found.given, found.preferred, strict=True
        )
    ]
    for own, position, field, given, preferred in sorted(ranked):
        names = labels.names(field)
        params = {
            "label": kept(names[given]),
            "suggested": kept(names[preferred]),
            "percent": round(100 * own, 1),
        }
        yield table.example(position, field, params)
