"""Rows of JSON Lines, read strictly: what is stored can always be written again."""

import json
import re

import pytest

from datasets_app.readers import FileRefused, Limits, Record, RowFault, open_table
from datasets_app.readers.jsonlines import JsonFault, parse_json


@pytest.fixture
def table_of(tmp_path):
    def make(*lines, **options):
        path = tmp_path / "source.bin"
        path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines) + b"\n")
        return open_table(path, **options)

    return make


def test_objects_become_records(table_of):
    table = table_of('{"prompt": "a", "response": {"x": 1}}', "", '{"prompt": "b", "note": null}')
    assert (table.kind, table.delimiter, table.columns) == ("jsonl", None, ("prompt", "response", "note"))
    assert [(row.line, row.values) for row in table.records()] == [
        (1, {"prompt": "a", "response": {"x": 1}}),
        (3, {"prompt": "b", "note": None}),
    ]


def test_messages_rows(table_of):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    table = table_of(json.dumps({"messages": turns}))
    assert table.columns == ("messages",)
    assert next(table.records()).values["messages"] == turns


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ('{"a": 1', "bad_json"),
        ('{"a": 1} {"a": 2}', "bad_json"),
        ("not json", "bad_json"),
        ('{"a": 01}', "bad_json"),
        ('{"a": "tab\there"}', "bad_json"),
        ("[1, 2]", "not_an_object"),
        ("null", "not_an_object"),
        ('{"a": NaN}', "json_number"),
        ('{"a": -Infinity}', "json_number"),
        ('{"a": 1e999}', "json_number"),
        ('{"a": ' + "9" * 1_000_000 + "}", "json_number"),
        ('{"a": ' + "[" * 10_000 + "]" * 10_000 + "}", "json_too_deep"),
        ('{"a": ' * 10_000 + "1" + "}" * 10_000, "json_too_deep"),
        ('{"a": ' + "[" * 65 + "]" * 65 + "}", "json_too_deep"),
        ('{"a": 1, "a": 2}', "json_duplicate_key"),
        ('{"a": {"b": 1, "b": 2}}', "json_duplicate_key"),
        ('{"a": "\\ud800"}', "surrogate"),
        ('{"\\uDC00": 1}', "surrogate"),
        ('{"a": "\\u0000"}', "nul"),
        ('{"a": ["x\\\\\\u0000"]}', "nul"),
        (b'{"a": "\0"}', "nul"),
        (b'{"a": "\xed\xa0\x80"}', "bad_byte"),
    ],
)
def test_bad_line_is_a_fault_and_reading_goes_on(table_of, line, code):
    good = '{"a": "яяя"}'
    rows = list(table_of(good, line, good).records())
    assert [row.line for row in rows] == [1, 2, 3]
    assert isinstance(rows[1], RowFault)
    assert rows[1].code == code
    assert rows[1].message.startswith("Line 2: ")


@pytest.mark.parametrize(
    ("line", "reason", "position"),
    [
        ('{"a": 1', "it ends before it is complete: a closing quote or bracket is missing", None),
        ('{"a": "x', "it ends before it is complete: a closing quote or bracket is missing", None),
        ("not json", "a text stands without double quotes; only numbers, true, false and null need none", 1),
        ('{"a": True}', "a text stands without double quotes; only numbers, true, false and null need none", 7),
        ('{"a": }', "a value is missing, or a comma is too many", 7),
        ('{"a": [1, ]}', "a value is missing, or a comma is too many", None),
        ('{"a": 1,}', "a name in double quotes is missing, or a comma is too many", None),
        ('{"a" 1}', "a colon is missing after a name", 6),
        ('{"a": 1 "b": 2}', "a comma or a closing bracket is missing", 9),
        ('{"a": 1} {"b": 2}', "it goes on after its end", 10),
        ('{"a": "tab\there"}', "a text holds a line break or a tab; write \\n or \\t", 11),
        ('{"a": "C:\\data"}', "a backslash stands where none belongs; write two for one", None),
    ],
)
def test_what_is_wrong_with_a_line_is_said_in_plain_words(table_of, line, reason, position):
    _good, fault = table_of('{"a": 1}', line).records()
    assert fault.params["reason"] == reason
    # where something is missing or too many, some Pythons name the end or the comma, others what follows
    assert position in (None, fault.params["position"])
    assert fault.message.startswith(f"Line 2: the line is not valid JSON ({reason}, position ")


@pytest.mark.parametrize("line", ['{"a": 1', "not json", '{"a": ', "[1 2]", '{"a": "\\x"}', "\ufeff{}"])
def test_no_words_of_the_parser_reach_people(line):
    with pytest.raises(JsonFault) as caught:
        parse_json(line, max_depth=9)
    assert not re.search("Expecting|delimiter|Unterminated|Extra|Invalid|BOM", caught.value.reason)
    assert re.search(r", at character \d+$", caught.value.reason)


@pytest.mark.parametrize(
    "value",
    ["\\u0000", "\\\\u0000", "\U0001f600", "[" * 500, 10**300, -1.5e300, [[[1]]], {"x": {"y": []}}, "", True, None],
)
def test_harmless_values_come_through(table_of, value):
    (row,) = table_of(json.dumps({"a": value})).records()
    assert isinstance(row, Record)
    assert row.values == {"a": value}


def test_escaped_pairs_of_surrogates_are_one_character(table_of):
    (row,) = table_of('{"a": "\\ud83d\\ude00"}').records()
    assert row.values == {"a": "\U0001f600"}


def test_endless_line_is_refused_by_its_number(table_of):
    limits = Limits(max_cell_bytes=1_000, max_row_bytes=4_000)
    rows = list(table_of('{"a": 1}', '{"a": "' + "x" * 100_000 + '"}', '{"a": 2}', limits=limits).records())
    assert [(row.line, getattr(row, "code", None)) for row in rows] == [(1, None), (2, "line_too_long"), (3, None)]


def test_long_cell_is_refused_with_its_key(table_of):
    limits = Limits(max_cell_bytes=1_000, max_row_bytes=4_000)
    rows = list(table_of(json.dumps({"a": 1, "b": "x" * 1_500}), '{"a": 2}', limits=limits).records())
    assert (rows[0].line, rows[0].column, rows[0].code) == (1, "b", "cell_too_long")


def test_a_file_without_one_readable_object_is_refused(table_of):
    with pytest.raises(FileRefused, match="No line of the file is a readable JSON object"):
        table_of('{"a": NaN}', "{}")


def test_too_many_keys_are_refused(table_of):
    with pytest.raises(FileRefused, match="201 columns"):
        table_of(json.dumps({str(n): n for n in range(201)}))


def test_carriage_returns_alone_end_lines(tmp_path):
    path = tmp_path / "source.bin"
    path.write_bytes(b'{"a": 1}\r{"a": 2}\r')
    assert [row.line for row in open_table(path).records()] == [1, 2]
