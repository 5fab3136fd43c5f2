"""Order answered rows for reading: the worst first, the best first, or at random."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from experiments.scoring.answers import AnsweredRow, RowScore, row_score


@dataclass(frozen=True)
class RankedRow:
    """An answered row with the score of the answer that it was ranked by."""

    answered: AnsweredRow
    score: RowScore


def rank_rows(
    rows: Iterable[AnsweredRow],
    *,
    order: Literal["worst", "best", "random"],
    count: int,
    subject: Literal["tuned", "untuned"] = "tuned",
    seed: int = 0,
) -> list[RankedRow]:
    """Return at most `count` rows in an order; equal scores stay in the order of the source.

    The same seed gives the same random rows.
    """
    ranked = [RankedRow(row, row_score(row.expected, getattr(row, subject))) for row in rows]
    ranked.sort(key=lambda item: item.answered.row)
    if order == "random":
        random.Random(seed).shuffle(ranked)  # noqa: S311 - not a secret
    else:
        ranked.sort(key=lambda item: item.score.score, reverse=order == "best")
    return list(islice(ranked, count))
