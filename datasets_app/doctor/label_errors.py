"""Labels that are probably wrong: a simple model, asked about rows it was not taught with, is sure of another one.

The idea is confident learning (Northcutt et al. 2021, arXiv:1911.00068) with a bag of words and word pairs. Its
ranking matters more than its number: planted wrong labels stand at the top.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import MultinomialNB

from datasets_app.doctor.balance import MAX_SHOWN, Codes, Labels
from datasets_app.doctor.report import Example
from datasets_app.doctor.table import Batch, Findings, Positions, RowTable

Floats = npt.NDArray[np.float64]

# Of more rows an even sample is looked at.
MAX_ROWS: Final = 50_000
MAX_CHARACTERS: Final = 2_000
MIN_ROWS: Final = 200
MIN_ROWS_PER_LABEL: Final = 5
FOLDS: Final = 3
# One classifier per label takes as long as there are labels; naive Bayes ranks as well where there are many.
MANY_LABELS: Final = 20
MAX_LABELS: Final = 500
# A model that is wrong about most rows cannot judge labels.
MIN_ACCURACY: Final = 0.5
MAX_OWN: Final = 0.1
MAX_SHARE: Final = 0.1
HASH_BITS: Final = 18
# Beyond this, what stands between two blanks is no word: the script has no blanks.
LONG_WORD: Final = 14


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
        positions, features = np.array(self._positions, dtype=np.int64), _features(self._texts)
        suspects = [
            found
            for field in labels.fields
            if (found := self._suspects(field, positions, features, labels.codes(field)[positions])) is not None
        ]
        places = [position for found in suspects for position in found.positions.tolist()]
        findings.add(
            "label_error",
            "warning",
            places,
            params={"examined": len(positions), "rows": len(table)},
            examples=_examples(table, labels, suspects),
        )

    def _suspects(self, field: str, positions: Positions, features: csr_matrix, codes: Codes) -> _Suspects | None:
        frequent = np.flatnonzero(np.bincount(codes[codes >= 0], minlength=1) >= MIN_ROWS_PER_LABEL)
        if not 2 <= len(frequent) <= MAX_LABELS:
            return None
        rows = np.flatnonzero(np.isin(codes, frequent))
        given = np.searchsorted(frequent, codes[rows]).astype(np.int32)
        chances = _out_of_fold(features[rows], given, self._seed)
        best = chances.argmax(axis=1)
        if (best == given).mean() < MIN_ACCURACY:
            return None
        found, own = _confident(chances, given, best)
        return _Suspects(
            field,
            positions[rows[found]],
            frequent[given[found]].astype(np.int32),
            frequent[best[found]].astype(np.int32),
            own[found],
        )


def _features(texts: Sequence[str]) -> csr_matrix:
    """Return weighted counts of words and word pairs (of letter groups in scripts without blanks) that come again."""
    characters, words = sum(map(len, texts)), sum(len(text.split()) for text in texts)
    by_letter = characters > LONG_WORD * max(1, words)
    vectorizer = HashingVectorizer(
        n_features=1 << HASH_BITS,
        analyzer="char" if by_letter else "word",
        ngram_range=(1, 2),
        token_pattern=r"(?u)\b\w+\b",  # noqa: S106 - a pattern of words
        alternate_sign=False,
        norm=None,
    )
    counts = vectorizer.transform(texts)
    again = np.flatnonzero(np.bincount(counts.indices, minlength=counts.shape[1]) > 1)
    weighted: csr_matrix = TfidfTransformer(sublinear_tf=True).fit_transform(counts[:, again])
    return weighted


def _out_of_fold(features: csr_matrix, given: Codes, seed: int) -> Floats:
    """Return the probability of each label for each row, by a model that did not see the row. Shape: (rows, labels)."""
    count = int(given.max()) + 1
    chances = np.zeros((len(given), count))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for taught, asked in folds.split(features, given):
            model: Any = (
                MultinomialNB(alpha=0.1)
                if count > MANY_LABELS
                else SGDClassifier(loss="log_loss", alpha=2e-5, max_iter=3, tol=None, random_state=seed)
            )
            model.fit(features[taught], given[taught])
            chances[np.ix_(asked, model.classes_)] = model.predict_proba(features[asked])
    return chances


def _confident(chances: Floats, given: Codes, best: npt.NDArray[np.int64]) -> tuple[Positions, Floats]:
    """Return the rows whose label is suspected, and the probability of the given label of all rows.

    Suspected is a row if the model is as sure of another label as it usually is of that label's own rows.
    """
    rows = np.arange(len(given))
    own, top = chances[rows, given], chances[rows, best]
    usual = np.array([own[given == label].mean() for label in range(chances.shape[1])])
    suspected = (best != given) & (top >= usual[best]) & (own < np.minimum(usual[given], MAX_OWN))
    found = np.flatnonzero(suspected)
    return found[np.argsort(own[found], kind="stable")][: int(MAX_SHARE * len(given))], own


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
            "label": names[given][:MAX_SHOWN],
            "suggested": names[preferred][:MAX_SHOWN],
            "percent": round(100 * own, 1),
        }
        yield table.example(position, field, params)
