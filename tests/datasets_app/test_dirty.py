"""Dirty files through the real import: each gives exactly the report that it must, and nothing half-made stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datasets_app import services, tasks
from datasets_app.models import DatasetVersion, Split
from datasets_app.sources import Reading
from portal.errors import PortalError
from portal.rls import team_scope
from tests.datasets_app.dirty.make import FILES
from tests.datasets_app.files import upload

FOLDER = Path(__file__).parent / "dirty"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "expected.json").read_text())


def test_every_file_has_its_report():
    kept = {path.name for path in FOLDER.iterdir() if path.suffix not in (".py", ".pyc") and path.is_file()}
    assert kept - {"expected.json"} == set(FILES) == set(EXPECTED)
    assert len(EXPECTED) >= 30


def begin(team, actor, name: str, *, skip: bool, encoding: str = "") -> DatasetVersion:
    with team_scope(team.pk):
        return services.import_files(
            team=team,
            actor=actor,
            name="Dirty",
            files={Split.TRAIN: upload((FOLDER / name).read_bytes(), name)},
            options={"skip_faulty": skip},
            reading=Reading(encoding) if encoding else None,
        )


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_report_is_as_expected(team, actor, settings, name):
    expected = EXPECTED[name]
    if code := expected.get("refused"):
        with pytest.raises(PortalError) as refused:
            begin(team, actor, name, skip=True)
        assert refused.value.code == code
        assert refused.value.status < 500
        assert refused.value.message
    if faults := expected.get("faults"):
        with pytest.raises(PortalError) as refused:
            begin(team, actor, name, skip=False)
        found = [[one["line"], one["column"], one["code"]] for one in refused.value.details]
        assert found == faults
        assert f"{found[0][0]}" in refused.value.message
    assert not list((team.folder / "datasets").glob("*"))
    if "rows" in expected:
        version = begin(team, actor, name, skip=True, encoding=expected.get("encoding", ""))
        tasks.import_version(str(version.pk))
        with team_scope(team.pk):
            version = DatasetVersion.unscoped.get(pk=version.pk)
            assert (version.status, version.total_rows) == ("ready", expected["rows"])
            reported = [[one["line"], one["column"], one["code"]] for one in version.report.get("faults", [])]
            assert reported == expected.get("faults", [])
