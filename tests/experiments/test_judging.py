"""What becomes of an evaluator's files: schema conformity, confidence and calibration are in the report."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from datasets_app.models import Split
from experiments.results import judge

SCHEMA = {
    "type": "object",
    "properties": {"queue": {"type": "string", "enum": ["VPN", "Mail"]}, "note": {"type": "string"}},
    "required": ["queue"],
    "additionalProperties": False,
}


@pytest.fixture
def predictions(tmp_path):
    """Forty rows: free answers are right in half of them, scored ones in three quarters, at a confidence of 0.9."""
    path = tmp_path / "predictions.jsonl"
    right, wrong = '{"queue": "VPN"}', '{"queue": "Mail"}'
    with path.open("w") as file:
        for row in range(40):
            item = {
                "row": row,
                "prompt": "p",
                "expected": right,
                "untuned": "no\x00",
                "tuned": right if row % 2 else "{}",
            }
            item |= {"constrained": right if row % 2 else wrong, "scored": right if row % 4 else wrong}
            item |= {"tfidf": wrong, "majority": wrong, "confidence": {"queue": [0.99, 0.95]}}
            file.write(json.dumps(item) + "\n")
    learned = {"queue": {"temperature": 2.5, "rows": [[0.95, True]] * 30 + [[0.6, False]] * 10}}
    ranking = [{"name": "queue", "rows": 40, "auc": 0.9, "log_loss_before": 0.5, "log_loss_after": 0.25}]
    (tmp_path / "ways.json").write_text(json.dumps({"schema": SCHEMA, "calibration": learned, "ranking": ranking}))
    return path


def judged(path):
    return judge(path, Split.TEST, SimpleNamespace(report={}))


def test_the_report_has_every_way_and_its_confidence(predictions):
    found = judged(predictions)
    shares = {name: scores["schema_valid"] for name, scores in found.report["others"].items()}
    assert shares == {"constrained": 1.0, "scored": 1.0, "tfidf": 1.0, "majority": 1.0}
    assert (found.report["tuned"]["schema_valid"], found.report["untuned"]["schema_valid"]) == (0.5, 0.0)
    (field,) = found.report["calibration"]
    assert (field["name"], field["temperature"], field["fitted_rows"], field["rows"]) == ("queue", 2.5, 40, 40)
    assert (field["ece_before"], field["ece_after"]) == (pytest.approx(0.24), pytest.approx(0.2))
    strict = field["abstention"][0]
    assert (strict["threshold"], strict["share"], strict["precision"]) == (0.95, 1.0, 0.75)
    assert [(one["name"], one["auc"]) for one in found.report["ranking"]] == [("queue", 0.9)]
    ways = {one["way"]: one["code"] for one in found.report["verdict"]["against_baseline"]}
    assert ways == {"tuned": "beats", "constrained": "beats", "scored": "beats"}


def test_rows_keep_what_everybody_answered(predictions):
    answer = judged(predictions).answers[0]
    assert answer.others["scored"] == '{"queue": "Mail"}'
    assert answer.confidence == {"queue": 0.95}
    assert "\x00" not in answer.untuned


def test_files_of_older_evaluators_are_judged_too(predictions):
    predictions.with_name("ways.json").unlink()
    item = {"row": 1, "prompt": "p", "expected": "{}", "untuned": "{}", "tuned": "{}"}
    predictions.write_text(json.dumps(item) + "\n")
    report = judged(predictions).report
    assert report["ranking"] == []
    assert (report["calibration"], report["others"], report["tuned"]["schema_valid"]) == ([], {}, None)
