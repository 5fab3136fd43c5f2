"""The model that judges labels: words and word pairs, and how sure it is of each label of rows it did not see."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.naive_bayes import MultinomialNB

from datasets_app.doctor.balance import Codes
from datasets_app.doctor.groups import Positions

Floats = npt.NDArray[np.float64]

FOLDS: Final = 3
# One classifier per label takes as long as there are labels; naive Bayes ranks as well where there are many.
MANY_LABELS: Final = 20
MAX_OWN: Final = 0.1
MAX_SHARE: Final = 0.1
HASH_BITS: Final = 18
# Beyond this, what stands between two blanks is no word: the script has no blanks.
LONG_WORD: Final = 14


def features_of(texts: Sequence[str]) -> csr_matrix:
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


def judge(features: csr_matrix, given: Codes, seed: int) -> tuple[Codes, Floats, Positions]:
    """Return the label that fits each row best, the probability of the given one, and the rows to be suspected."""
    chances = _out_of_fold(features, given, seed)
    best = chances.argmax(axis=1).astype(np.int32)
    found, own = _confident(chances, given, best)
    return best, own, found


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


def _confident(chances: Floats, given: Codes, best: Codes) -> tuple[Positions, Floats]:
    """Return the rows whose label is suspected, and the probability of the given label of all rows.

    Suspected is a row if the model is as sure of another label as it usually is of that label's own rows.
    """
    rows = np.arange(len(given))
    own, top = chances[rows, given], chances[rows, best]
    usual = np.array([own[given == label].mean() for label in range(chances.shape[1])])
    suspected = (best != given) & (top >= usual[best]) & (own < np.minimum(usual[given], MAX_OWN))
    found = np.flatnonzero(suspected)
    return found[np.argsort(own[found], kind="stable")][: int(MAX_SHARE * len(given))], own
