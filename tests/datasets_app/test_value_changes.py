"""Changes of single values in answers, without a database: labels that a person accepted, styles that stay."""

from __future__ import annotations

import json

import pytest

from datasets_app.answer_schemas.origins import renamed
from datasets_app.doctor.report import Example, Finding
from datasets_app.doctor_reports.fixes import verdict_changes
from datasets_app.models import RowChange, Split
from datasets_app.operations import apply_all, read_changes
from datasets_app.operations.base import PlacedRow, Rows
from datasets_app.row_changes import MAX_WAITING, _operations
from datasets_app.rows import CanonicalRow
from portal.errors import InvalidInput

ANSWERS = ['{"service": "VPN", "n": 1}', '{"service":"Mail","n":2}', '{\n  "service": "Straße"\n}', "VPN", "no JSON"]


class Listed(Rows):
    """Rows with the answers above, numbered from 1."""

    def __iter__(self):
        for number, answer in enumerate(ANSWERS, start=1):
            messages = ({"role": "user", "content": f"Q{number}"}, {"role": "assistant", "content": answer})
            yield PlacedRow(Split.TRAIN, CanonicalRow(number, messages, number))


def after(*changes: dict) -> dict[int, str]:
    return {one.row.id: one.row.answer for one in apply_all(Listed(), read_changes(list(changes)), None)}


def suspect(number: int, label: str, suggested: str) -> Example:
    params = {"label": label, "suggested": suggested, "percent": 1.0}
    return Example("train", number, number + 1, "service", params)


FINDING = Finding("label_error", "warning", 2, {}, (suspect(1, "VPN", "Wiki"), suspect(2, "Mail", "Phone")))


def test_a_person_decides_row_by_row_about_suspected_labels():
    changes = verdict_changes(FINDING, {1: "accept", 2: "exclude"})
    rows = after(*changes)
    assert rows[1] == '{"service": "Wiki", "n": 1}'
    assert sorted(rows) == [1, 3, 4, 5]
    assert verdict_changes(FINDING, {1: "keep"}) == []


@pytest.mark.parametrize("verdicts", [{9: "accept"}, {1: "burn"}])
def test_other_rows_and_verdicts_are_refused(verdicts):
    with pytest.raises(InvalidInput, match="not among the suspected ones"):
        verdict_changes(FINDING, verdicts)


def test_labels_are_renamed_everywhere_in_the_style_of_each_answer():
    one = {"op": "rename_value", "field": "service"}
    rows = after(
        {**one, "from": "VPN", "to": "Mail"},
        {**one, "from": "Mail", "to": "VPN"},
        {**one, "from": "Straße", "to": "Weg"},
        {"op": "rename_value", "field": "", "from": "VPN", "to": "Network"},
    )
    assert rows[1] == '{"service": "Mail", "n": 1}'
    assert rows[2] == '{"service":"VPN","n":2}'
    assert rows[3] == '{\n  "service": "Weg"\n}'
    assert (rows[4], rows[5]) == ("Network", "no JSON")


def test_values_keep_their_json_type():
    assert json.loads(after({"op": "rename_value", "field": "n", "from": "1", "to": "null"})[1])["n"] is None
    assert json.loads(after({"op": "rename_value", "field": "n", "from": "1", "to": '"1"'})[1])["n"] == "1"


@pytest.mark.parametrize("label", ["NaN", "Infinity", "-Infinity", "1e999", "404", "true"])
def test_a_text_stays_a_text_whatever_it_is_renamed_to(label):
    assert (
        json.loads(after({"op": "rename_value", "field": "service", "from": "VPN", "to": label})[1])["service"] == label
    )
    assert after({"op": "rename_value", "field": "", "from": "VPN", "to": label})[4] == label
    schema = {"properties": {"service": {"enum": ["VPN", "Mail"]}}}
    [one] = read_changes([{"op": "rename_value", "field": "service", "from": "VPN", "to": label}])
    changed = renamed(schema, [{"op": one.name, **one.to_dict()}])
    assert changed["properties"]["service"]["enum"] == [label, "Mail"]


@pytest.mark.parametrize("label", ["NaN", "-Infinity", "1e999"])
def test_what_json_does_not_know_is_never_written(label):
    number = after({"op": "rename_value", "field": "n", "from": "1", "to": label})[1]
    accepted = after({"op": "set_values", "values": [{"id": 1, "field": "n", "label": label}]})[1]
    assert json.loads(number)["n"] == json.loads(accepted)["n"] == label


def test_as_many_changes_as_may_wait_can_be_saved():
    waiting = [RowChange(row_id=n, texts={"prompt": "New"}) for n in range(1, MAX_WAITING - 2)]
    waiting += [RowChange(row_id=20_000, is_excluded=True), RowChange(row_id=20_001, texts={"answer": "x"})]
    waiting += [RowChange(row_id=20_002, texts={"answer": "x"})]
    for change, split in zip(waiting, Split, strict=False):
        change.moved_to = split.value
    assert len(waiting) == MAX_WAITING
    assert len(read_changes(_operations(waiting))) > MAX_WAITING


@pytest.mark.parametrize(
    "change",
    [
        {"op": "rename_value", "field": "", "from": "VPN", "to": " "},
        {"op": "rename_value", "field": "a", "from": "b", "to": "c\0"},
        {"op": "rename_value", "field": "a", "from": "b", "to": "\ud800"},
        {"op": "exclude_found", "report": "../../etc", "code": "duplicate"},
        {"op": "exclude_found", "report": "0197c9b2-4f6e-7c1a-8000-000000000000", "code": "../x"},
        {"op": "exclude_alike", "report": "0197c9b2-4f6e-7c1a-8000-000000000000", "code": "leak", "keep_found": 1},
        {"op": "mask_pii", "kinds": ["shoe_size"]},
        {"op": "order_keys", "keys": "service"},
        {"op": "set_values", "values": [{"id": 0, "field": "a", "label": "b"}]},
    ],
)
def test_what_is_not_well_formed_is_refused_at_the_door(change):
    with pytest.raises(InvalidInput):
        read_changes([change])
