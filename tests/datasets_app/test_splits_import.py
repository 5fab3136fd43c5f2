"""Imports and versions whose rows are divided: leaks are blocked, classes counted, test rows stay."""

from __future__ import annotations

import json

import pytest

from datasets_app import services, tasks
from datasets_app.derive import derive_version
from datasets_app.mapping import Mapping
from datasets_app.models import DatasetVersion, Split
from datasets_app.store import read_rows
from portal.errors import InvalidInput
from portal.rls import team_scope
from tests.datasets_app.files import csv_upload

pytestmark = pytest.mark.django_db

SERVICES = ("VPN", "Mail", "Printer")
OTHER = ("and nobody in the whole building can work", "since the update of last night", "please send somebody at once")


def tickets(count: int) -> list[tuple[str, str, str, str]]:
    """Rows of (question, answer, thread, date); every tenth question is asked again in other letter case."""
    rows = []
    for number in range(count):
        service = SERVICES[0 if number % 10 < 6 else 1 + number % 2]
        question = f"{service} {number:03} {OTHER[number % 3]} {hash_word(number)}"
        rows.append(
            (
                question,
                json.dumps({"service": service}),
                f"T{number // 2}",
                f"2026-0{1 + number // 50}-{1 + number % 28:02}",
            )
        )
        if number % 10 == 0:
            rows.append((question.upper(), json.dumps({"service": service}), "", ""))
    return rows


def hash_word(number: int) -> str:
    return " ".join(f"w{(number * 7919 + place * 104_729) % 9_973}" for place in range(8))


def imported(team, actor, rows=None, mapping=None, **options) -> DatasetVersion:
    files = {Split.TRAIN: csv_upload(rows or tickets(200), header=("prompt", "response", "thread", "day"))}
    mapping = mapping or Mapping(prompt="prompt", response="response")
    with team_scope(team.pk):
        version = services.import_files(
            team=team, actor=actor, name="Split", files=files, mapping=mapping, options=options
        )
    return worked(team, version)


def worked(team, version) -> DatasetVersion:
    tasks.import_version(str(version.pk))
    with team_scope(team.pk):
        version = team.datasetversions.select_related("team", "dataset").get(pk=version.pk)
    assert version.status == "ready", version.report
    return version


def rows_of(version) -> dict[str, list]:
    return {split.value: list(read_rows(version.rows_path(split))) for split in Split if version.row_count(split)}


def ids_of(version) -> dict[str, set[int]]:
    return {split: {row.id for row in rows} for split, rows in rows_of(version).items()}


def test_classes_have_the_same_shares_and_are_counted(team, actor):
    version = imported(team, actor)
    field = version.report["split_counts"]["fields"][0]
    assert field["name"] == "service"
    for split, rows in rows_of(version).items():
        found = [json.loads(row.answer)["service"] for row in rows]
        assert field["counts"][split] == [found.count(value) for value in field["values"]]
        assert abs(found.count("VPN") / len(rows) - 0.62) < 0.06
    assert version.report["split_counts"]["rows"] == {split: len(rows) for split, rows in rows_of(version).items()}


def test_repeated_questions_and_threads_are_never_divided(team, actor):
    version = imported(team, actor, mapping=Mapping(prompt="prompt", response="response", group="thread"))
    splits_of: dict[str, set[str]] = {}
    for split, rows in rows_of(version).items():
        for row in rows:
            splits_of.setdefault(row.prompt.lower(), set()).add(split)
            if row.group:
                splits_of.setdefault(f"thread {row.group}", set()).add(split)
    assert {len(splits) for splits in splits_of.values()} == {1}
    assert version.report["split_counts"]["together"] == 220
    assert not [one for one in version.report["warnings"] if one["code"].endswith("in_training")]


def test_the_newest_rows_become_test(team, actor):
    mapping = Mapping(prompt="prompt", response="response", at="day")
    version = imported(team, actor, mapping=mapping, split_by="time", keep_together="none")
    rows = rows_of(version)
    assert min(row.at for row in rows["test"]) >= max(row.at for row in rows["validation"])
    assert min(row.at for row in rows["validation"]) >= max(row.at for row in rows["train"])
    assert all(row.at for row in rows["test"])


def test_without_dates_time_cannot_divide(team, actor):
    with team_scope(team.pk):
        version = services.import_files(
            team=team,
            actor=actor,
            name="Split",
            files={Split.TRAIN: csv_upload([("a", "b"), ("c", "d")])},
            options={"split_by": "time"},
        )
        tasks.import_version(str(version.pk))
        version.refresh_from_db()
    assert version.status == "failed"
    assert version.report["error"]["code"] == "no_dates"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"split_by": "moon"}, "options.split_by"),
        ({"keep_together": 1}, "options.keep_together"),
        ({"stratify": ""}, "options.stratify"),
        ({"stratify": ["a"]}, "options.stratify"),
    ],
)
def test_options_are_checked_at_the_door(team, actor, options, param):
    with pytest.raises(InvalidInput) as refused:
        imported(team, actor, **options)
    assert refused.value.param == param


def test_a_version_is_divided_again(team, actor):
    version = imported(team, actor)
    before = ids_of(version)

    def divided(keep_test: bool, **options) -> dict[str, set[int]]:
        change = {"op": "resplit", "options": options, "keep_test": keep_test}
        with team_scope(team.pk):
            derived = derive_version(version=version, actor=actor, changes=[change])
        return ids_of(worked(team, derived))

    kept = divided(True, seed=5)
    assert kept["test"] == before["test"]
    assert kept["train"] != before["train"]
    assert divided(True, seed=5) == kept
    free = divided(False, seed=5, test_share=0.3)
    assert free["test"] != before["test"]
    for found in (kept, free):
        assert sorted(number for numbers in found.values() for number in numbers) == list(range(1, 221))
    assert ids_of(version) == before


@pytest.mark.parametrize(
    "change",
    [
        {"op": "resplit", "options": []},
        {"op": "resplit", "keep_test": "yes"},
        {"op": "resplit", "options": {"seed": -1}},
        {"op": "resplit", "option": {}},
    ],
)
def test_a_wrong_division_is_refused_at_the_door(team, actor, change):
    version = imported(team, actor, rows=tickets(10))
    with team_scope(team.pk), pytest.raises(InvalidInput):
        derive_version(version=version, actor=actor, changes=[change])


def test_the_page_shows_the_classes_of_every_split(team, actor, client):
    version = imported(team, actor, rows=tickets(30))
    client.force_login(actor.user)
    page = client.get(f"/t/{team.slug}/dataset-versions/{version.pk}/").content.decode()
    assert "Division of the answers" in page
    assert "6 rows repeat a question or a thread" in page
