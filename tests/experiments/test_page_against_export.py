"""The figures on the quality page are those that scikit-learn computes from the file that the page offers."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from html import unescape

import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from datasets_app.models import Split
from experiments import results
from experiments.models import Evaluation, Run
from portal.rls import all_teams
from tests.experiments.runs import make_version, submit

PATH = "/t/service-desk/runs/{}/quality/"
FIELDS = {"service": ("VPN", "Mail", "Storage", "Billing"), "urgency": ("Low", "Medium", "High")}
NOTHING = "no answer"
# who answers → how often rightly, how often with an invented value, how often no JSON
HABITS = {
    "untuned": (0.3, 0.2, 0.3),
    "tuned": (0.8, 0.05, 0.05),
    "constrained": (0.82, 0.0, 0.0),
    "scored": (0.85, 0.0, 0.0),
    "tfidf": (0.7, 0.0, 0.0),
    "majority": (0.0, 0.0, 0.0),
}
LABELS = {
    "untuned": "Untuned model",
    "tuned": "Tuned, answering freely",
    "constrained": "Tuned, bound to the schema",
    "scored": "Tuned, choosing among allowed values",
    "tfidf": "TF-IDF with logistic regression",
    "majority": "Most frequent answer",
}


@pytest.fixture
def run(team, actor, base_model, node) -> Run:
    return submit(team, actor, make_version(team), base_model)


def answer_of(who: str, expected: dict[str, str], dice: random.Random) -> str:
    right, invented, no_json = HABITS[who]
    if who == "majority":
        return json.dumps({name: values[0] for name, values in FIELDS.items()})
    if dice.random() < no_json:
        return dice.choice(["I do not know, sorry", '{"service": ', "[1, 2]"])
    said = {}
    for name, values in FIELDS.items():
        drawn = dice.random()
        said[name] = expected[name] if drawn < right else "Else" if drawn < right + invented else dice.choice(values)
    return json.dumps(said)


@pytest.fixture
def evaluation(run, tmp_path) -> Evaluation:
    dice, lines = random.Random(11), []
    for row in range(240):
        expected = {name: dice.choices(values, range(len(values), 0, -1))[0] for name, values in FIELDS.items()}
        answers = {who: answer_of(who, expected, dice) for who in HABITS}
        lines.append(json.dumps({"row": row, "prompt": f"Ticket {row}", "expected": json.dumps(expected), **answers}))
    (tmp_path / "predictions.jsonl").write_text("\n".join(lines) + "\n")
    with all_teams("test"):
        judged = results.judge(tmp_path / "predictions.jsonl", Split.TEST, run.dataset_version)
        return results.record_evaluation(run, judged)


def exported(browser, run: Run) -> list[dict[str, str]]:
    file = browser.get(PATH.format(run.pk) + "predictions.csv")
    return list(csv.DictReader(io.StringIO(b"".join(file.streaming_content).decode())))


def tables(page: str) -> list[list[list[str]]]:
    """The texts of all cells, row by row, of all tables."""
    found = []
    for table in re.findall(r"<table.*?</table>", page, re.S):
        rows = re.findall(r"<tr.*?</tr>", table, re.S)
        cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.S) for row in rows]
        found.append([[" ".join(unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in row] for row in cells])
    return found


def read(text: str) -> dict[str, str]:
    """An answer's fields; none of what is no JSON object."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@pytest.mark.django_db
def test_everybodys_figures_are_those_of_the_exported_rows(run, evaluation, client_for, alice):
    browser = client_for(alice)
    rows = exported(browser, run)
    shown = tables(browser.get(PATH.format(run.pk)).content.decode())
    side_by_side = {line[0]: line[1:] for table in shown for line in table if line and line[0] in LABELS.values()}
    per_field = {line[0].split()[0]: line for table in shown for line in table if "closed" in (line or [""])[0].split()}
    assert len(rows) == 240
    assert set(side_by_side) == set(LABELS.values())
    expected = [read(row["expected"]) for row in rows]
    for who, label in LABELS.items():
        said = [read(row[who]) for row in rows]
        exact = [right == given for right, given in zip(expected, said, strict=True)]
        assert side_by_side[label][0] == f"{100 * sum(exact) / 240:.1f}%"
        low, high = (float(part.strip("%")) for part in side_by_side[label][1].split(" – "))
        assert low <= 100 * sum(exact) / 240 <= high
        assert side_by_side[label][3] == f"{100 * sum(is_json(row[who]) for row in rows) / 240:.1f}%"
    tuned = [read(row["tuned"]) for row in rows]
    for name, values in FIELDS.items():
        right, given = [one[name] for one in expected], [one.get(name, NOTHING) for one in tuned]
        accuracy = f"{100 * accuracy_score(right, given):.1f}%"
        macro = f1_score(right, given, labels=list(values), average="macro", zero_division=0)
        # each with its interval behind it
        assert any(cell.startswith(accuracy) for cell in per_field[name])
        assert per_field[name][-1].startswith(f"{macro:.2f}")


@pytest.mark.django_db
def test_confusions_and_classes_are_those_of_the_exported_rows(run, evaluation, client_for, alice):
    browser = client_for(alice)
    rows = exported(browser, run)
    shown = tables(browser.get(PATH.format(run.pk)).content.decode())
    for name, values in FIELDS.items():
        (table,) = [one for one in shown if one[0][0] == "Expected" and one[1][0] in values]
        answers = table[0][1:-3]
        known = answers[: len(values)]
        right = [read(row["expected"])[name] for row in rows]
        given = [read(row["tuned"]).get(name, NOTHING) for row in rows]
        merged = [one if one in values else "nothing" if one == NOTHING else "other" for one in given]
        counts = confusion_matrix(right, merged, labels=[*known, "other", "nothing"])
        scores = precision_recall_fscore_support(right, given, labels=known, zero_division=0)
        assert sorted(known) == sorted(values)
        for place, line in enumerate(table[1:]):
            assert line[0] == known[place]
            assert [int(count) for count in line[1:-3]] == counts[place].tolist()
            assert line[-3:] == [f"{scores[kind][place]:.2f}" for kind in range(3)]
