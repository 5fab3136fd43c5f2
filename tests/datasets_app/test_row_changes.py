"""Searching rows, and changes that several people make and one saves."""

from __future__ import annotations

import json
import time

import pytest

from datasets_app import row_changes, store, tasks
from datasets_app.models import DatasetVersion, Split
from datasets_app.row_search import Place, Query, find
from datasets_app.rows import CanonicalRow
from datasets_app.stored_rows import present_paths
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput, NotFound
from tests.datasets_app.test_derive import fresh, rows_of

pytestmark = pytest.mark.django_db


def rows(count: int) -> list[CanonicalRow]:
    return [
        CanonicalRow(
            row=number + 1,
            messages=(
                {"role": "user", "content": f"Ticket {number} über Straße"},
                {"role": "assistant", "content": json.dumps({"service": ("VPN", "Mail", None, "null")[number % 4]})},
            ),
            id=number,
        )
        for number in range(1, count + 1)
    ]


@pytest.fixture
def paths(tmp_path):
    every = rows(300)
    for split, part in ((Split.TRAIN, every[:200]), (Split.TEST, every[200:])):
        store.write_rows(tmp_path / f"{split.value}.parquet", part)
    return {split: tmp_path / f"{split.value}.parquet" for split in (Split.TRAIN, Split.TEST)}


def every_page(paths, query: Query, count: int = 7, seconds: float = 9) -> list[tuple[str, int]]:
    found, after, pages = [], None, 0
    while True:
        page = find(paths, query, count=count, after=after, seconds=seconds)
        assert len(page.rows) <= count
        found += [(split.value, row.id) for split, row in page.rows]
        after, pages = page.next, pages + 1
        assert pages < 400
        if after is None:
            return found
        assert Place.parse(str(after)) == after


def test_pages_hold_every_row_once(paths):
    assert every_page(paths, Query()) == [("train", n) for n in range(1, 201)] + [("test", n) for n in range(201, 301)]
    # Out of time after each group: still complete.
    assert len(every_page(paths, Query(), seconds=0)) == 300


@pytest.mark.parametrize(
    ("query", "fits"),
    [
        (Query(text="ticket 17 "), lambda n: n == 17),
        (Query(text="STRASSE"), lambda n: False),
        (Query(text="STRAßE"), lambda n: True),
        (Query(text="ÜBER"), lambda n: True),
        (Query(text=".*"), lambda n: False),
        (Query(field="service", value="VPN"), lambda n: n % 4 == 0),
        (Query(field="service", value="null"), lambda n: n % 4 == 2),
        (Query(field="service", value='"null"'), lambda n: n % 4 == 3),
        (Query(field="service"), lambda n: True),
        (Query(field="servic"), lambda n: False),
        (Query(text="ticket 2", field="service", value="Mail"), lambda n: n % 4 == 1 and str(n).startswith("2")),
        (Query(ids=frozenset([3, 250, 999])), lambda n: n in (3, 250)),
        (Query(ids=frozenset()), lambda n: False),
    ],
)
def test_what_is_looked_for_is_found(paths, query, fits):
    assert [number for _split, number in every_page(paths, query)] == [n for n in range(1, 301) if fits(n)]


@pytest.mark.parametrize("text", ["", "train", "exam:3", "train:-1", "train:x", "train:1" + "0" * 40])
def test_other_places_are_none(text):
    assert Place.parse(text) is None


def test_a_search_that_finds_nothing_ends_soon(tmp_path):
    store.write_rows(tmp_path / "train.parquet", rows(60_000))
    began_s = time.monotonic()
    found = find({Split.TRAIN: tmp_path / "train.parquet"}, Query(text="zzz"), count=20, seconds=0.05)
    assert time.monotonic() - began_s < 2
    assert found.rows == ()
    assert found.next is None or found.searched < 60_000


def change(version: DatasetVersion, actor: Actor, changes: dict, **options) -> int:
    return row_changes.change_rows(version=version, actor=actor, changes=changes, **options)


def test_several_people_change_and_one_saves(scoped, ready_version, actor, bob):
    other = Actor(user=bob)
    before = rows_of(ready_version)
    assert change(ready_version, actor, {1: {"prompt": "New"}, 2: {"is_excluded": True}}) == 2
    assert change(ready_version, other, {3: {"split": "test"}, 1: {"is_excluded": False, "answer": "{}"}}) == 3
    standing = row_changes.waiting(ready_version)
    assert (standing.total, standing.edited, standing.excluded, standing.moved) == (3, 1, 1, 1)
    assert rows_of(ready_version) == before
    derived = row_changes.save_changes(version=ready_version, actor=actor, note="Together")
    assert row_changes.waiting(ready_version).total == 0
    tasks.import_version(str(derived.pk))
    after = rows_of(fresh(derived))
    assert after[1] == ("train", "New", "{}")
    assert after[3][0] == "test"
    assert set(before) - set(after) == {2}
    with pytest.raises(InvalidInput):
        row_changes.save_changes(version=ready_version, actor=actor)


def test_what_becomes_as_it_was_waits_no_more(scoped, ready_version, actor):
    prompt = rows_of(ready_version)[1][1]
    change(ready_version, actor, {1: {"prompt": "New", "is_excluded": True, "split": "test"}})
    assert change(ready_version, actor, {1: {"prompt": prompt}}) == 1
    assert change(ready_version, actor, {1: {"is_excluded": False}}) == 1
    assert change(ready_version, actor, {1: {"split": "train"}}) == 0
    change(ready_version, actor, {1: {"prompt": "New"}, 2: {"is_excluded": True}})
    assert row_changes.undo_changes(version=ready_version, actor=actor, ids=[2]) == 1
    assert row_changes.undo_changes(version=ready_version, actor=actor) == 1
    assert row_changes.undo_changes(version=ready_version, actor=actor) == 0


def test_nobody_overwrites_what_they_have_not_seen(scoped, ready_version, actor, bob):
    change(ready_version, actor, {1: {"prompt": "Mine"}}, seen="none")
    mark = row_changes.mark_of(ready_version.row_changes.get())
    change(ready_version, Actor(user=bob), {1: {"prompt": "Theirs"}}, seen=mark)
    with pytest.raises(IllegalTransition) as refused:
        change(ready_version, actor, {1: {"prompt": "Mine again"}}, seen=mark)
    assert refused.value.code == "changed_meanwhile"
    assert ready_version.row_changes.get().texts == {"prompt": "Theirs"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({}, InvalidInput),
        ({99: {"prompt": "x"}}, NotFound),
        ({1: {"prompt": " "}}, InvalidInput),
        ({1: {"answer": "a\0"}}, InvalidInput),
        ({1: {"split": "exam"}}, InvalidInput),
        ({1: {"excluded": True}}, InvalidInput),
        ({number: {"is_excluded": True} for number in range(1, 1002)}, InvalidInput),
    ],
)
def test_nonsense_is_refused(scoped, ready_version, actor, changes, error):
    with pytest.raises(error):
        change(ready_version, actor, changes)
    assert row_changes.waiting(ready_version).total == 0


def test_answers_that_have_to_be_json_stay_json(scoped, ready_version, actor):
    ready_version.mapping["json_answers"] = True
    with pytest.raises(InvalidInput) as refused:
        change(ready_version, actor, {1: {"answer": "VPN"}})
    assert refused.value.code == "not_json"
    assert change(ready_version, actor, {1: {"answer": '{"service": "VPN"}'}}) == 1
    assert present_paths(ready_version)
