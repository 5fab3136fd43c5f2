"""The quality page: everybody side by side, confidence, downloads; it fits narrow and wide, light and dark."""

from __future__ import annotations

import json

import pytest

from datasets_app.models import Split
from experiments import results
from experiments.models import Evaluation, Run
from portal.rls import all_teams
from tests.browser import fits
from tests.experiments.runs import make_version, submit

RIGHT, WRONG = '{"service": "VPN"}', '{"service": "Mail"}'
PATH = "/t/service-desk/runs/{}/quality/"


@pytest.fixture
def run(team, actor, base_model, node) -> Run:
    return submit(team, actor, make_version(team), base_model, name="Does a higher rank help?")


@pytest.fixture
def evaluation(run, tmp_path) -> Evaluation:
    """Forty held-out rows; the simple baseline is right more often than the free answers, scoring as often."""
    lines = []
    for row in range(40):
        item = {"row": row, "prompt": f"Ticket {row}", "expected": RIGHT if row % 3 else WRONG}
        wrong = WRONG if row % 3 else RIGHT
        item |= {"untuned": "=cmd()", "tuned": item["expected"] if row % 5 < 2 else wrong}
        item |= {"constrained": item["expected"] if row % 5 < 3 else wrong, "scored": item["expected"]}
        item |= {"tfidf": item["expected"] if row % 10 else wrong, "majority": RIGHT}
        lines.append(json.dumps(item | {"confidence": {"service": [0.99, 0.8]}}) + "\n")
    (tmp_path / "predictions.jsonl").write_text("".join(lines))
    schema = {"type": "object", "properties": {"service": {"type": "string"}}, "required": ["service"]}
    learned = {"service": {"temperature": 1.7, "rows": [[0.8, True]] * 20 + [[0.4, False]] * 5}}
    ranking = [{"name": "service", "rows": 40, "auc": 0.871, "log_loss_before": 0.5, "log_loss_after": 0.25}]
    (tmp_path / "ways.json").write_text(json.dumps({"schema": schema, "calibration": learned, "ranking": ranking}))
    with all_teams("test"):
        judged = results.judge(tmp_path / "predictions.jsonl", Split.TEST, run.dataset_version)
        return results.record_evaluation(run, judged)


@pytest.mark.django_db
def test_the_page_says_first_that_the_baseline_is_better(run, evaluation, client_for, alice):
    text = client_for(alice).get(PATH.format(run.pk)).content.decode()
    first = text.index("The tuned model does not beat the simple baseline (TF-IDF with logistic regression): 40.0%")
    assert first < text.index("Of 40 held-out rows")
    for words in ("Side by side on the same rows", "Tuned, choosing among allowed values", "Most frequent answer"):
        assert words in text
    assert "How sure the model is" in text
    assert "1.70" in text
    for words in ("Area under the ROC curve", "0.871", "0.500 → 0.250"):
        assert words in text


@pytest.mark.parametrize(
    ("difference", "tone"), [(0.4, "success"), (-0.1, "danger"), (0.0, "neutral"), (None, "neutral")]
)
@pytest.mark.django_db
def test_a_loss_is_not_shown_as_a_gain(run, evaluation, client_for, alice, difference, tone):
    with all_teams("test"):
        evaluation.report["difference"] = None if difference is None else {"exact_match": difference}
        evaluation.save()
    page = client_for(alice).get(PATH.format(run.pk)).content.decode()
    assert f"change change-{tone}" in page


@pytest.mark.django_db
def test_the_download_has_everybody_and_runs_no_formula(run, evaluation, client_for, alice):
    answer = client_for(alice).get(PATH.format(run.pk) + "predictions.csv")
    lines = b"".join(answer.streaming_content).decode().splitlines()
    assert lines[0].split(",")[-4:] == ["constrained", "scored", "tfidf", "majority"]
    assert "'=cmd()" in lines[1]


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_page_fits(run, evaluation, open_page):
    fits(open_page(PATH.format(run.pk)), "quality-page")
