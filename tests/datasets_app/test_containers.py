"""Workbooks, Parquet files, archives and JSON arrays become the same rows as plain text does."""

from __future__ import annotations

import csv
import io
import json
from datetime import date, datetime, time
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest

from datasets_app import services, sources, tasks, unpacking
from datasets_app.capped import run_capped
from datasets_app.models import DatasetVersion, Split
from datasets_app.readers.containers.cells import as_cell
from datasets_app.views.versions import progress_context
from portal import usage
from portal.errors import InvalidSource, QuotaExceeded
from portal.models import Quota
from portal.rls import team_scope
from tests.datasets_app.containers import array_bytes, gzip_bytes, parquet_bytes, xlsx_bytes, zip_of
from tests.datasets_app.files import csv_bytes, jsonl_bytes, tickets, upload

pytestmark = pytest.mark.slow

NAMES = ("prompt", "response")
ROWS = [(f"{prompt} — «ёлка» №{number}", answer) for number, (prompt, answer) in enumerate(tickets(100))]
LATIN = [(prompt, answer) for prompt, answer in tickets(100)]
OBJECTS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]


def _delimited(rows, delimiter, encoding="utf-8"):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter).writerows([NAMES, *rows])
    return out.getvalue().encode(encoding)


def arrow_bytes(table):
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()


def imported(team, actor, content, name="tickets.bin", *, reading=None, **options):
    with team_scope(team.pk):
        version = services.import_files(
            team=team, actor=actor, name=f"{name} {len(content)} {reading}"[:110], reading=reading,
            files={Split.TRAIN: upload(content, name)}, options=options,
        )  # fmt: skip
    tasks.import_version(str(version.pk))
    with team_scope(team.pk):
        return DatasetVersion.unscoped.get(pk=version.pk)


def refused(team, actor, content):
    with team_scope(team.pk), pytest.raises(InvalidSource) as error:
        services.start_import(team=team, actor=actor, name="Bad", files={Split.TRAIN: upload(content)})
    return error.value


def columns_of(team, actor, content):
    with team_scope(team.pk):
        version = services.start_import(team=team, actor=actor, name="Table", files={Split.TRAIN: upload(content)})
        source = version.sources.get()
        return source, [record.values for record in sources.open_source(source).records()]


def test_the_same_rows_give_the_same_version_in_every_format(team, actor, db):
    alike = {
        "csv": csv_bytes(ROWS),
        "csv with a mark": b"\xef\xbb\xbf" + csv_bytes(ROWS),
        "semicolons": _delimited(ROWS, ";"),
        "tsv": _delimited(ROWS, "\t"),
        "jsonl": jsonl_bytes(OBJECTS),
        "json": array_bytes(OBJECTS),
        "xlsx": xlsx_bytes(ROWS),
        "parquet": parquet_bytes(ROWS),
        "parquet with dictionaries": parquet_bytes(ROWS, use_dictionary=True, compression="zstd"),
        "zip of csv": zip_of({"tickets.csv": csv_bytes(ROWS)}),
        "zip of xlsx": zip_of({"tickets.xlsx": xlsx_bytes(ROWS)}),
        "zip of parquet": zip_of({"tickets.parquet": parquet_bytes(ROWS)}),
        "gzip": gzip_bytes(csv_bytes(ROWS)),
    }
    versions = {name: imported(team, actor, content, name) for name, content in alike.items()}
    for encoding in ("utf-16", "utf-16-le", "cp1251"):
        rows = [(prompt.replace("—", "-"), answer) for prompt, answer in ROWS]
        one = _delimited(rows, ",", encoding)
        other = csv_bytes(rows)
        pair = imported(team, actor, one, reading=sources.Reading(encoding)), imported(team, actor, other, encoding)
        assert pair[0].content_hash == pair[1].content_hash, encoding
    assert {version.status for version in versions.values()} == {"ready"}
    hashes = {name: version.content_hash for name, version in versions.items()}
    assert len(set(hashes.values())) == 1, hashes
    assert {version.total_rows for version in versions.values()} == {100}


def test_rows_of_a_sheet_keep_their_numbers(team, actor):
    lines = [(), (), ("prompt", "response"), ("First", "1"), (), ("No answer", None), ("Last", 2.0)]
    content = xlsx_bytes([], header=(), Data=lines)
    source, rows = columns_of(team, actor, content)
    assert (source.container, source.kind, source.columns) == ("xlsx", "jsonl", ["prompt", "response"])
    assert [row["response"] for row in rows] == ["1", "", "2"]
    with team_scope(team.pk), pytest.raises(InvalidSource) as error:
        services.import_files(team=team, actor=actor, name="Bad", files={Split.TRAIN: upload(content)})
    assert [detail["line"] for detail in error.value.details] == [6]
    assert "Row 6" in error.value.message


def test_cells_become_predictable_text():
    cells = [
        None, True, 5, 5.0, 0.1, float("nan"), 1e300, Decimal("1.50"), date(2026, 1, 2),
        datetime(2026, 1, 2, 3, 4, 5), time(4, 5), "x", b"abc",
    ]  # fmt: skip
    assert [as_cell(cell) for cell in cells] == [
        "", "true", "5", "5", "0.1", "", "1e+300", "1.5", "2026-01-02", "2026-01-02 03:04:05", "04:05:00", "x", "abc",
    ]  # fmt: skip
    nested = {"a": [1, 2.5, None, date(2026, 1, 2)], "b": [("k", 1), ("l", 2)]}
    assert as_cell(nested) == {"a": [1, 2.5, None, "2026-01-02"], "b": {"k": 1, "l": 2}}


def test_typed_cells_of_both_formats_read_alike(team, actor):
    values = [("a", True, 5, 0.5, date(2026, 1, 2)), ("b", False, -1, 2.25, date(2025, 12, 31))]
    header = ("text", "flag", "number", "share", "day")
    found = [columns_of(team, actor, make(values, header))[1] for make in (xlsx_bytes, parquet_bytes)[:1]]
    with team_scope(team.pk):
        team.datasets.all().delete()
    found += [columns_of(team, actor, parquet_bytes(values, header))[1]]
    assert found[0] == found[1]
    assert list(found[0][0].values()) == ["a", "true", "5", "0.5", "2026-01-02"]


def test_the_first_sheet_with_rows_is_taken_and_the_others_are_offered(team, actor, django_capture_on_commit_callbacks):
    book = xlsx_bytes([], header=(), Notes=[("Only a header",)], Rows=[NAMES, ("a", "b")], More=[NAMES, ("c", "d")])
    source, rows = columns_of(team, actor, book)
    assert (source.part, source.parts) == ("Rows", ["Data", "Notes", "Rows", "More"])
    assert rows == [{"prompt": "a", "response": "b"}]
    with team_scope(team.pk):
        assert [
            one.values["prompt"] for one in sources.open_source(source, sources.Reading(part="More")).records()
        ] == ["c"]
        assert source.part == "Rows"  # a look changes nothing
        with django_capture_on_commit_callbacks(execute=True):
            sources.read_as(source, sources.Reading(part="More"))
        assert sources.open_source(source).sample(1)[0].values["prompt"] == "c"
        assert sorted(path.suffix for path in source.version.folder.iterdir()) == [".bin", ".txt"]


def test_sheets_that_were_looked_at_take_no_place_for_long(team, actor):
    small, large = [NAMES, ("a", "b")], [NAMES, *tickets(60)]
    source, _rows = columns_of(team, actor, xlsx_bytes([("c", "d")], One=small, Two=small, Large=large))
    for part in ("One", "Two", "One"):
        sources.open_source(source, sources.Reading(part=part))
    assert {path.name for path in source.version.folder.glob("*.txt")} == {
        source.path_of(part).name for part in ("Data", "One")
    }
    with team_scope(team.pk):
        team.teamlimits.create(kind=Quota.STORAGE_BYTES, value=usage.storage_bytes(team) + 100)
        begin = {"version": source.version, "actor": actor, "mapping": sources.guess(source)}
        with pytest.raises(QuotaExceeded):
            services.begin_import(**begin, readings={Split.TRAIN: sources.Reading(part="Large")})
        assert source.path.exists()
        services.begin_import(**begin, readings={Split.TRAIN: sources.Reading(part="Two")})


def test_two_looks_at_once_do_not_meet(team, actor, monkeypatch):
    source, _rows = columns_of(team, actor, xlsx_bytes([("c", "d")]))
    places, run = [], unpacking.run_capped

    def noted(path, arguments, **more):
        places.append(arguments["out"])
        return run(path, arguments, **more)

    monkeypatch.setattr(unpacking, "run_capped", noted)
    unpacking.unpack(source)
    unpacking.unpack(source)
    assert len(set(places)) == 2
    assert len(list(source.version.folder.iterdir())) == 2


def test_progress_is_measured_in_unpacked_bytes(team, actor):
    source, _rows = columns_of(team, actor, gzip_bytes(csv_bytes(tickets(500))))
    assert source.unpacked_bytes > source.size_bytes
    source.version.bytes_done = source.size_bytes + 1
    with team_scope(team.pk):
        shown = progress_context(source.version)
    assert (shown["bytes_total"], shown["is_writing"]) == (source.unpacked_bytes, False)


@pytest.mark.parametrize("make", [zip_of, lambda parts: xlsx_bytes([], header=(), **parts)], ids=["zip", "xlsx"])
def test_tables_named_after_splits_become_them(team, actor, make):
    rows = {"train": tickets(8), "valid": tickets(3), "test": tickets(2)}
    if make is zip_of:
        content = zip_of({f"data/{name}.csv": csv_bytes(part) for name, part in rows.items()} | {"README.md": b"x"})
    else:
        content = make({name: [NAMES, *part] for name, part in rows.items()})
    version = imported(team, actor, content)
    assert (version.train_rows, version.validation_rows, version.test_rows) == (8, 3, 2)
    with team_scope(team.pk):
        stored = sources.in_order(version)
        assert [one.within_id for one in stored] == [None, stored[0].pk, stored[0].pk]
        uploaded = len(content) + sum(one.unpacked_bytes for one in stored) + version.size_bytes
        assert usage.storage_bytes(team) == uploaded


def test_nested_conversations_of_parquet(team, actor):
    turns = [[{"from": "human", "value": f"Question {n}"}, {"from": "gpt", "value": f"Answer {n}"}] for n in range(9)]
    version = imported(team, actor, arrow_bytes(pyarrow.table({"id": list(range(9)), "conversations": turns})))
    assert (version.status, version.total_rows) == ("ready", 9)


def test_bytes_that_are_no_text_are_reported_with_their_row(team, actor):
    good = [b"fine"] * 5
    texts = pyarrow.array([*good, b"bro\xffken"], pyarrow.binary()).view(pyarrow.string())
    content = arrow_bytes(pyarrow.table({"prompt": texts, "response": ["a", "b", "c", "d", "e", "f"]}))
    with team_scope(team.pk), pytest.raises(InvalidSource) as error:
        services.import_files(team=team, actor=actor, name="Bad", files={Split.TRAIN: upload(content)})
    assert [(one["line"], one["code"]) for one in error.value.details] == [(6, "surrogate")]


ONE = csv_bytes(tickets(3))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (zip_of({"../../etc/passwd.csv": ONE}), "archive_unsafe"),
        (zip_of({"/etc/passwd.csv": ONE}), "archive_unsafe"),
        (zip_of({"C:\\tickets.csv": ONE}), "archive_unsafe"),
        (zip_of({"inner.csv": zip_of({"tickets.csv": ONE})}), "archive_nested"),
        (zip_of({"inner.csv": gzip_bytes(ONE)}), "archive_nested"),
        (zip_of({"readme.txt": b"Hello", "picture.png": b"\x89PNG"}), "archive_no_table"),
        (zip_of({"tickets.csv": b"%PDF-1.7 not a table"}), "not_a_table"),
        (zip_of({"word/document.xml": b"<x/>"}), "not_a_table"),
        (zip_of({f"{n}.csv": b"" for n in range(1001)}), "archive_entries"),
        (zip_of({"x" * 252 + ".csv": ONE}), "archive_long_name"),
        (zip_of({"tickets.csv": ONE})[:-30], "container_damaged"),
        (zip_of({"tickets.csv": ONE}, method=14), "archive_method"),
        (gzip_bytes(ONE)[:-12], "container_damaged"),
        (gzip_bytes(b"\x89PNG\r\n\x1a\n"), "not_a_table"),
        (gzip_bytes(gzip_bytes(ONE)), "not_a_table"),
        (parquet_bytes(tickets(3))[:-9], "container_damaged"),
        (b"PAR1" + b"\0" * 200 + b"\xff\xff\xff\x00PAR1", "container_damaged"),
        (b"PARE" + b"\0" * 200 + b"\x10\x00\x00\x00PARE", "parquet_encrypted"),
        (xlsx_bytes([]), "workbook_empty"),
        (xlsx_bytes([("a", "b", "c")]), "sheet_beyond_header"),
        (xlsx_bytes([("a", "b")], header=("prompt", None, "x")), "header_empty_name"),
        (xlsx_bytes([("a", "b")], header=("prompt", "prompt")), "header_duplicate"),
        (b'[{"prompt": "a", "response": "b"}, {"prompt": ]', "json_array_broken"),
        (b'[{"prompt": "\xff"}]', "json_not_utf8"),
        (b"[" * 100_000, "json_array_broken"),
        (b'[{"prompt": "a", "response": "b"}]\n[{"prompt": "c", "response": "d"}]', "json_array_broken"),
        (b'[{"prompt": "a", "response": "b"} {"prompt": "c", "response": "d"}]', "json_array_broken"),
        (b'[{"prompt": "a", "response": "b"}] and more', "json_array_broken"),
        (b"[]", "empty_file"),
    ],
)  # fmt: skip
def test_refusals(team, actor, content, code):
    error = refused(team, actor, content)
    assert error.code == code
    assert error.message.startswith("“tickets.csv”")
    assert not list((team.folder / "datasets").glob("*"))


def test_the_child_gets_a_whole_workbook_within_its_memory(tmp_path):
    path = tmp_path / "book.bin"
    path.write_bytes(xlsx_bytes([(f"Row {n}", n) for n in range(5_000)]))
    limits = {"max_rows": 6_000}
    found = run_capped(
        "datasets_app.readers.containers.unpacking:unpack",
        {"path": str(path), "out": str(tmp_path / "out"), "part": "", "limits": limits},
        memory_bytes=512 << 20,
        cpu_seconds=30,
    )
    assert found["container"] == "xlsx"
    lines = (tmp_path / "out").read_text().split("\n")
    assert json.loads(lines[5_000]) == {"prompt": "Row 4999", "response": "4999"}


def test_a_program_chooses_the_sheet(api):
    book = xlsx_bytes(tickets(4), More=[("q", "answer"), ("x", "y"), ("z", "w")])
    sent = {"name": "Book", "file": upload(book, "book.xlsx"), "part": "More", "encoding": "cp1251"}
    answer = api.post("/api/datasets/", sent)
    assert answer.status_code == 201, answer.content
    [source] = answer.json()["sources"]
    assert (source["part"], source["parts"], source["columns"]) == ("More", ["Data", "More"], ["q", "answer"])
    assert source["encoding"] == "utf-8"  # what we wrote ourselves is in no other encoding
    sent = {"name": "None", "file": upload(book, "book.xlsx"), "part": "Less"}
    answer = api.post("/api/datasets/", sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "part_missing")
    assert api.post("/api/datasets/", {"name": "CSV", "file": upload(ONE), "part": "Less"}).status_code == 201


def test_a_full_disk_is_said(api, team, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sources, "_copy", full)
    answer = api.post("/api/datasets/", {"name": "T", "file": upload(ONE)})
    assert answer.status_code == 503
    assert "disk is full" in answer.json()["error"]["message"]
    assert not list((team.folder / "datasets").glob("*"))
