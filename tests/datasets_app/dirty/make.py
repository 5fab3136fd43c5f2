"""Writes the dirty files: `python -m tests.datasets_app.dirty.make`. What each must give is in expected.json."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

from tests.datasets_app.containers import HEADER, array_bytes, gzip_bytes, parquet_bytes, xlsx_bytes, zip_of
from tests.datasets_app.files import csv_bytes, jsonl_bytes

FOLDER = Path(__file__).parent
PLAIN = [("VPN drops", "Network"), ("No badge", "Access"), ("Mail is slow", "Mail")]
CYRILLIC = [("Не могу войти", "Доступ"), ("Ошибка «ВПН»", "Сеть"), ("Почта стоит", "Почта")]
WESTERN = [("Café fermé", "Räume"), ("Größe falsch", "Büro"), ("naïve", "é")]


def lines(*texts: str | bytes, end: bytes = b"\n") -> bytes:
    """Return a file of these lines."""
    return b"".join((text if isinstance(text, bytes) else text.encode()) + end for text in texts)


def one_bad_byte() -> bytes:
    return csv_bytes(CYRILLIC) + b"bro\xffken,Mail\n" + csv_bytes(CYRILLIC, header=("Ёж", "Ёлка"))


def twelve_faults() -> bytes:
    """Return 150 good rows with twelve faults among them; JSON answers, so that a broken one is a fault."""
    good = [f'"Заявка {n}","{{""queue"": ""Mail""}}"' for n in range(150)]
    bad: dict[int, str | bytes] = {
        9: '"No answer",""',
        21: '"","{""queue"": ""Mail""}"',
        33: '"Too few cells"',
        39: '"Too many","{""queue"": ""Mail""}","x"',
        51: '"Cut JSON","{""queue"": ""Ma"',
        57: '"Not an object","[1, 2]"',
        69: '"Not a number","{""queue"": NaN}"',
        87: '"Twice","{""queue"": ""Mail"", ""queue"": ""VPN""}"',
        93: b'"A NUL \0 here","{""queue"": ""Mail""}"',
        111: b'"A bad byte \xff here","{""queue"": ""Mail""}"',
        123: '"Too deep","' + "[" * 70 + "]" * 70 + '"',
        129: '"Blank answer","   "',
    }
    rows: list[str | bytes] = ['"prompt","response"']
    while good:
        number = len(rows) + 1
        rows.append(bad[number] if number in bad else good.pop(0))
    return lines(*rows)


def encrypted_zip() -> bytes:
    """Return an archive whose member says that it is encrypted."""
    content = bytearray(zip_of({"tickets.csv": csv_bytes(PLAIN)}))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    return bytes(content)


def encrypted_workbook() -> bytes:
    """Return an OLE file whose directory lists an encrypted package, as Excel writes it behind a password."""
    header = bytearray(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".ljust(512, b"\0"))
    struct.pack_into("<H", header, 30, 9)
    struct.pack_into("<I", header, 48, 1)
    directory = b"".join(name.encode("utf-16-le").ljust(128, b"\0") for name in ("Root Entry", "EncryptedPackage"))
    return bytes(header) + b"\0" * 512 + directory.ljust(512, b"\0")


def symlink_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        link = zipfile.ZipInfo("train.csv")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return out.getvalue()


def conversation(*turns: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


USER, ASSISTANT = ("user", "Hello"), ("assistant", "Good day")
FILES: dict[str, Callable[[], bytes]] = {
    "utf8_mark.csv": lambda: b"\xef\xbb\xbf" + csv_bytes(CYRILLIC),
    "utf16_mark.csv": lambda: csv_bytes(CYRILLIC, encoding="utf-16"),
    "utf16_no_mark.csv": lambda: csv_bytes(PLAIN, encoding="utf-16-be"),
    "windows_1251.csv": lambda: csv_bytes(CYRILLIC, encoding="cp1251"),
    "windows_1252.csv": lambda: csv_bytes(WESTERN, encoding="cp1252"),
    "one_bad_byte.csv": one_bad_byte,
    "nul_bytes.csv": lambda: csv_bytes(PLAIN) + b"a\0b,Mail\nfine,Mail\n",
    "half_characters.jsonl": lambda: lines(
        '{"prompt": "fine", "response": "Mail"}', '{"prompt": "half \\ud800", "response": "Mail"}'
    ),
    "carriage_returns.csv": lambda: csv_bytes(PLAIN).replace(b"\r\n", b"\r"),
    "embedded_line_ends.csv": lambda: lines("prompt,response", '"two', 'lines",Mail', '"three', "", 'lines",', "x,y"),
    "ragged.csv": lambda: lines("prompt,response", "a,b", "a", "a,b,c", "d,e"),
    "duplicate_header.csv": lambda: lines("prompt,response,prompt", "a,b,c"),
    "empty_header_name.csv": lambda: lines("prompt,,response", "a,b,c"),
    "one_column.csv": lambda: lines("prompt", "a", "b"),
    "header_only.csv": lambda: lines("prompt,response"),
    "nothing.csv": lambda: b"",
    "blanks_only.csv": lambda: b" \n\n\t\n",
    "open_quote.csv": lambda: lines("prompt,response", "a,b", '"never closed,b', "c,d", "e,f"),
    "separator_line.csv": lambda: lines("sep=;", "prompt;response", "a;b", "c;d"),
    "tabs.csv": lambda: lines("prompt\tresponse", "a, with comma\tb", "c\td"),
    "blank_lines.csv": lambda: lines("", "prompt,response", "", "a,b", "", "c,", ""),
    "broken_json.jsonl": lambda: lines(
        '{"prompt": "a", "response": "b"}',
        '{"prompt": "a", "response": }',
        '["a", "b"]',
        '{"prompt": "a", "prompt": "c", "response": "b"}',
        '{"prompt": NaN, "response": "b"}',
        '{"prompt": ' + "9" * 5000 + ', "response": "b"}',
        '{"prompt": ' + "[" * 200 + "]" * 200 + ', "response": "b"}',
        '{"prompt": "a"}',
    ),
    "bad_conversations.jsonl": lambda: jsonl_bytes(
        [
            conversation(USER, ASSISTANT),
            conversation(ASSISTANT, USER),
            conversation(USER, USER, ASSISTANT),
            conversation(("robot", "Beep"), ASSISTANT),
            {"messages": "none"},
            {"messages": []},
            *[conversation(USER, ASSISTANT, USER, ASSISTANT)] * 5,
        ]
    ),
    "formulas.csv": lambda: csv_bytes(
        [("=1+1", "+1"), ("@SUM(A1)", "-1"), ('=HYPERLINK("http://x";"y")', "=cmd|' /C calc'!A0")]
    ),
    "scripts.csv": lambda: csv_bytes(
        [("<script>alert(1)</script>", "<img src=x onerror=alert(1)>"), ("{{ 7*7 }}{% now %}", "javascript:alert(1)")]
    ),
    "gaps.xlsx": lambda: xlsx_bytes([], header=(), Data=[(), HEADER, ("a", "b"), (), ("c", None), ("d", "e")]),
    "typed.xlsx": lambda: xlsx_bytes([("a", 5), ("b", True), ("c", date(2026, 1, 2)), (4.5, "e")]),
    "nameless_column.xlsx": lambda: xlsx_bytes([("a", "b", "beyond")]),
    "missing_values.parquet": lambda: parquet_bytes([("a", "b"), (None, "c"), ("d", None), ("e", "f")]),
    "cut_off.parquet": lambda: parquet_bytes(PLAIN)[:-20],
    "slip.zip": lambda: zip_of({"../../outside.csv": csv_bytes(PLAIN)}),
    "link.zip": symlink_zip,
    "nested.zip": lambda: zip_of({"inner.csv": zip_of({"tickets.csv": csv_bytes(PLAIN)})}),
    "locked.zip": encrypted_zip,
    "locked.xlsx": encrypted_workbook,
    "cut_off.csv.gz": lambda: gzip_bytes(csv_bytes(PLAIN * 50))[:-10],
    "document.csv": lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "pickle.csv": lambda: b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94.",
    "cut_off.json": lambda: array_bytes([{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}])[:-20],
    "twelve_faults.csv": twelve_faults,
}


def main() -> None:
    """Write all files."""
    for name, make in FILES.items():
        (FOLDER / name).write_bytes(make())


if __name__ == "__main__":
    main()
