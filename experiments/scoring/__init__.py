"""Measure how well models answer held-out rows. Pure: no Django, no torch, no numpy."""

from experiments.scoring.against import AgainstBaseline
from experiments.scoring.answers import AnsweredRow, RowScore, row_score
from experiments.scoring.classes import ABSENT, OTHER, ClassScores, Confusion
from experiments.scoring.intervals import Interval
from experiments.scoring.ranking import RankedRow, rank_rows
from experiments.scoring.report import Difference, QualityReport, Verdict, score_answers
from experiments.scoring.subjects import FieldScores, SubjectScores

__all__ = [
    "ABSENT",
    "OTHER",
    "AgainstBaseline",
    "AnsweredRow",
    "ClassScores",
    "Confusion",
    "Difference",
    "FieldScores",
    "Interval",
    "QualityReport",
    "RankedRow",
    "RowScore",
    "SubjectScores",
    "Verdict",
    "rank_rows",
    "row_score",
    "score_answers",
]
