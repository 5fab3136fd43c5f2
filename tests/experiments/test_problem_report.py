"""The quality page and its API say what a problem type's own figures are, whatever the type."""

import json

import pytest

from datasets_app.models import Split
from experiments import results
from experiments.models import Run
from experiments.problem_file import PROBLEM_FILE, Problem
from portal.rls import all_teams
from tests.experiments.runs import change, make_version, submit

pytestmark = pytest.mark.django_db
CASES = {
    "classification": (Problem("classification", labels=("Card", "PIN")), [0.9, 0.1], [0.5, 0.5], "Card", "Log loss"),
    "regression": (Problem("regression", decimals=1), [], [], "7.5", "Mean absolute error"),
    "preference": (Problem("preference", loss="sigmoid", beta=0.1), [-4, -9], [-5, -5], "Yes.", "Reward accuracy"),
    "pretraining": (Problem("pretraining"), [-4, 4], [-9, 4], "and so on", "Perplexity"),
}


@pytest.fixture
def run(team, actor, base_model):
    made = submit(team, actor, make_version(team), base_model)
    change(made, status=Run.Status.SUCCEEDED)
    return made


def judged(folder, run, kind):
    """Judge what an evaluator would have written for two dozen rows of a problem type."""
    problem, tuned, untuned, expected, _figure = CASES[kind]
    answers = [
        {"row": n, "prompt": f"p{n}", "expected": expected, "tuned": expected, "untuned": "0.5"} for n in range(24)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers))
    rows = [{"place": n, "scores": {"tuned": tuned, "untuned": untuned}} for n in range(24)]
    written = {**json.loads(problem.to_json())}
    written.pop("format")
    (folder / PROBLEM_FILE).write_text(json.dumps({"problem": written, "rows": rows}))
    with all_teams("test"):
        return results.judge(folder / "predictions.jsonl", Split.TEST, run.dataset_version)


@pytest.mark.parametrize("kind", CASES)
def test_the_page_shows_the_figures_of_the_problem_type(tmp_path, run, client_for, bob, kind):
    found = judged(tmp_path, run, kind)
    assert found.report["problem"]["problem_type"] == kind
    with all_teams("test"):
        results.record_evaluation(run, found)
    page = client_for(bob).get(f"/t/{run.team.slug}/runs/{run.pk}/quality/").content.decode()
    assert CASES[kind][4] in page
    assert "Clearly better than the untuned model" in page
    assert ("Exact match" in page) == (kind == "classification")


def test_scores_of_rows_are_those_of_the_problem(tmp_path, run):
    rows = judged(tmp_path, run, "pretraining").answers
    assert rows[0].tuned_score == pytest.approx(2.718281828**-1)
    assert rows[0].untuned_score < rows[0].tuned_score
