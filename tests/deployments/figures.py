"""Evaluations as the gate reads them."""

from __future__ import annotations

from datasets_app import store
from datasets_app.models import Split
from datasets_app.rows import CanonicalRow
from experiments.models import Evaluation, Run


def evaluate(
    run: Run,
    *,
    recalls: dict[str, float] | None = None,
    support: int = 40,
    f1: float | None = 0.9,
    json_valid: float | None = 1.0,
    constrained_valid: float | None = None,
    constrained_recalls: dict[str, float] | None = None,
    score: float = 0.9,
    rows_say: str = "The printer does not print.",
) -> Evaluation:
    """Give a run an evaluation of one closed field, `queue`, with these figures, and held-out rows that say this."""
    path = run.dataset_version.rows_path(Split.TEST)
    path.parent.mkdir(parents=True, exist_ok=True)
    messages = ({"role": "user", "content": rows_say}, {"role": "assistant", "content": "{}"})
    store.write_rows(path, [CanonicalRow(2, messages, 1)])

    def field(recalls: dict[str, float] | None) -> dict[str, object]:
        classes = [
            {"label": label, "precision": 1.0, "recall": recall, "f1": recall, "support": support, "predicted": support}
            for label, recall in (recalls or {}).items()
        ]
        known = {"name": "queue", "closed": f1 is not None, "rows": 100, "right": 90, "f1": f1}
        return {**known, "classes": classes or None}

    tuned = {"rows": 100, "exact_match": 0.8, "json_valid": json_valid, "score": score, "fields": [field(recalls)]}
    others = {}
    if constrained_valid is not None:
        others["constrained"] = {**tuned, "json_valid": constrained_valid, "fields": [field(constrained_recalls)]}
    report = {"rows": 100, "kind": "json", "fields": [], "tuned": tuned, "untuned": None, "others": others}
    return Evaluation.unscoped.create(team=run.team, run=run, split=Split.TEST, rows=100, report=report)


def calibrate(evaluation: Evaluation, learned: dict[str, tuple[float, list[str] | None]], rows: int = 60) -> None:
    """Give an evaluation's closed fields a temperature, the labels that it is for, and what a threshold brings."""
    evaluation.report["calibration"] = [
        {
            "name": name, "temperature": temperature, "labels": labels, "fitted_rows": rows, "rows": 100,
            "ece_before": 0.2, "ece_after": 0.03,
            "abstention": [
                {"target": 0.95, "threshold": 0.71239, "share": 0.83, "share_low": 0.8, "share_high": 0.9,
                 "precision": 0.96, "precision_low": 0.9, "precision_high": 1.0}
            ],
        }
        for name, (temperature, labels) in learned.items()
    ]  # fmt: skip
    evaluation.save()
