"""Rows of delimited text: true line numbers, and a broken row does not end the scan."""

import re
import time

import pytest

from datasets_app.readers import DataError, FileRefused, Limits, Record, RowFault, detect, open_table

KIB = 1024
SMALL = Limits(max_cell_bytes=KIB, max_row_bytes=4 * KIB)


@pytest.fixture
def table_of(tmp_path):
    """Return a function that makes a table out of bytes or text."""

    def make(content, **options):
        path = tmp_path / "source.bin"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return open_table(path, **options)

    return make


def told(table):
    """Return lines of good records with their cells, and (line, column, code) of faults."""
    return [
        (row.line, *row.values.values()) if isinstance(row, Record) else (row.line, row.column, row.code)
        for row in table.records()
    ]


def test_quotes_line_ends_and_blank_lines(table_of):
    table = table_of('"prompt","response"\r\n"one\r\ntwo","say ""hi"""\r\n\r\nplain,"a,b"\r\n')
    assert (table.kind, table.encoding, table.delimiter) == ("csv", "utf-8", ",")
    assert table.columns == ("prompt", "response")
    assert told(table) == [(2, "one\r\ntwo", 'say "hi"'), (5, "plain", "a,b")]


@pytest.mark.parametrize(
    ("content", "kind", "delimiter"),
    [
        ("a;b\n1,5;2\n3,5;4\n", "csv", ";"),
        ("a\tb\n1, or 2\t3\n", "tsv", "\t"),
        ("a|b\n1|2\n", "csv", "|"),
        ('"a, x";"b"\n1;2\n', "csv", ";"),
        ("sep=;\na;b\n1;2\n", "csv", ";"),
        ("only\none\ntwo\n", "csv", ","),
    ],
)
def test_delimiter_is_found(table_of, content, kind, delimiter):
    table = table_of(content)
    assert (table.kind, table.delimiter) == (kind, delimiter)
    assert all(isinstance(row, Record) for row in table.records())


def test_delimiter_may_be_chosen(table_of):
    assert table_of("a,b;c\n1,2;3\n", delimiter=";").columns == ("a,b", "c")
    with pytest.raises(FileRefused, match="delimiter"):
        table_of("a,b\n1,2\n", delimiter="::")


def test_blanks_before_quotes_are_no_part_of_the_cell(table_of):
    assert told(table_of('"prompt", "response"\n"a, b", "c"\n')) == [(2, "a, b", "c")]


def test_byte_order_mark_is_stripped(table_of):
    assert table_of(b"\xef\xbb\xbfa,b\n1,2\n").columns == ("a", "b")


def test_carriage_returns_alone_end_lines(table_of):
    assert told(table_of("a,b\r1,2\r3\r5,6\r")) == [(2, "1", "2"), (3, None, "ragged"), (4, "5", "6")]


def test_ragged_rows_are_named_and_left_out(table_of):
    table = table_of("a,b,c\n1,2,3\n1,2\n1,2,3,4\n7,8,9\n")
    assert told(table) == [(2, "1", "2", "3"), (3, None, "ragged"), (4, None, "ragged"), (5, "7", "8", "9")]
    fault = list(table.records())[1]
    assert fault.message.startswith("Line 3: the row has another number of cells (2) than the header (3).")


def test_unclosed_quote_costs_one_row(table_of):
    table = table_of('"p","r"\n"a","b"\n"c","d\n"e","f"\n"g","h"\n')
    assert told(table) == [(2, "a", "b"), (3, "r", "bad_quotes"), (4, "e", "f"), (5, "g", "h")]


def test_unclosed_quote_at_the_end_of_the_file(table_of):
    assert told(table_of('p,r\na,b\nc,"d\n')) == [(2, "a", "b"), (3, "r", "bad_quotes")]
    assert told(table_of('p,r\na,b\nc,"d\ne,f\ng,h\n')) == [
        (2, "a", "b"),
        (3, "r", "bad_quotes"),
        (4, "e", "f"),
        (5, "g", "h"),
    ]


def test_stray_quote_in_a_cell_of_many_lines_makes_up_no_row(table_of):
    broken = '"one\nsay "hi" now\nhello, world\nend","x"\n'
    table = table_of(f'"p","r"\n"a","b"\n{broken}"c\nd","e"\n')
    assert told(table) == [(2, "a", "b"), (3, "p", "bad_quotes"), (7, "c\nd", "e")]
    assert "lines 3 to 6 are left out" in list(table.records())[1].message


def test_quote_that_swallows_too_many_lines(table_of):
    limits = Limits(max_row_lines=5)
    content = 'p,r\na,b\nc,"d\n' + "".join(f"e,{n}\n" for n in range(9))
    expected = [(2, "a", "b"), (3, "r", "row_too_long"), *((4 + n, "e", str(n)) for n in range(9))]
    assert told(table_of(content, limits=limits)) == expected


def test_stray_carriage_return(table_of):
    assert told(table_of("p,r\na\rb,c\nd,e\n")) == [(2, None, "stray_return"), (3, "d", "e")]


def test_accident_in_a_damaged_row_leaves_no_trace(table_of):
    assert told(table_of(b"p,r\na\rb,\xff\nc,d\n", encoding="utf-8")) == [(2, None, "stray_return"), (3, "c", "d")]


def test_broken_quote_among_blanks_before_quotes(table_of):
    table = table_of('"p", "r"\n"a, "b"\n"c", "d"\n')
    assert told(table) == [(2, "p", "bad_quotes"), (3, "c", "d")]


def test_hopeless_file_ends_the_scan(table_of):
    rows = list(table_of('p,r\na,b\nc,"d\n' + "nonsense\n" * 120_000).records())
    assert [row.line for row in rows] == [2, 3]
    assert rows[1].code == "unreadable_rest"


@pytest.mark.slow
def test_hostile_quotes_take_bounded_time(table_of):
    """Every line keeps the quote open: without a bound on rereading this would be quadratic."""
    table = table_of("p,r\n" + 'x","y\n' * 100_000)
    begin = time.process_time()
    assert all(isinstance(row, RowFault) for row in table.records())
    assert time.process_time() - begin < 30


@pytest.mark.parametrize("content", ["a,b\n1,{}\n2,3\n", 'a,b\n1,"{}"\n2,3\n'])
def test_long_cell_is_refused_with_line_and_column(table_of, content):
    table = table_of(content.format("x" * 2 * KIB), limits=SMALL)
    assert told(table) == [(2, "b", "cell_too_long"), (3, "2", "3")]


@pytest.mark.parametrize("cell", ["x" * 10 * KIB, '"' + "x\n" * 10 * KIB + '"', '"' + "x" * 10 * KIB + '"'])
def test_endless_row_is_refused_and_reading_goes_on(table_of, cell):
    table = table_of(f"a,b,c\n1,{cell},2\n3,4,5\n", limits=SMALL)
    rows = list(table.records())
    assert (rows[0].line, rows[0].column, rows[0].code) == (2, "b", "row_too_long")
    assert rows[-1].values == {"a": "3", "b": "4", "c": "5"}
    assert rows[-1].line == 3 + cell.count("\n")


def test_multibyte_cell_is_measured_in_bytes(table_of):
    assert told(table_of(f"a,b\n1,{'я' * 600}\n", limits=SMALL)) == [(2, "b", "cell_too_long")]
    assert told(table_of(f"a,b\n1,{'x' * 900}\n", limits=SMALL))[0][0] == 2


def test_bad_byte_is_reported_where_it_stands(table_of):
    rows = "".join(f"строка {n},да\n" for n in range(9)).encode()
    table = table_of("вопрос,ответ\n".encode() + rows + b"x,ab\xffcd\nlast,row\n")
    faults = [row for row in table.records() if isinstance(row, RowFault)]
    assert [(fault.line, fault.column, fault.code) for fault in faults] == [(11, "ответ", "bad_byte")]
    assert "byte 0xff at position 5 is not valid utf-8" in faults[0].message
    assert list(table.records())[-1].line == 12


def test_bad_byte_in_a_later_line_of_a_cell(table_of):
    table = table_of("п,о\n".encode() + "да,нет\n".encode() * 3 + b'"one\ntw\xffo",x\n')
    assert told(table)[-1] == (6, "п", "bad_byte")


def test_nul_is_a_fault_of_its_row(table_of):
    assert told(table_of(b"a,b\n1,x\0y\n2,3\n")) == [(2, "b", "nul"), (3, "2", "3")]


def test_row_limit(table_of):
    table = table_of("a,b\n" + "1,2\n" * 4, limits=Limits(max_rows=3))
    rows = table.records()
    assert [next(rows).line for _ in range(3)] == [2, 3, 4]
    with pytest.raises(FileRefused, match="more than 3 rows"):
        next(rows)


def test_table_can_be_read_again_and_sampled(table_of):
    table = table_of("a,b\n1,2\nx\n3,4\n")
    assert told(table) == told(table)
    assert [record.line for record in table.sample(5)] == [2, 4]
    assert table.position_bytes > 0


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\xef\xbb\xbf\r\n \n", "empty_file"),
        (b"a,b\n", "no_rows"),
        (b"a,b\n\n\n", "no_rows"),
        (b"a,b,a\n1,2,3\n", "header_duplicate"),
        (b"a, a\n1,2\n", "header_duplicate"),
        (b"a,,c\n1,2,3\n", "header_empty_name"),
        (b'"a,b\n1,2\n', "header_unreadable"),
        (b"a,b\0\n1,2\n", "header_unreadable"),
        (",".join(map(str, range(201))).encode() + b"\n1\n", "too_many_columns"),
    ],
)
def test_unusable_header_is_refused(table_of, content, code):
    with pytest.raises(FileRefused) as refused:
        table_of(content)
    assert refused.value.code == code


def test_file_size_limit(table_of):
    with pytest.raises(FileRefused, match="13 bytes, the limit is 12"):
        table_of("a,b\n1,2\n3,4\n\n", limits=Limits(max_bytes=12))


def test_every_fault_says_where_and_what_to_do(table_of):
    content = b'a,b\n1\n1,x\0\nq\rz,1\n3,\xff\n"1,"2"\n' + "1,да\n".encode() * 5 + b"1," + b"x" * 2 * KIB + b"\n"
    faults = [row for row in table_of(content, limits=SMALL).records() if isinstance(row, RowFault)]
    assert {"ragged", "nul", "bad_quotes", "stray_return", "bad_byte", "cell_too_long"} <= {f.code for f in faults}
    for fault in faults:
        assert re.match(r"Line \d+(, column “\w+”)?: .+\. .*[A-Z].+\.$", fault.message), fault.message
        assert fault.to_dict()["message"] == fault.message


def test_sentences_can_be_translated(table_of):
    translate = {
        "Line %(line)d, column “%(column)s”: %(text)s": "Строка %(line)d, столбец «%(column)s»: %(text)s",
        "the text contains a NUL character. Delete it.": "в тексте есть символ NUL. Удалите его.",
    }.get
    fault = next(iter(table_of(b"a,b\n1,x\0\n").records()))
    assert (
        fault.sentence(lambda text: translate(text, text))
        == "Строка 2, столбец «b»: в тексте есть символ NUL. Удалите его."
    )


def test_refusals_are_value_errors_with_a_code():
    error = FileRefused("no_rows")
    assert isinstance(error, DataError)
    assert str(error) == error.message
    assert error.code == "no_rows"


def test_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        detect(tmp_path / "nothing.csv")
