"""The benchmark of imports lets every subject read the same table, and counts what it says it counts."""

import csv

import pytest

from gpu_worker.benchmarks import imports, imports_measure

pytestmark = pytest.mark.slow


def test_every_subject_reads_the_whole_table(tmp_path):
    table = imports.write_table(tmp_path / "tickets.csv", 300)
    with table.open(encoding="utf-8", newline="") as file:
        assert len({row["prompt"] for row in csv.DictReader(file)}) == 300
    measured = {}
    for subject in imports.SUBJECTS:
        if subject != "pandas":  # it is only there where benchmarks are run
            measured[subject] = [imports_measure._read(subject, str(table), str(tmp_path / "rows"))]
            assert measured[subject][0]["rows"] == 300
            assert measured[subject][0]["resident_mb"] > 1
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == [
        "made.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]
    pages = {"stored_mb": 1.0, "pages": {"first page": (1.0, 2.0)}}
    section = imports._section(table, measured, pages)
    assert "A table of 300 tickets" in section
    assert "| first page | 1 | 2 |" in section
