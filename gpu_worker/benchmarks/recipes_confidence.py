"""Is a trained recipe as sure as it is right? Calibration error, and what thresholds hold, on rows nobody learned from.

Temperatures and thresholds come from validation rows, every figure from test rows. Scoring all allowed values takes
longer than a quality report may, so it is done on some of the test rows only.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets_app.fields import json_object
from experiments.scoring.confidence import calibrate_fields
from experiments.scoring.intervals import share_difference
from experiments.scoring.names import CONSTRAINED, SCORED
from gpu_worker.benchmarks.bars import Bar

MOST_ERROR = 0.05
TARGET = 0.95
"""The precision at whose threshold the bars are held; the table tells all."""

Result = Mapping[str, Any]


def calibration_of(evaluation: Path) -> list[dict[str, Any]]:
    """Return the figures of each closed field from what an evaluator wrote; none if no values were scored.

    `fitted_shares` are, in the order of the targets, the shares of the calibration rows at each threshold; `as_written`
    is the share of rows whose likeliest value is the one in the answer that was written within the schema.
    """
    ways = json.loads((evaluation / "ways.json").read_text(encoding="utf-8"))
    lines = (evaluation / "predictions.jsonl").read_text(encoding="utf-8").split("\n")
    learned = ways.get("calibration") or {}
    answers = [json.loads(line) for line in lines if line]
    found = [asdict(one) for one in calibrate_fields(answers, learned)]
    for one in found:
        one["as_written"] = _as_written(one["name"], answers)
        sure = [confidence for confidence, _right in learned[one["name"]]["rows"]]
        one["fitted_shares"] = [_share_at(sure, kept["threshold"]) for kept in one["abstention"]]
    return found


def _as_written(name: str, answers: Sequence[Mapping[str, Any]]) -> float | None:
    """Return how often the value that was decided is the written one; None if no answer was written."""
    both = [(json_object(one[SCORED]), json_object(one[CONSTRAINED])) for one in answers if CONSTRAINED in one]
    same = [decided[name] == written.get(name) for decided, written in both if decided and written and name in decided]
    return sum(same) / len(same) if same else None


def _share_at(sure: Sequence[float], threshold: float | None) -> float:
    return sum(threshold is not None and one >= threshold for one in sure) / max(1, len(sure))


def calibrated(results: Sequence[Result]) -> list[Result]:
    """Return the recipes whose confidence was measured."""
    return [one for one in results if not one["is_trial"] and one.get("calibration")]


def table(results: Sequence[Result]) -> str:
    """Return what is known of confidence, a line for each field and target precision."""
    lines = [
        "How sure the models are, on some of the test rows: expected calibration error before and after the "
        "temperature that was fitted on validation rows, and what is answered, and rightly, at thresholds that were "
        "chosen there; in brackets 95 % intervals. *By chance*: the mean error of confidences that are true, on so "
        "many rows. *As written*: decisions that are the value in the answer written within the schema.",
        "",
        "| recipe | rows learned | field | fitted on | test rows | as written | temperature | error before | after "
        "| by chance | wanted precision | threshold | answered by itself | of the validation rows | right of those |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        for field in one["calibration"]:
            head = f"| {one['recipe']} | {one['learned_rows']:,} | {field['name']} | {field['fitted_rows']} "
            head += f"| {field['rows']} | {_told(field.get('as_written'), '.1%')} | {field['temperature']:.2f} "
            head += f"| {field['ece_before']:.3f} | {field['ece_after']:.3f} "
            head += f"| {_told(field.get('ece_by_chance'), '.3f')} "
            for kept, fitted in zip(field["abstention"], field["fitted_shares"], strict=True):
                lines.append(f"{head}| {_threshold(kept, fitted)} |")
    return "\n".join(lines)


def _told(figure: float | None, form: str) -> str:
    return "–" if figure is None else f"{figure:{form}}"


def _threshold(kept: Mapping[str, Any], fitted: float) -> str:
    if kept["threshold"] is None:
        return f"{kept['target']:.0%} | none | – | – | –"
    share = f"{kept['share']:.1%} ({kept['share_low']:.1%}–{kept['share_high']:.1%})"
    precision = "–"
    if kept["precision"] is not None:
        precision = f"{kept['precision']:.1%} ({kept['precision_low']:.1%}–{kept['precision_high']:.1%})"
    return f"{kept['target']:.0%} | {kept['threshold']:.3f} | {share} | {fitted:.1%} | {precision}"


def bars(results: Sequence[Result]) -> Iterator[Bar]:
    """Yield the bars of each field: its calibration error, and whether a threshold keeps what it promised."""
    for one in calibrated(results):
        for field in one["calibration"]:
            what = f"{one['recipe']}, {one['learned_rows']:,} rows, {field['name']}"
            yield Bar.at_most(f"{what}: calibration error after scaling", MOST_ERROR, field["ece_after"], "{:.3f}")
            for kept, fitted in zip(field["abstention"], field["fitted_shares"], strict=True):
                if kept["target"] == TARGET:
                    yield _precision_bar(what, kept)
                    yield _share_bar(what, kept, fitted, field)


def _precision_bar(what: str, kept: Mapping[str, Any]) -> Bar:
    what = f"{what}: right at the threshold for {TARGET:.0%}"
    if kept["precision"] is None:
        return Bar(what, "within the interval", "no answer reaches it", None)
    measured = f"{kept['precision']:.1%} (up to {kept['precision_high']:.1%})"
    return Bar(what, f"{TARGET:.0%} or more within the interval", measured, kept["precision_high"] >= TARGET)


def _share_bar(what: str, kept: Mapping[str, Any], fitted: float, field: Mapping[str, Any]) -> Bar:
    """Hold the share against that of the validation rows; both are samples, so the interval is of their difference."""
    what = f"{what}: answered at the threshold for {TARGET:.0%}"
    if kept["threshold"] is None:
        return Bar(what, "as on validation rows", "there is no such threshold", None)
    rows, fitted_rows = field["rows"], field["fitted_rows"]
    apart = share_difference(round(kept["share"] * rows), rows, round(fitted * fitted_rows), fitted_rows)
    measured = f"{kept['share']:.1%} ({100 * apart.low:+.1f} to {100 * apart.high:+.1f} points)"
    return Bar(what, f"{fitted:.1%} as on validation rows, within the interval", measured, apart.low <= 0 <= apart.high)
