"""T-UP7: whatever the bytes of a container, unpacking it ends with rows or a typed error."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from datasets_app.capped import WorkRefused, run_capped
from datasets_app.readers.sentences import FILE_SENTENCES
from tests.datasets_app.containers import array_bytes, gzip_bytes, parquet_bytes, xlsx_bytes, zip_of
from tests.datasets_app.files import csv_bytes, tickets

pytestmark = pytest.mark.slow

ROWS = tickets(12)
SEEDS = {
    "xlsx": xlsx_bytes(ROWS),
    "parquet": parquet_bytes(ROWS),
    "zip": zip_of({"train.csv": csv_bytes(ROWS), "test.parquet": parquet_bytes(ROWS)}),
    "gzip": gzip_bytes(csv_bytes(ROWS)),
    "json": array_bytes([{"prompt": a, "response": b} for a, b in ROWS]),
    "xlsx in zip": zip_of({"train.xlsx": xlsx_bytes(ROWS)}, method=0),
}
KNOWN = {"ok", "work_memory", *FILE_SENTENCES}
# Where to change, and what: a share of the length, so that it fits every file.
CHANGE = st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from("rcid"), st.binary(min_size=1, max_size=9))
FILES = st.lists(st.one_of(st.lists(CHANGE, max_size=4), st.binary(max_size=60)), min_size=10, max_size=25)
# A smaller failing example is not worth a hundred children.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
QUICK = settings(max_examples=6, phases=PHASES, suppress_health_check=list(HealthCheck))


def changed(content: bytes, changes) -> bytes:
    for share, how, piece in changes:
        place = int(share * len(content))
        if how == "r":
            content = content[:place] + piece + content[place + len(piece) :]
        elif how == "c":
            content = content[:place]
        elif how == "i":
            content = content[:place] + piece + content[place:]
        else:
            content = content[:place] + content[place + len(piece) * 7 :]
    return content


def results_of(files: list[bytes]) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(files):
            (Path(folder) / f"{number:03}.bin").write_bytes(content)
        return run_capped(
            "tests.datasets_app.capped_work:unpack_each", {"folder": folder}, memory_bytes=1 << 30, cpu_seconds=60
        )


def answers_of(files: list[bytes]) -> dict[str, str] | None:
    """Return what became of the files, None if they were too much for the child; fail for anything else."""
    try:
        found = results_of(files)
    except WorkRefused as refused:
        if refused.code in ("work_memory", "work_crashed") and refused.message:
            return None
        raise
    assert set(found.values()) <= KNOWN
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_any_damage_ends_with_rows_or_a_typed_error(seed):
    assert results_of([SEEDS[seed]]) == {"000.bin": "ok"}

    @QUICK
    @given(plans=FILES)
    def check(plans):
        mark = SEEDS[seed][:4]
        files = [mark + plan if isinstance(plan, bytes) else changed(SEEDS[seed], plan) for plan in plans]
        found = answers_of(files)
        if found is None:  # one of them ended the child itself; alone, each ends with an answer or such a refusal
            for content in files:
                answers_of([content])

    check()
