"""The bars of the recipes: exact answers within the schema, which are what a deployment serves, on all test rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.scoring.names import CONSTRAINED, TFIDF
from gpu_worker.benchmarks import recipes_confidence
from gpu_worker.benchmarks.bars import Bar

FEW, ALL = 2_000, 10_003
STATED = {"banking77-triage": {FEW: 0.846, ALL: 0.916}}
"""What TF-IDF and logistic regression are stated to reach on a table, by how many rows they learned from: the best of
them, with words and characters. A recipe is held against this and against the simple model of its own report."""
LONGEST_VALIDATION = 0.15

Result = Mapping[str, Any]


def bars(results: Sequence[Result], *, source: str) -> list[Bar]:
    """Return every bar of the recipes. `source`: the name of the tables."""
    recipes = {(one["recipe"], one["learned_rows"]): one for one in results if not one["is_trial"]}
    balanced = recipes.get(("balanced", FEW))
    minutes = balanced["training"]["seconds"] / 60 if balanced else None
    found = [
        Bar.at_least(f"balanced, {FEW:,} rows: exact", 0.78, _exact(balanced, CONSTRAINED), "{:.1%}"),
        Bar.at_most(f"balanced, {FEW:,} rows: training, min", 12.0, minutes, "{:.1f}"),
    ]
    for rows in (FEW, ALL):
        best = recipes.get(("best", rows))
        own, simple = _exact(best, CONSTRAINED), _exact(best, TFIDF)
        what = f"best, {rows:,} rows: exact, against TF-IDF + logistic regression"
        found.append(
            Bar(f"{what} on the same rows", "more than that", "–", None)
            if simple is None
            else Bar.more_than(f"{what} on the same rows", simple, own, "{:.1%}")
        )
        if stated := STATED.get(source, {}).get(rows):
            found.append(Bar.more_than(f"{what} as stated for this table", stated, own, "{:.1%}"))
    for (recipe, rows), one in recipes.items():
        what = f"{recipe}, {rows:,} rows: validation's share of the training's time"
        found.append(Bar.at_most(what, LONGEST_VALIDATION, _validation_share(one["training"]), "{:.0%}"))
    return [*found, *recipes_confidence.bars(results)]


def _exact(result: Result | None, who: str) -> float | None:
    answered = result["report"].get(who) if result else None
    return answered["exact_match"] if answered else None


def _validation_share(training: Mapping[str, Any]) -> float | None:
    spent = training.get("validation_seconds")
    return spent / training["seconds"] if spent is not None and training["seconds"] else None
