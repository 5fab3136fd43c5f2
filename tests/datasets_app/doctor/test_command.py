"""`manage.py doctor` examines a table without making a dataset of it."""

import csv
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from tests.datasets_app.doctor.conftest import good_rows
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow


def _table(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "response"])
        writer.writerows(rows)
    return path


def _said(*arguments: object) -> str:
    out = StringIO()
    call_command("doctor", *map(str, arguments), stdout=out)
    return out.getvalue()


def test_report_of_a_table(tmp_path):
    rows = [(prompt, answer) for _split, prompt, answer in good_rows(300)]
    train = _table(tmp_path / "train.csv", [*rows, rows[4], ("", "x")])
    test = _table(tmp_path / "test.csv", [rows[7]])
    said = _said(train, "--test", test, "--base-model", make_tiny_model(tmp_path / "tiny"))
    assert "Faulty rows, which were left out: 1." in said
    assert "Rows: train 301, test 1." in said
    assert "**Repeated rows: 1** (warning)" in said
    assert "train, line 302: like row 5 (train, line 6)" in said
    assert "**Questions shared between splits: 1** (error)" in said
    assert "| queue | train | test |" in said
    assert "Tokens of a row: half have at most" in said


def test_one_table_is_divided(tmp_path):
    said = _said(_table(tmp_path / "rows.csv", [(prompt, answer) for _split, prompt, answer in good_rows(200)]))
    assert "Rows: train 160, validation 20, test 20." in said


def test_refusals_are_sentences(tmp_path):
    with pytest.raises(CommandError, match="There is no file"):
        _said(tmp_path / "none.csv")
    with pytest.raises(CommandError, match="empty"):
        _said(_table_of(tmp_path / "empty.csv", ""))


def _table_of(path, text):
    path.write_text(text)
    return path


@pytest.mark.django_db
def test_unknown_base_model(tmp_path):
    with pytest.raises(CommandError, match="no base model 'none'"):
        _said(_table_of(tmp_path / "a.csv", "prompt,response\na,b\n"), "--base-model", "none")
