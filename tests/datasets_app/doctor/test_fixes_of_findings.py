"""What the fixes of a finding do to the rows, without a database: labels stay whole, leaks and ties are settled."""

import json
import types
import uuid

import pytest

from datasets_app.doctor import sentences
from datasets_app.doctor.report import Example, Finding, Report
from datasets_app.doctor_reports.fixes import changes_for, fixes_of, renames, verdict_changes
from datasets_app.models import Split
from datasets_app.operations import apply_all, read_changes
from datasets_app.operations.base import PlacedRow, Rows
from datasets_app.rows import CanonicalRow

LONG = "Service of the " + "very " * 40 + "long name"
REPORT = uuid.UUID(int=7)


class Listed(Rows):
    """Rows of (split, prompt, answer), numbered from 1."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        for number, (split, prompt, answer) in enumerate(self.rows, start=1):
            messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
            yield PlacedRow(Split(split), CanonicalRow(number + 1, messages, number))


@pytest.fixture
def left(tmp_path, diagnose):
    """Return a function that examines rows, applies a fix, and returns the ids of the rows that are left."""

    def left_of(rows, **chosen):
        report = diagnose(rows)
        place = tmp_path / "doctor" / str(REPORT)
        place.mkdir(parents=True, exist_ok=True)
        for path in tmp_path.glob("*.ids"):
            path.replace(place / path.name)
        operations = read_changes(changes_for(report, REPORT, chosen))
        context = types.SimpleNamespace(parent_folder=tmp_path)
        return [one.row.id for one in apply_all(Listed(rows), operations, context)]

    return left_of


def names(finding):
    return [one.name for one in fixes_of(finding)]


def answer(label):
    return json.dumps({"service": label})


def test_long_labels_are_renamed_whole_and_shown_short(diagnose):
    rows = [("train", f"Ticket {n}", answer(LONG if n % 2 else "Mail")) for n in range(60)]
    report = diagnose([*rows, ("train", "A slip", answer(LONG.upper()))])
    finding = report.finding("misspelt_label")
    assert renames(finding) == [{"op": "rename_value", "field": "service", "from": LONG.upper(), "to": LONG}]
    assert LONG in report.balance["service"]["labels"]
    assert len(sentences.detail(finding, finding.examples[0], str)) < 260


def test_a_long_label_is_accepted_whole():
    params = {"label": "Mail", "suggested": LONG, "percent": 1.0}
    finding = Finding("label_error", "warning", 1, {}, (Example("train", 1, 2, "service", params),))
    assert verdict_changes(finding, {1: "accept"})[0]["values"][0]["label"] == LONG


def test_every_misspelt_label_is_renamed_not_only_those_of_the_examples(diagnose):
    rows = [("train", f"Ticket {n}", answer(("Network", "Printers")[n % 2])) for n in range(4000)]
    rows += [("train", f"First {n}", answer("network")) for n in range(120)]
    rows += [("train", f"Last {n}", answer("printers")) for n in range(3)]
    assert {one["from"] for one in renames(diagnose(rows).finding("misspelt_label"))} == {"network", "printers"}


EVERYWHERE = [("train", "Same?", "a"), ("validation", "same?", "a"), ("test", "Same ?".replace(" ", ""), "a")]
HELD_OUT = [("train", "Other", "a"), ("validation", "Twice?", "a"), ("test", "Twice?", "a")]


def test_leaving_out_the_held_out_rows_leaves_no_leak(left, diagnose):
    assert left(EVERYWHERE, leak="exclude_held_out") == [1]
    assert left(HELD_OUT, leak="exclude_held_out") == [1, 2]


def test_leaving_training_rows_out_leaves_validation_rows_alone(left, diagnose):
    assert left(EVERYWHERE, leak="exclude_training") == [2, 3]
    assert "exclude_training" not in names(diagnose(HELD_OUT).finding("leak"))


def test_the_usual_answer_stays_and_ties_stay_too(left, diagnose):
    tie = [("train", "Which?", "a"), ("train", "Which?", "b")]
    usual = [("train", "Where?", "a"), ("train", "Where?", "a"), ("train", "Where?", "b")]
    assert left([*tie, *usual], conflict="keep_usual") == [1, 2, 3, 4]
    assert left([*tie, *usual], conflict="exclude_all") == []
    assert names(diagnose(tie).finding("conflict")) == ["exclude_all"]


def test_a_new_split_is_made_as_the_last_one():
    leak = Finding("leak", "error", 1, {}, (Example("train", 1, 2),), ("exclude_found", "resplit"))
    found = Report({"train": 60, "validation": 20, "test": 20}, (leak,))
    options = {"skip_faulty": True, "split_by": "time", "seed": 9, "stratify": "service", "keep_together": "none"}
    [change] = changes_for(found, REPORT, {"leak": "resplit"}, options=options)
    assert change["options"] == {
        "split_by": "time",
        "seed": 9,
        "stratify": "service",
        "keep_together": "near",
        "validation_share": 0.2,
        "test_share": 0.2,
    }
    assert read_changes([change])
