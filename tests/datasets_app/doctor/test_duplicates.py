"""Repeated rows and leaks between splits are all listed, with both lines."""

import json

from datasets_app.doctor.report import Report, read_ids
from tests.datasets_app.doctor.conftest import good_rows


def _ticket(number: int) -> str:
    words = ["printer", "invoice", "login", "screen", "phone", "badge", "mail", "network", "laptop", "backup"]
    return " ".join(words[int(digit)] for digit in f"{number:06d}") + f" at desk {number}"


VARIED = [("train", prompt, f"An answer to {n}.") for n, (_split, prompt, _answer) in enumerate(good_rows(60))]


def test_twenty_duplicates_and_five_leaks_are_listed(diagnose, tmp_path):
    rows = [("train", _ticket(number), "a") for number in range(500)]
    rows += [("train", f"  {_ticket(number).upper()} ", "A") for number in range(100, 120)]  # lines 502 to 521
    rows += [("validation", _ticket(number), "a") for number in range(1000, 1050)]
    rows += [("validation", _ticket(number), "b") for number in range(5)]  # lines 572 to 576
    report = diagnose(rows)
    repeated = report.finding("duplicate")
    assert repeated is not None
    assert [(one.row, one.params["other_row"]) for one in repeated.examples] == [(502 + n, 102 + n) for n in range(20)]
    leak = report.finding("leak")
    assert leak is not None
    assert leak.count == 5
    assert leak.params == {"held_out": 5}
    assert [(one.split, one.row, one.params["other_row"]) for one in leak.examples] == [
        ("train", 2 + n, 572 + n) for n in range(5)
    ]
    assert read_ids(tmp_path, "leak").tolist() == [1, 2, 3, 4, 5]


def test_a_test_row_is_kept_rather_than_a_validation_row(diagnose):
    leak = diagnose([("validation", "Is it on?", "a"), ("test", "is it  on?", "b")]).finding("leak")
    assert leak is not None
    assert [(one.split, one.params["other_split"]) for one in leak.examples] == [("validation", "test")]


def test_report_survives_storage(diagnose):
    report = diagnose([*VARIED, ("train", "one", "a"), ("train", "one", "a"), ("test", "one", "a")])
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert [one.code for one in report.findings] == ["leak", "duplicate"]


def test_nothing_to_find(diagnose):
    assert diagnose([*VARIED, ("test", "three", "a")]).findings == ()
    assert diagnose([]).rows == {}
