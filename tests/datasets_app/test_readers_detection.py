"""What a file is, is decided by its content; an encoding is never guessed silently."""

import gzip
import io
import zipfile

import pytest

from datasets_app.readers import FileRefused, Limits, detect, open_table

RUSSIAN = "вопрос,ответ\nне могу войти,сбросить пароль\nгде счёт,в биллинге\n"


@pytest.fixture
def file_of(tmp_path):
    """Return a function that writes bytes to a file called .csv."""

    def make(content):
        path = tmp_path / "upload.csv"
        path.write_bytes(content)
        return path

    return make


def archive(*names):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, b"x" * 100_000)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (archive("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook (.xlsx)"),
        (archive("[Content_Types].xml", "word/document.xml"), "a Word document"),
        (archive("table.csv"), "a ZIP archive"),
        (gzip.compress(b"a,b\n1,2\n", mtime=0), "a gzip archive"),
        (b"PAR1\x15\x04\x15\x10", "a Parquet file"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
        (b"BZh91AY&SY", "a bzip2 archive"),
        (b"\x80\x04\x95\x10\0\0\0", "a Python pickle"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b'\xef\xbb\xbf<?xml version="1.0"?>', "an XML document"),
        (b'[{"prompt": "a"}]', "a JSON array"),
        (b'{\n  "prompt": "a"\n}\n', "one JSON document"),
        (b"\x01\x02\x03\x04", "a binary file"),
    ],
)
def test_strangers_are_called_by_their_name(file_of, content, what):
    with pytest.raises(FileRefused) as refused:
        open_table(file_of(content))
    assert refused.value.code == "not_a_table"
    assert what in str(refused.value)
    assert refused.value.params["advice"] in str(refused.value)


def test_bytes_full_of_nul_are_binary(file_of):
    with pytest.raises(FileRefused, match="not text"):
        detect(file_of(b"a\0\0\0b" * 100))


def test_utf8_is_certain(file_of):
    detection = detect(file_of(RUSSIAN.encode()))
    assert (detection.kind, detection.encoding, detection.delimiter) == ("csv", "utf-8", ",")
    assert detection.is_certain
    assert detection.candidates == ()


@pytest.mark.parametrize(("text", "encoding"), [(RUSSIAN, "cp1251"), ("question,réponse\nà propos,café\n", "cp1252")])
def test_other_encodings_are_offered_with_a_preview(file_of, text, encoding):
    path = file_of(text.encode(encoding))
    detection = detect(path)
    assert detection.encoding is None
    assert detection.first_bad_line == 1
    assert detection.candidates[0].encoding == encoding
    assert text.splitlines()[1] in detection.candidates[0].preview
    with pytest.raises(FileRefused, match=rf"the first is line 1\. Choose the encoding .*{encoding}"):
        open_table(path)
    assert open_table(path, encoding=encoding).columns == tuple(text.splitlines()[0].split(","))


def test_few_bad_lines_are_faults_of_a_utf8_file(file_of):
    detection = detect(file_of(RUSSIAN.encode() + b"x,\xff\n"))
    assert detection.encoding == "utf-8"
    assert (detection.bad_lines, detection.first_bad_line) == (1, 4)
    assert [candidate.encoding for candidate in detection.candidates] == ["cp1252", "cp1251"]


def test_one_bad_line_among_hundreds_of_plain_ones(file_of):
    assert detect(file_of(b"a,b\n" + b"1,2\n" * 200 + b"x,\xff\n")).encoding == "utf-8"
    assert detect(file_of(b"a,b\n" + b"1,2\n" * 20 + b"x,\xff\n")).encoding is None


def test_bad_lines_are_counted_across_blocks(file_of):
    row = "строка,".encode() + b"x" * 1000 + b"\n"
    content = b"a,b\n" + row * 3000 + b"\xff,1\n" + row * 500 + b"\xfe,2\n"
    detection = detect(file_of(content))
    assert (detection.bad_lines, detection.first_bad_line) == (2, 3002)


def test_line_longer_than_a_block_is_no_bad_line(file_of):
    assert detect(file_of("а,б\n1,".encode() + "я".encode() * 2_000_001 + b"\n")).is_certain
    assert detect(file_of("а,б\n1,x".encode() + "я".encode() * 2_000_001 + b"\n")).is_certain


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_utf16_needs_to_be_chosen(file_of, encoding, line_end):
    path = file_of((RUSSIAN * 3).replace("\n", line_end).encode(encoding))
    with pytest.raises(FileRefused) as refused:
        open_table(path)
    assert refused.value.code == "utf16"
    detection = detect(path)
    assert detection.candidates[0].encoding == encoding
    assert "не могу войти" in detection.candidates[0].preview
    table = open_table(path, encoding=encoding)
    assert table.columns == ("вопрос", "ответ")
    assert next(table.records()).values["ответ"] == "сбросить пароль"


def test_broken_utf16_is_a_fault_of_its_row(file_of):
    lone = b"\x00\xd8"
    path = file_of("a,b\n1,".encode("utf-16-le") + lone + "\n2,3\n".encode("utf-16-le") + b"4")
    assert [row.line for row in open_table(path, encoding="utf-16-le").records()] == [2, 3, 4]
    codes = [getattr(row, "code", None) for row in open_table(path, encoding="utf-16-le").records()]
    assert codes == ["bad_byte", None, "bad_byte"]


def test_encoding_that_is_not_on_the_list(file_of):
    with pytest.raises(FileRefused, match="“utf-7” is not supported"):
        open_table(file_of(b"a,b\n1,2\n"), encoding="utf-7")


def test_detection_saves_a_second_look(file_of):
    path = file_of(RUSSIAN.encode())
    assert open_table(path, detection=detect(path)).columns == ("вопрос", "ответ")


def test_too_large_before_reading(file_of):
    with pytest.raises(FileRefused) as refused:
        detect(file_of(b"PAR1\x15"), limits=Limits(max_bytes=4))
    assert refused.value.code == "file_too_large"
