"""What an evaluator has written about how sure the model was, judged field by field. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.scoring.answers import row_score
from experiments.scoring.calibration import FieldCalibration, calibrate_field
from experiments.scoring.names import SCORED


def calibrate_fields(predictions: Sequence[Mapping[str, Any]], learned: Mapping[str, Any]) -> list[FieldCalibration]:
    """Return how far the confidence of each closed field can be trusted on the held-out rows.

    `predictions`: the lines of predictions.jsonl; `learned`: what ways.json says was learned on the calibration rows.
    """
    scored = [
        (item["confidence"], row_score(item["expected"], item[SCORED]).fields)
        for item in predictions
        if item.get("confidence")
    ]
    found = []
    for name, one in learned.items():
        judged = [(sure[name], right[name]) for sure, right in scored if name in sure and name in right]
        if judged:
            raw, scaled = ([(sure[place], right) for sure, right in judged] for place in (0, 1))
            calibration = [(sure, right) for sure, right in one["rows"]]
            labels = one.get("labels")
            found.append(calibrate_field(name, one["temperature"], calibration, raw, scaled, labels=labels))
    return found
