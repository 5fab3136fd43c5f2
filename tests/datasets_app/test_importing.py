"""The two passes of an import, and the division of one file."""

import hashlib
import json
from collections import Counter

import pytest

from datasets_app.importing import ImportRefused, check_source, write_rows, write_split
from datasets_app.mapping import Mapping, MappingError
from datasets_app.readers import Limits, detect, open_table
from datasets_app.splits import split_rows, split_sizes
from datasets_app.store import read_rows

MAPPING = Mapping(prompt="prompt", response="response")
TEXT = 'prompt,response\na,1\n"b\nc",2\nbroken\n,4\nd,5\n'


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.bin"
    path.write_text(TEXT)
    return path


def test_check_counts_rows_and_names_faults(source):
    report = check_source(source, MAPPING)
    assert report.rows == 3
    assert [(fault.line, fault.code) for fault in report.faults] == [(5, "ragged"), (6, "empty_prompt")]
    assert report.fault_count == 2
    assert report.columns == ("prompt", "response")
    assert report.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert report.size_bytes == len(TEXT)
    assert json.loads(json.dumps(report.to_dict()))["faults"][0]["line"] == 5


def test_check_keeps_a_limited_number_of_faults(source):
    source.write_text("prompt,response\n" + "x\n" * 50)
    report = check_source(source, MAPPING, Limits(max_faults=10), detect(source))
    assert (len(report.faults), report.fault_count, report.rows) == (10, 50, 0)


def test_check_refuses_a_mapping_that_does_not_fit(source):
    with pytest.raises(MappingError, match="“answer” is not in the file"):
        check_source(source, Mapping(prompt="prompt", response="answer"))


def test_rows_are_written_with_their_hash(source, tmp_path):
    out = tmp_path / "train.parquet"
    written = write_rows(open_table(source), MAPPING, out, skip_faulty=True)
    assert [(row.id, row.row, row.prompt, row.answer) for row in read_rows(out)] == [
        (1, 2, "a", "1"),
        (2, 3, "b\nc", "2"),
        (3, 7, "d", "5"),
    ]
    assert written.rows == 3
    assert written.size_bytes == out.stat().st_size


def test_content_hash_does_not_depend_on_the_form_of_the_source(tmp_path):
    forms = {
        "one": 'prompt,response\na,"1"\n',
        "two": 'sep;prompt;"response"\nx;a;1\n',
        "three": "prompt\tresponse\r\na\t1\r\n",
        "lines": '\n\n{"response": "1", "prompt": "a"}\n',
    }
    hashes = set()
    for name, text in forms.items():
        path = tmp_path / name
        path.write_text(text, newline="")
        hashes.add(write_rows(open_table(path), MAPPING, tmp_path / "out", skip_faulty=False).sha256)
    assert len(hashes) == 1


def test_a_faulty_row_stops_the_import_and_leaves_nothing(source, tmp_path):
    out = tmp_path / "out" / "train.parquet"
    out.parent.mkdir()
    with pytest.raises(ImportRefused, match="Line 5: ") as refused:
        write_rows(open_table(source), MAPPING, out, skip_faulty=False)
    assert (refused.value.code, refused.value.fault.line) == ("faulty_row", 5)
    assert list(out.parent.iterdir()) == []


def test_an_old_file_stays_when_the_new_one_fails(source, tmp_path):
    out = tmp_path / "train.parquet"
    out.write_text("old")

    def stop(rows, size_bytes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_rows(open_table(source), MAPPING, out, skip_faulty=True, progress=stop)
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.bin", "train.parquet"]


def test_a_source_without_good_rows_is_refused(source, tmp_path):
    source.write_text("prompt,response\n,\n")
    with pytest.raises(ImportRefused, match="No row"):
        write_rows(open_table(source), MAPPING, tmp_path / "out", skip_faulty=True)


def test_progress_is_told(source, tmp_path):
    source.write_text("prompt,response\n" + "a,b\n" * 2_500)
    told = []
    write_rows(
        open_table(source), MAPPING, tmp_path / "out", skip_faulty=True, progress=lambda *done: told.append(done)
    )
    assert [rows for rows, _ in told] == [1_000, 2_000, 2_500]
    positions = [size_bytes for _, size_bytes in told]
    assert positions == sorted(positions)
    assert positions[-1] == source.stat().st_size


SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def test_one_file_is_divided(source, tmp_path):
    source.write_text("prompt,response\n" + "".join(f"p{n},r\n" for n in range(50)) + "broken\n")
    paths = {part: tmp_path / f"{part}.parquet" for part in SHARES}
    table = open_table(source)
    written = write_split(table, MAPPING, paths, rows=50, shares=SHARES, seed=1, skip_faulty=True)
    assert {part: file.rows for part, file in written.items()} == {"train": 40, "validation": 5, "test": 5}
    found = [(row.id, row.row) for path in paths.values() for row in read_rows(path)]
    assert sorted(found) == [(number, number + 1) for number in range(1, 51)]
    again = write_split(table, MAPPING, paths, rows=50, shares=SHARES, seed=1, skip_faulty=True)
    assert again == written
    assert write_split(table, MAPPING, paths, rows=50, shares=SHARES, seed=2, skip_faulty=True) != written


@pytest.mark.parametrize("rows", [49, 51])
def test_a_source_that_changed_meanwhile_is_refused(source, tmp_path, rows):
    source.write_text("prompt,response\n" + "a,b\n" * 50)
    paths = {part: tmp_path / f"{part}.parquet" for part in SHARES}
    with pytest.raises(ImportRefused, match="not the one that was checked"):
        write_split(open_table(source), MAPPING, paths, rows=rows, shares=SHARES, seed=1, skip_faulty=True)
    assert [path.name for path in tmp_path.iterdir()] == ["source.bin"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 10, 11, 99, 1_000])
def test_parts_get_exactly_their_sizes(count):
    sizes = split_sizes(count, SHARES)
    assert sum(sizes.values()) == count
    assert Counter(split_rows(count, SHARES, seed=3)) == Counter({part: size for part, size in sizes.items() if size})
    assert count < 3 or min(sizes.values()) >= 1


def test_split_is_the_same_for_ever():
    assert "".join(part[0] for part in split_rows(40, {"a": 0.5, "b": 0.3, "c": 0.2}, seed=7)) == (
        "aababaabaaaabcaabcbacacaaabcabbbbaabccac"
    )


def test_split_depends_on_the_seed_and_not_on_the_place():
    first = list(split_rows(3_000, SHARES, seed=1))
    assert first != list(split_rows(3_000, SHARES, seed=2))
    for third in (first[:1_000], first[1_000:2_000], first[2_000:]):
        assert 70 < third.count("test") < 130


@pytest.mark.parametrize("shares", [{"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_impossible_shares_are_an_error(shares):
    with pytest.raises(ValueError, match="shares"):
        split_sizes(10, shares)
