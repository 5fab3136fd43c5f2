"""Rows on disk: what is written comes back, in pages, by id, and as JSON lines; a file is whole or not there."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_app import store
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.rows import CanonicalRow
from datasets_app.stored_rows import StoredRows, exported
from datasets_app.upgrading import convert_old_versions
from portal.rls import all_teams

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30)


@st.composite
def conversations(draw):
    """Messages as an import lets them through: perhaps a system prompt, then questions and answers in turn.

    Answers but the last may be ones that are not learned.
    """
    messages = [{"role": "system", "content": draw(TEXT)}] if draw(st.booleans()) else []
    for turns_left in reversed(range(draw(st.integers(1, 3)))):
        weight = {"weight": 0} if turns_left and draw(st.booleans()) else {}
        messages += {"role": "user", "content": draw(TEXT)}, {"role": "assistant", "content": draw(TEXT), **weight}
    return tuple(messages)


ROWS = st.lists(
    st.builds(CanonicalRow, st.integers(1, 2**31), conversations(), st.integers(1, 2**40), TEXT, TEXT), max_size=20
)


def plain(number, prompt="Hi", answer="there"):
    messages = ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer})
    return CanonicalRow(number + 1, messages, number)


@pytest.mark.slow
@given(rows=ROWS)
def test_rows_come_back_as_they_were(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "train.parquet"
    written = store.write_rows(path, rows)
    assert written.rows == len(rows)
    assert path.exists() == bool(rows)
    if rows:
        assert list(store.read_rows(path)) == rows
        assert written.size_bytes == path.stat().st_size
        out = path.with_suffix(".jsonl")
        store.export_jsonl(path, out)
        assert [row.messages for row in store.read_jsonl(out)] == [row.messages for row in rows]
        assert [row.row for row in store.read_jsonl(out)] == [row.row for row in rows]


@pytest.mark.slow
@given(rows=ROWS, start=st.integers(0, 25), length=st.integers(0, 25))
def test_a_slice_is_that_of_the_list(rows, start, length, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "train.parquet"
    store.ROWS_PER_GROUP, before = 3, store.ROWS_PER_GROUP  # several groups from few rows
    try:
        store.write_rows(path, rows)
    finally:
        store.ROWS_PER_GROUP = before
    if rows:
        assert store.read_slice(path, start, start + length) == rows[start : start + length]


@pytest.mark.slow
@given(one=ROWS, other=ROWS)
def test_hashes_are_equal_exactly_if_the_conversations_are(one, other):
    def hash_of(rows):
        known = store.RowsHash()
        for row in rows:
            known.add(row.messages)
        return known.hexdigest()

    same = [row.messages for row in one] == [row.messages for row in other]
    assert (hash_of(one) == hash_of(other)) is same
    assert hash_of(one) == hash_of([replace(row, id=7, row=9, group="x", at="2026") for row in one])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([plain(1, "a", "bc")], [plain(1, "ab", "c")]),
        ([plain(1), plain(2)], [plain(1)]),
        ([plain(1, "1", "2"), plain(2, "3", "4")], [plain(2, "3", "4"), plain(1, "1", "2")]),
    ],
)
def test_rows_that_look_alike_have_other_hashes(left, right, tmp_path):
    assert store.write_rows(tmp_path / "a", left).sha256 != store.write_rows(tmp_path / "b", right).sha256


def test_large_files_have_groups_and_are_found_by_id(tmp_path):
    path = tmp_path / "train.parquet"
    store.write_rows(path, (plain(number, f"Ticket {number}") for number in range(1, 10_001)))
    assert store.count_rows(path) == 10_000
    assert [row.id for row in store.read_slice(path, 4_090, 4_100)] == list(range(4_091, 4_101))
    assert store.read_slice(path, 9_999, 20_000) == [plain(10_000, "Ticket 10000")]
    assert [row.id for row in store.read_ids(path, [9_000, 5, 5, 77_777])] == [5, 9_000]
    assert store.read_ids(path, []) == []


def test_groups_are_small_in_bytes_too(tmp_path, monkeypatch):
    def groups_of(path):
        metadata = pq.ParquetFile(path).metadata
        return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    monkeypatch.setattr(store, "CHARACTERS_PER_GROUP", 50_000)
    monkeypatch.setattr(store, "BYTES_PER_GROUP", 100_000)
    staged, path = tmp_path / "staged.parquet", tmp_path / "train.parquet"
    with store.RowWriter(staged, staging=True) as out:
        for number in range(600):
            row = plain(number)
            system = {"role": "system", "content": f"{number:06}" * 200}
            out.add(replace(row, messages=(system, *row.messages)))
    assert max(groups_of(staged)) < 60
    with store.RowWriter(path) as out:
        for _part, table in store.divided_rows(staged, np.zeros(600, dtype=np.int8)):
            out.add_table(table)
    assert max(groups_of(path)) < 100
    assert list(store.read_rows(path)) == list(store.read_rows(staged))
    with store.RowWriter(path) as out:
        out.add_table(pq.read_table(staged))
    assert max(groups_of(path)) < 100


def test_nothing_is_left_of_a_file_that_could_not_be_finished(tmp_path):
    path = tmp_path / "train.parquet"
    store.write_rows(path, [plain(1)])

    def rows():
        yield plain(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.write_rows(path, rows())
    assert list(store.read_rows(path)) == [plain(1)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_missing(tmp_path):
    for read in (lambda path: list(store.read_rows(path)), store.count_rows, lambda path: store.read_slice(path, 0, 1)):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.parquet")


@pytest.mark.django_db
def test_versions_of_old_keep_their_rows(team):
    with all_teams("test"):
        dataset = Dataset.unscoped.create(team=team, name="Old")
        version = DatasetVersion.unscoped.create(
            team=team, dataset=dataset, number=1, status="ready", train_rows=3, test_rows=2, content_hash="old"
        )
        version.folder.mkdir(parents=True)
        rows = [plain(number, f"Ticket {number}") for number in range(1, 6)]
        lines = [row.to_json() + "\n" for row in rows]
        (version.folder / "train.jsonl").write_text("".join(lines[:3]))
        (version.folder / "test.jsonl").write_text("".join(lines[3:]))
        assert convert_old_versions() == 1
        version.refresh_from_db()
        assert list(StoredRows(version, "train")) == rows[:3]
        assert list(StoredRows(version, "test")) == rows[3:]
        parts = {
            split: store.write_rows(version.rows_path(split), StoredRows(version, split)) for split in ("train", "test")
        }
        assert version.content_hash == store.content_hash(parts)
        assert version.size_bytes == sum(part.size_bytes for part in parts.values())
        assert exported(version, "train").read_text() == "".join(lines[:3])
        assert not (version.folder / "train.jsonl").exists()
        assert convert_old_versions() == 0


@pytest.mark.django_db
def test_a_version_of_old_with_damaged_rows_stays_as_it_is(team):
    with all_teams("test"):
        dataset = Dataset.unscoped.create(team=team, name="Old")
        version = DatasetVersion.unscoped.create(
            team=team, dataset=dataset, number=1, status="ready", train_rows=3, content_hash="old"
        )
        version.folder.mkdir(parents=True)
        (version.folder / "train.jsonl").write_text(json.dumps({"row": 2, "messages": []})[:-4])
        assert convert_old_versions() == 0
        version.refresh_from_db()
        assert version.content_hash == "old"
        assert (version.folder / "train.jsonl").exists()
