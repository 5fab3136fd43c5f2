"""Judge one answer: a JSON answer field by field, any other text by its words."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from datasets_app.fields import MAX_DEPTH
from datasets_app.readers.jsonlines import JsonFault, parse_json
from experiments.scoring.names import OTHERS, TUNED, UNTUNED

WORD: Final = re.compile(r"\w+")
# Stands for "no value at all", which JSON's null is not.
MISSING: Final = object()


@dataclass(frozen=True)
class AnsweredRow:
    """A held-out row with what each model answered; None where a model was not asked.

    `others` holds the answers of further subjects by name: simple baselines, and other ways to ask the tuned model.
    """

    row: int
    expected: str
    tuned: str | None
    untuned: str | None = None
    others: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_prediction(cls, item: Mapping[str, Any]) -> "AnsweredRow":
        """Return a line of an evaluator's predictions file. Raises: LookupError if it is none."""
        others = {name: item[name] for name in OTHERS if name in item}
        return cls(item["row"], item["expected"], item[TUNED], item.get(UNTUNED), others)


@dataclass(frozen=True)
class RowScore:
    """How good one answer is.

    `valid_json` is None where JSON is not expected. `fields` tells for each expected field whether it is right.
    `score` lies in 0..1: 1 for an exact answer, else the share of right fields or, for text, the token F1.
    """

    valid_json: bool | None
    exact: bool
    score: float
    fields: dict[str, bool] = field(default_factory=dict)


def row_score(expected: str, answer: str | None) -> RowScore:
    """Return how good an answer is; an answer of None counts as an empty one.

    JSON is compared as values: key order and spacing do not matter, types do. A field of the answer that is not
    expected spoils the exact match, not the fields.
    """
    wanted = parsed_json(expected)
    if wanted is MISSING:
        return _text_score(expected, answer or "")
    given = parsed_json(answer or "")
    exact = given is not MISSING and same_json(wanted, given)
    if not isinstance(wanted, dict):
        return RowScore(valid_json=given is not MISSING, exact=exact, score=float(exact))
    members = given if isinstance(given, dict) else {}
    right = {name: same_json(value, members.get(name, MISSING)) for name, value in wanted.items()}
    share = sum(right.values()) / len(right) if right else float(exact)
    # An answer with a surplus field has all fields right and yet is not the one that was wanted.
    score = 1.0 if exact else min(share, 0.99)
    return RowScore(valid_json=given is not MISSING, exact=exact, score=score, fields=right)


@lru_cache(maxsize=4096)
def parsed_json(text: str) -> object:
    """Return the object or array that a text consists of, or MISSING if it is anything else.

    A bare number or word is taken as text: nobody asks a model for the JSON value 7. Callers must not change the
    result, which is shared.
    """
    if not text.lstrip().startswith(("{", "[")):
        return MISSING
    try:
        return parse_json(text.strip(), max_depth=MAX_DEPTH)
    except JsonFault:
        return MISSING


def same_json(left: object, right: object) -> bool:
    """Tell whether two JSON values are the same value of the same type; 1 and 1.0 are one number, true is none."""
    if left is MISSING or right is MISSING:
        return False
    return canonical_json(left) == canonical_json(right)


def canonical_json(value: object) -> str:
    """Return the one text of a JSON value, whatever the order of its keys."""
    return json.dumps(_with_one_kind_of_number(value), ensure_ascii=False, sort_keys=True)


def _with_one_kind_of_number(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _with_one_kind_of_number(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_with_one_kind_of_number(member) for member in value]
    return value


def _text_score(expected: str, answer: str) -> RowScore:
    exact = expected.split() == answer.split()
    return RowScore(valid_json=None, exact=exact, score=1.0 if exact else min(token_f1(expected, answer), 0.99))


def token_f1(expected: str, answer: str) -> float:
    """Return the F1 of the words that two texts share, as in SQuAD but for articles, which not all languages have.

    Source: Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1.
    """
    wanted, given = Counter(WORD.findall(expected.lower())), Counter(WORD.findall(answer.lower()))
    if not wanted or not given:
        return float(wanted == given)
    shared = (wanted & given).total()
    return 2 * shared / (wanted.total() + given.total())
