"""The benchmark of the doctor plants what it says and finds it again."""

import pytest

from gpu_worker.benchmarks import doctor
from tests.tiny_model import make_tiny_model

pytestmark = pytest.mark.slow


def test_a_small_one_finds_what_was_planted(tmp_path):
    tickets = list(doctor._tickets(1500))
    measured = doctor.measure(tickets, make_tiny_model(tmp_path / "tiny"))
    assert measured.recall["duplicate"] == (7, 7)
    assert measured.recall["leak"] == (3, 3)
    assert measured.recall["pii_phone"][0] >= 4
    assert measured.recall["near_duplicate"][0] >= 6
    assert measured.report.tokens is not None
    assert set(measured.report.timings) == set(doctor.PARTS)
    section = doctor.render(measured, rows=len(tickets), characters=250)
    assert "duplicate 7 of 7" in section
    assert "near duplicates" in section
