"""T-UP2: files made to exhaust who reads them are refused within the memory and the time that they are allowed."""

from __future__ import annotations

import gzip
import io
import json
import random
import struct
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Callable

import pyarrow
import pyarrow.parquet
import pytest

from datasets_app.capped import PROJECT
from datasets_app.readers import FileRefused, RowFault, open_table
from datasets_app.readers.containers import unpack
from tests.datasets_app.containers import xlsx_bytes, zip_of

pytestmark = pytest.mark.slow

MIB = 1 << 20
# What a child may map is more than what it may hold: the rest is libraries.
MEMORY_MIB, SECONDS = 1024, 60


def gzip_bomb() -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as file:
        file.write(b"prompt,response\n")
        for _ in range(512):
            file.write(b"a" * MIB)
    return out.getvalue()


def zip_bomb() -> bytes:
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("t.csv", "w") as file,
    ):
        for _ in range(512):
            file.write(b"a" * MIB)
    return out.getvalue()


def nested_zip() -> bytes:
    inner = zip_bomb()
    for _ in range(3):
        inner = zip_of({f"{n}.zip": inner for n in range(4)} | {"train.csv": inner})
    return inner


def million_entries(honest: bool) -> bytes:
    """Return an archive that lists a million members; a dishonest one says that there are ten."""
    entry = (
        b"PK\x01\x02" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0) + b"a.csv"
    )
    listed = entry * 1_000_000
    count = 1_000_000 if honest else 10
    end64 = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(listed), 0)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(listed), 1)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return b"PK\x03\x04" + listed + end64 + locator + end


def workbook_with(members: dict[str, bytes]) -> bytes:
    """Return a workbook in which some members are replaced."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(xlsx_bytes([("a", "b")]))) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for name in {*old.namelist(), *members}:
            new.writestr(name, members.get(name) or old.read(name))
    return out.getvalue()


def shared_strings(unique: bool) -> bytes:
    """Return a workbook with 700 MiB of shared strings, packed below the ratio of a bomb or far above it."""
    noise = random.Random(1)
    head = b'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">'
    text = (b"a" * 12_000).join(noise.randbytes(60).hex().encode() for _ in range(88)) if unique else b"a" * MIB
    return workbook_with({"xl/sharedStrings.xml": head + (b"<si><t>" + text + b"</t></si>") * 700 + b"</sst>"})


def far_cell() -> bytes:
    head = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
    cells = ((1, "A1"), (1048576, "XFD1048576"))
    rows = "".join(f'<row r="{row}"><c r="{cell}"><v>1</v></c></row>' for row, cell in cells)
    return workbook_with({"xl/worksheets/sheet1.xml": f"{head}{rows}</sheetData></worksheet>".encode()})


def billion_laughs() -> bytes:
    names = [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)]
    text = f'<?xml version="1.0"?><!DOCTYPE sst [<!ENTITY a0 "ha">{"".join(names)}]>'
    sheet = '<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>&a9;</t></si></sst>'
    return workbook_with({"xl/sharedStrings.xml": (text + sheet).encode()})


def repeated_pages(characters: int, rows: int) -> bytes:
    """Return a small Parquet file of one long text, said once and meant very often."""
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), ["x" * characters])
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"prompt": texts, "response": texts}), out, compression="zstd")
    assert out.tell() < MIB
    return out.getvalue()


BOMBS: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "gzip": (gzip_bomb, {"archive_bomb"}),
    "zip": (zip_bomb, {"archive_bomb"}),
    "nested zip": (nested_zip, {"archive_nested"}),
    "a million entries": (lambda: million_entries(honest=True), {"archive_entries"}),
    "a million hidden entries": (lambda: million_entries(honest=False), {"archive_entries"}),
    "shared strings": (lambda: shared_strings(unique=False), {"archive_bomb"}),
    "shared strings below the ratio": (lambda: shared_strings(unique=True), {"work_memory", "archive_bomb", "ok"}),
    "a far cell": (far_cell, {"work_memory"}),
    "entities": (billion_laughs, {"container_damaged", "workbook_empty", "work_crashed", "ok"}),
    "long texts of Parquet": (lambda: repeated_pages(1_000_000, 50_000), {"archive_bomb", "work_memory"}),
    "many texts of Parquet": (lambda: repeated_pages(10_000, 1_900_000), {"archive_bomb"}),
    "many rows of Parquet": (lambda: repeated_pages(1, 2_000_001), {"too_many_rows"}),
}
SCRIPT = """
    import json, resource, sys
    from datasets_app.capped import run_capped
    from datasets_app.readers.faults import DataError
    path, out, memory, seconds = sys.argv[1:]
    code = "ok"
    try:
        run_capped(
            "datasets_app.readers.containers.unpacking:unpack",
            {"path": path, "out": out, "part": "", "limits": {}},
            memory_bytes=int(memory) << 20, cpu_seconds=int(seconds),
        )
    except DataError as error:
        code = error.code
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"code": code, "rss_mib": used.ru_maxrss / 1024, "cpu_s": used.ru_utime + used.ru_stime}))
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_its_limits(tmp_path, name):
    make, codes = BOMBS[name]
    path = tmp_path / "bomb.bin"
    path.write_bytes(make())
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(path), str(tmp_path / "out")]
    done = subprocess.run(
        [*command, str(MEMORY_MIB), str(SECONDS)], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=300
    )
    found = json.loads(done.stdout)
    assert found["code"] in codes, found
    assert found["rss_mib"] < MEMORY_MIB, found
    assert found["cpu_s"] < SECONDS / 2, found


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"prompt": ' + "[" * 10_000 + "]" * 10_000 + ', "response": "b"}', "json_too_deep"),
        ('{"prompt": ' + '{"a":' * 10_000 + "1" + "}" * 10_000 + ', "response": "b"}', "json_too_deep"),
        ('{"prompt": ' + "9" * 1_000_000 + ', "response": "b"}', "json_number"),
        ('{"prompt": 1e999, "response": "b"}', "json_number"),
        ('{"prompt": NaN, "response": "b"}', "json_number"),
        ('{"prompt": -Infinity, "response": "b"}', "json_number"),
    ],
)
@pytest.mark.parametrize("shape", ["lines", "array"])
def test_json_bombs(tmp_path, text, code, shape):
    good = '{"prompt": "a", "response": "b"}'
    path = tmp_path / "bomb.jsonl"
    path.write_text(f"{good}\n{text}\n{good}\n" if shape == "lines" else f"[{good},\n{text},\n{good}]")
    if shape == "array":
        out = tmp_path / "out"
        arguments = {"path": str(path), "out": str(out), "part": "", "limits": {}}
        if code == "json_too_deep":  # where such an item ends cannot be found
            with pytest.raises(FileRefused) as refused:
                unpack(lambda said: None, **arguments)
            assert refused.value.code == "json_array_broken"
            return
        unpack(lambda said: None, **arguments)
        path = out
    begin = time.process_time()
    rows = list(open_table(path).records())
    assert time.process_time() - begin < 5
    assert [(row.line, row.code) for row in rows if isinstance(row, RowFault)] == [(2, code)]
    assert len(rows) == 3
