"""Whatever the bytes, a reader answers with rows, faults or a typed refusal, within bounds."""

import csv
import io
import subprocess
import sys
import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets_app.readers import ENCODINGS, FileRefused, Limits, Record, RowFault, detect, open_table

pytestmark = pytest.mark.slow

LIMITS = Limits(max_rows=200, max_cell_bytes=64, max_row_bytes=256, max_row_lines=20, max_columns=8)
QUICK = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Pieces that mean something to one of the readers, so that random files are not all the same nonsense.
PIECES = st.sampled_from(
    [b"a", b"b,c", b",", b";", b"\t", b'"', b'""', b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe",
     b'{"a": 1}', b"{", b"}", b"[", b'"a": ', b"NaN", b"\\ud800", b"PK\x03\x04", b"sep=;", "яя".encode(), b" "]
)  # fmt: skip
FILES = st.one_of(st.binary(max_size=300), st.lists(PIECES, max_size=60).map(b"".join))


def check_everything(path, encoding=None):
    try:
        table = open_table(path, limits=LIMITS, encoding=encoding)
        lines = [0]
        for row in table.records():
            assert isinstance(row, Record | RowFault)
            if isinstance(row, Record):
                assert row.line > lines[-1]
                assert table.kind == "jsonl" or set(row.values) == set(table.columns)
                str(row.values).encode()
            else:
                assert row.message.startswith(f"Line {row.line}")
                assert row.column is None or row.column in table.columns
            lines.append(max(row.line, lines[-1]))
    except FileRefused:
        return


@QUICK
@given(content=FILES)
def test_any_bytes_are_rows_faults_or_a_refusal(tmp_path, content):
    path = tmp_path / "any.bin"
    path.write_bytes(content)
    check_everything(path)


@QUICK
@given(content=FILES, encoding=st.sampled_from(ENCODINGS))
def test_any_bytes_in_any_encoding(tmp_path, content, encoding):
    path = tmp_path / "any.bin"
    path.write_bytes(content)
    check_everything(path, encoding)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)


@QUICK
@given(
    rows=st.lists(st.tuples(CELLS, CELLS).filter(any), min_size=1, max_size=10),
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_csv_writes_is_read_back(tmp_path, rows, delimiter, quoting, line_end):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    writer.writerows([("prompt", "response"), *rows])
    path = tmp_path / "any.bin"
    path.write_bytes(text.getvalue().encode())
    table = open_table(path, delimiter=delimiter)
    assert [tuple(row.values.values()) for row in table.records()] == rows
    # A row's number is the line on which it begins.
    ends = [1, *(sum(cell.count("\n") for cell in row) + 1 for row in rows)]
    assert [row.line for row in table.records()] == [1 + sum(ends[: n + 1]) for n in range(len(rows))]


@QUICK
@given(content=st.binary(min_size=1, max_size=200))
def test_detection_agrees_with_python_about_utf8(tmp_path, content):
    path = tmp_path / "any.bin"
    path.write_bytes(content)
    try:
        detection = detect(path)
    except FileRefused:
        return
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        assert not detection.is_certain
    else:
        assert detection.bad_lines == 0


@pytest.mark.parametrize(
    ("piece", "repeat", "times"),
    [
        ("1,{}\n2,3\n", "x", 60_000_000),
        ('1,"{}"\n2,3\n', "x\n", 30_000_000),
        ("{}", "1,2\n", 15_000_000),
        ("{}1,2\n", "\n", 1_000_000),
    ],
    ids=["one endless cell", "one endless quoted cell", "many rows", "many blank lines"],
)
def test_memory_does_not_grow_with_the_file(tmp_path, piece, repeat, times):
    path = tmp_path / "big.csv"
    path.write_text("a,b\n" + piece.format(repeat * times))
    script = f"""
        import itertools, pathlib
        from datasets_app.readers import open_table
        table = open_table(pathlib.Path({str(path)!r}))
        for row in itertools.islice(table.records(), 100_000):
            pass
        print(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert int(done.stdout) < 64 * 1024
