"""The one pass of an import: rows are written, faults named, and one file divided."""

import json
from pathlib import Path

import pytest

from datasets_app import conversion
from datasets_app.conversion import FaultyRows, Source, SourceRefused
from datasets_app.mapping import Mapping, MappingError
from datasets_app.readers import DEFAULT_LIMITS, DataError, Limits
from datasets_app.splits import SplitPlan
from datasets_app.store import read_rows

MAPPING = Mapping(prompt="prompt", response="response")
TEXT = 'prompt,response\na,1\n"b\nc",2\nbroken\n,4\nd,5\n'
ALL_TRAINING = SplitPlan(shares={"train": 1.0})


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.bin"
    path.write_text(TEXT)
    return path


def no_beat(rows, size_bytes):
    pass


def convert(path: Path, folder: Path, mapping=MAPPING, *, here=True, beat=no_beat, limits=DEFAULT_LIMITS, **options):
    """Import one file; in this process, because a child takes its time."""
    work = conversion.convert_here if here else conversion.convert
    source = Source("train", path.name, path, "", "", path.stat().st_size)
    chosen = {"skip_faulty": False, "plan": ALL_TRAINING} | options
    folder.mkdir(exist_ok=True)
    return work([source], mapping, folder, limits=limits, beat=beat, **chosen)


@pytest.mark.parametrize("here", [True, False])
def test_good_rows_are_written_and_faults_named(source, tmp_path, here):
    made = convert(source, tmp_path / "out", here=here, skip_faulty=True)
    assert [(row.id, row.row, row.prompt, row.answer) for row in read_rows(tmp_path / "out" / "train.parquet")] == [
        (1, 2, "a", "1"),
        (2, 3, "b\nc", "2"),
        (3, 7, "d", "5"),
    ]
    assert made.rows == {"train": 3}
    assert made.size_bytes == (tmp_path / "out" / "train.parquet").stat().st_size
    assert [(fault["line"], fault["code"]) for fault in made.report["faults"]] == [(5, "ragged"), (6, "empty_prompt")]
    assert made.report["fault_count"] == 2
    assert json.loads(json.dumps(made.report)) == made.report
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.parquet"]


def test_faults_are_counted_but_only_the_first_are_kept(source, tmp_path):
    source.write_text("prompt,response\n" + "x\n" * 50 + "a,b\n")
    made = convert(source, tmp_path / "out", skip_faulty=True, limits=Limits(max_faults=10))
    assert (len(made.report["faults"]), made.report["fault_count"], made.rows) == (10, 50, {"train": 1})


@pytest.mark.parametrize("here", [True, False])
def test_a_faulty_row_stops_the_import_and_leaves_nothing(source, tmp_path, here):
    with pytest.raises(FaultyRows) as found:
        convert(source, tmp_path / "out", here=here)
    assert [fault["line"] for fault in found.value.faults.shown] == [5, 6]
    assert found.value.faults.count == 2
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("here", [True, False])
def test_a_mapping_that_does_not_fit_is_refused(source, tmp_path, here):
    with pytest.raises(SourceRefused, match="“answer” is not in the file") as refused:
        convert(source, tmp_path / "out", Mapping(prompt="prompt", response="answer"), here=here)
    assert isinstance(refused.value.error, MappingError)
    assert refused.value.source.name == "source.bin"


def test_a_source_without_good_rows_is_refused(source, tmp_path):
    source.write_text("prompt,response\n,\n")
    with pytest.raises(SourceRefused, match="No row") as refused:
        convert(source, tmp_path / "out", skip_faulty=True)
    assert isinstance(refused.value.error, DataError)
    assert list((tmp_path / "out").iterdir()) == []


def test_checking_reads_everything_and_writes_nothing(source, tmp_path):
    stored = Source("train", "source.bin", source, "", "", source.stat().st_size)
    told = []
    rows, faults = conversion.check(
        [stored], MAPPING, skip_faulty=True, limits=DEFAULT_LIMITS, beat=lambda *done: told.append(done)
    )
    assert (rows, faults.count) == ({"train": 3}, 2)
    assert told
    assert list(tmp_path.iterdir()) == [source]
    with pytest.raises(FaultyRows):
        conversion.check([stored], MAPPING, skip_faulty=False, limits=DEFAULT_LIMITS, beat=no_beat)


def test_content_hash_does_not_depend_on_the_form_of_the_source(tmp_path):
    forms = {
        "one": 'prompt,response\na,"1"\nb,2\n',
        "two": 'sep;prompt;"response"\nx;a;1\ny;b;2\n',
        "three": "prompt\tresponse\r\na\t1\r\nb\t2\r\n",
        "lines": '\n\n{"response": "1", "prompt": "a"}\n{"response": "2", "prompt": "b"}\n',
    }
    hashes = set()
    for name, text in forms.items():
        path = tmp_path / name
        path.write_text(text, newline="")
        hashes.add(convert(path, tmp_path / "out").content_hash)
    assert len(hashes) == 1


def test_what_stops_the_work_leaves_nothing(source, tmp_path):
    def stop(rows, size_bytes):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", skip_faulty=True, beat=stop)
    assert list((tmp_path / "out").iterdir()) == []


def test_progress_is_told(source, tmp_path):
    source.write_text("prompt,response\n" + "a,b\n" * 2_500)
    told = []
    convert(source, tmp_path / "out", beat=lambda *done: told.append(done))
    assert [rows for rows, _ in told][:3] == [1_000, 2_000, 2_500]
    positions = [size_bytes for _, size_bytes in told]
    assert positions == sorted(positions)
    assert positions[-1] == source.stat().st_size


def test_several_files_are_splits_with_ids_across_them(tmp_path):
    sources = []
    for split, text in {"train": "a,1\nb,2\n", "validation": "c,3\n", "test": "d,4\n"}.items():
        path = tmp_path / f"{split}.csv"
        path.write_text("prompt,response\n" + text)
        sources.append(Source(split, path.name, path, "", "", path.stat().st_size))
    made = conversion.convert_here(
        sources, MAPPING, tmp_path, skip_faulty=False, plan=SplitPlan(), limits=DEFAULT_LIMITS, beat=no_beat
    )
    assert made.rows == {"train": 2, "validation": 1, "test": 1}
    found = {split: [row.id for row in read_rows(tmp_path / f"{split}.parquet")] for split in made.rows}
    assert found == {"train": [1, 2], "validation": [3], "test": [4]}


def test_cells_place_a_row(tmp_path):
    path = tmp_path / "source.csv"
    path.write_text("prompt,response,thread,day,part\na,1,T1,2026-03-01,dev\nb,2,,,Train\nc,3,T1,01.04.2026,test\n")
    mapping = Mapping(prompt="prompt", response="response", group="thread", at="day", split="part")
    made = convert(path, tmp_path / "out", mapping, plan=SplitPlan(by="column"))
    assert made.rows == {"train": 1, "validation": 1, "test": 1}
    found = {split: next(iter(read_rows(tmp_path / "out" / f"{split}.parquet"))) for split in made.rows}
    assert (found["validation"].group, found["validation"].at) == ("T1", "2026-03-01")
    assert (found["test"].group, found["test"].at) == ("T1", "2026-04-01")
    assert (found["train"].group, found["train"].at, found["train"].id) == ("", "", 2)
    path.write_text("prompt,response,thread,day,part\na,1,,,evaluation set\n")
    with pytest.raises(FaultyRows) as faulty:
        convert(path, tmp_path / "out", mapping, plan=SplitPlan(by="column"))
    assert faulty.value.faults.shown[0]["code"] == "unknown_split"
