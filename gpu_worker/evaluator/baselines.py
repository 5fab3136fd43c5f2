"""What needs no language model: the most frequent answer, and TF-IDF with logistic regression. No torch here.

Both learn from the training rows and answer the held-out rows, so that the report can say what the model is worth
beside them. All closed fields of a JSON answer are classified; open ones get their most frequent value. Free text is
answered like the most similar training row.
"""

from __future__ import annotations

import json
import random
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from datasets_app.fields import MAX_CLOSED_VALUES, MIN_ROWS_PER_VALUE, infer_fields, json_object, label_of, value_of
from gpu_worker.trainer.heldout import question_of

MOST_ROWS: Final = 20_000
# Weights, times rows that have them, times passes: about twenty seconds on one processor.
MOST_WORK: Final = 6_000_000_000
PASSES: Final = 20
# Closed fields that (nearly) follow from one another are one decision, and one classifier is surer of it.
JOINT_FACTOR: Final = 1.5
RARE_WORDS_FROM: Final = 5_000
_ABSENT: Final = "\x00absent"

Check = Callable[[], None]
Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class BaselineAnswers:
    """Answers of both baselines to the same questions, and how many training rows they learned from."""

    majority: list[str]
    tfidf: list[str]
    fitted_rows: int


def answer_simply(
    train: Sequence[Messages], asked: Sequence[str], *, check: Check = lambda: None, seed: int = 0
) -> BaselineAnswers:
    """Return what the baselines answer to the questions; `check` is called between pieces of work and may raise.

    More than MOST_ROWS training rows are sampled. Raises: ValueError without training rows.
    """
    if not train:
        raise ValueError("baselines need training rows")
    if len(train) > MOST_ROWS:
        train = random.Random(seed).sample(list(train), MOST_ROWS)  # noqa: S311 - no secret
    questions, answers = [question_of(row) for row in train], [row[-1]["content"] for row in train]
    majority = most_frequent(answers)
    learned = _Learned(questions, asked, seed, check)
    return BaselineAnswers([majority] * len(asked), learned.answers(answers), len(train))


def most_frequent(answers: Sequence[str]) -> str:
    """Return the one answer that is right most often: JSON field by field, other text as a whole."""
    objects = [members for answer in answers if (members := json_object(answer)) is not None]
    if 2 * len(objects) < len(answers):
        return _first(Counter(answers))
    return _written({name: _first(_labels(objects, name)) for name in _names(objects)})


class _Learned:
    """Features of the training rows and of the questions, and one classifier for each decision asked for."""

    def __init__(self, questions: Sequence[str], asked: Sequence[str], seed: int, check: Check) -> None:
        self._seed = seed
        self._check = check
        self._known, self._asked = _features(questions, asked)
        self._count = len(asked)

    def answers(self, answers: Sequence[str]) -> list[str]:
        """Return the answer to every question."""
        objects = [json_object(answer) for answer in answers]
        if 2 * sum(members is not None for members in objects) < len(answers):
            return self._texts(answers)
        places = [place for place, members in enumerate(objects) if members is not None]
        return self._objects(places, [members for members in objects if members is not None])

    def _texts(self, answers: Sequence[str]) -> list[str]:
        distinct = len(set(answers))
        if distinct <= MAX_CLOSED_VALUES and len(answers) >= MIN_ROWS_PER_VALUE * distinct:
            return self._classify(range(len(answers)), answers)
        # rows are of length 1 in both halves, so the product is the cosine
        return [answers[self._most_similar(row)] for row in range(self._count)]

    def _most_similar(self, row: int) -> int:
        self._check()
        return int((self._known @ self._asked[row].T).toarray().argmax())

    def _objects(self, places: Sequence[int], objects: Sequence[dict[str, object]]) -> list[str]:
        names = _names(objects)
        closed = [field.name for field in infer_fields(json.dumps(members) for members in objects) if field.closed]
        labels = {name: [_label(members, name) for members in objects] for name in names}
        columns = {name: [_first(Counter(labels[name]))] * self._count for name in names}
        joint = list(zip(*(labels[name] for name in closed), strict=True))
        if len(closed) > 1 and len(set(joint)) <= JOINT_FACTOR * max(len(set(labels[name])) for name in closed):
            numbers = {values: number for number, values in enumerate(dict.fromkeys(joint))}
            found = [list(numbers)[int(one)] for one in self._classify(places, [str(numbers[one]) for one in joint])]
            columns |= {name: [values[at] for values in found] for at, name in enumerate(closed)}
        else:
            columns |= {name: self._classify(places, labels[name]) for name in closed}
        return [_written({name: columns[name][row] for name in names}) for row in range(self._count)]

    def _classify(self, places: Sequence[int], labels: Sequence[str]) -> list[str]:
        """Return the label of every question, by logistic regression over the training rows at `places`."""
        self._check()
        classes = set(labels)
        if len(classes) == 1:
            return list(classes) * self._count
        known = self._known[list(places)]
        if not known.nnz:
            return [_first(Counter(labels))] * self._count
        work = known.nnz * (len(classes) if len(classes) > 2 else 1) * PASSES
        taken = np.arange(len(labels))
        if work > MOST_WORK:
            kept = max(len(classes), int(len(labels) * MOST_WORK / work))
            taken = np.sort(np.random.default_rng(self._seed).permutation(len(labels))[:kept])
        wanted = [labels[place] for place in taken.tolist()]
        if len(set(wanted)) == 1:
            return wanted[:1] * self._count
        model = LogisticRegression(C=20, solver="saga", max_iter=PASSES, tol=1e-3, random_state=self._seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(known[taken], wanted)
        return [str(label) for label in model.predict(self._asked)]


def _features(questions: Sequence[str], asked: Sequence[str]) -> tuple[csr_matrix, csr_matrix]:
    """Return TF-IDF of words, word pairs and letter groups. Shapes: (training rows, n), (questions, n)."""
    least = 2 if len(questions) >= RARE_WORDS_FROM else 1
    halves: list[Any] = [
        TfidfVectorizer(
            sublinear_tf=True,
            ngram_range=(1, 2),
            min_df=least,
            max_features=100_000,
            token_pattern=r"(?u)\b\w+\b",  # noqa: S106 - a pattern of words
        ),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, min_df=least, max_features=100_000),
    ]
    known, new = [], []
    for vectorizer in halves:
        try:
            known.append(vectorizer.fit_transform(questions))
        except ValueError:  # not one word, or nothing that comes again
            continue
        new.append(vectorizer.transform(asked))
    if not known:
        return csr_matrix((len(questions), 1)), csr_matrix((len(asked), 1))
    return csr_matrix(hstack(known)), csr_matrix(hstack(new))


def _names(objects: Sequence[dict[str, object]]) -> list[str]:
    """Return the keys of most objects, in the order of their first appearance."""
    counts = Counter(name for members in objects for name in members)
    return [name for name, count in counts.items() if 2 * count > len(objects)]


def _labels(objects: Sequence[dict[str, object]], name: str) -> Counter[str]:
    return Counter(_label(members, name) for members in objects)


def _label(members: dict[str, object], name: str) -> str:
    return label_of(members[name]) if name in members else _ABSENT


def _first(counts: Counter[str]) -> str:
    """Return the most frequent text, of equals the first in the alphabet, so that it is always the same."""
    return min(counts, key=lambda text: (-counts[text], text))


def _written(labels: dict[str, str]) -> str:
    """Return the JSON answer with these labels; a key whose label says that it is absent is left out."""
    members = {name: value_of(label) for name, label in labels.items() if label != _ABSENT}
    return json.dumps(members, ensure_ascii=False)
