"""Numbers as words and series as shapes."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.display import numbers, shapes

N = numbers.NBSP


@pytest.mark.parametrize(
    ("write", "value", "expected"),
    [
        (numbers.thousands, 1234567, "1,234,567"),
        (numbers.thousands, -1234, "−1,234"),
        (numbers.decimal, 1.005, "1.00"),
        (numbers.significant, 0.42131, "0.4213"),
        (numbers.significant, 2e-5, "2e-5"),
        (numbers.significant, 0.001, "0.001000"),
        (numbers.significant, 0, "0"),
        (numbers.significant, 12.3456, "12.35"),
        (numbers.compact, 940, "940"),
        (numbers.compact, 12_340, "12.3k"),
        (numbers.compact, 999_960, "1M"),
        (numbers.compact, 134_515_008, "135M"),
        (numbers.percent, 0.8741, "87.4%"),
        (numbers.percentage, 80, "80%"),
        (numbers.percentage, 12.5, "12.5%"),
        (numbers.percentage, 0.0001, "0.0001%"),
        (numbers.percentage, 2 / 3 * 100, "66.6667%"),
        (numbers.points, 0.0421, "+4.2"),
        (numbers.points, -0.0421, "−4.2"),
        (numbers.points, 0.0001, "0.0"),
        (numbers.filesize, 1, "1 byte"),
        (numbers.filesize, 999, "999 bytes"),
        (numbers.filesize, 1_432_000, f"1.4{N}MB"),
        (numbers.filesize, 999_999, f"1{N}MB"),
        (numbers.filesize, 269_060_552, f"269{N}MB"),
        (numbers.duration, 0.035, f"35{N}ms"),
        (numbers.duration, 0.9999, f"1.0{N}s"),
        (numbers.duration, 59.7, f"1{N}min"),
        (numbers.duration, 125, f"2{N}min 5{N}s"),
        (numbers.duration, 4512, f"1{N}h 15{N}min"),
        (numbers.duration, timedelta(days=2, hours=4, minutes=59), f"2{N}d 4{N}h"),
        (numbers.duration, -1, "–"),
    ],
)
def test_numbers_read_as_people_write_them(write, value, expected: str) -> None:
    assert write(value) == expected


WRITERS = [
    numbers.thousands,
    numbers.decimal,
    numbers.significant,
    numbers.compact,
    numbers.percent,
    numbers.percentage,
    numbers.points,
    numbers.filesize,
    numbers.duration,
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("unknown", [None, math.nan, math.inf, "", "soon", True, object()])
def test_what_is_no_number_is_a_dash(write, unknown) -> None:
    assert write(unknown) == "–"


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**18), 10**18))
def test_every_number_is_written(value: float) -> None:
    assert all(write(value) for write in WRITERS)


def test_a_line_fills_its_box_and_skips_gaps() -> None:
    line = shapes.line([3.0, None, 1.0, math.nan, 2.0], width=100, height=40, margin=0)
    assert line is not None
    assert line.points == "0,0 50,40 100,20"
    assert (line.last_x, line.last_y) == ("100", "20")
    assert line.area == "0,40 0,0 50,40 100,20 100,40"


@pytest.mark.parametrize("values", [[], [1.0], [None, None, 2.0]])
def test_fewer_than_two_values_make_no_line(values) -> None:
    assert shapes.line(values, width=100, height=40) is None


def test_a_flat_line_stays_in_its_box() -> None:
    line = shapes.line([5, 5, 5], width=10, height=10)
    assert line is not None
    assert "nan" not in line.points


def test_bars_are_relative_to_the_largest_number() -> None:
    first, second = shapes.bars([{"label": "a", "value": 50, "compared": 100}, {"label": "b", "value": None}])
    assert (first.length, first.compared_length, first.low) == ("50", "100", None)
    assert (second.length, second.value) == ("0", None)


def test_a_bar_never_leaves_its_track() -> None:
    (bar,) = shapes.bars([{"label": "a", "value": 2.0}], maximum=1.0)
    assert bar.length == "100"


def test_small_columns_stay_visible_and_empty_ones_do_not() -> None:
    small, none, large = shapes.columns([{"label": "", "value": value} for value in (1, 0, 10_000)])
    assert float(small.height) > 1
    assert none.height == "0"
    assert large.height == "100"
    assert shapes.columns([]) == []


@pytest.mark.parametrize(
    ("value", "highest", "expected"), [(0, 9, 0), (1, 900, 1), (900, 900, 10), (None, 5, 0), (3, 0, 0)]
)
def test_heat_has_eleven_steps(value, highest, expected: int) -> None:
    assert shapes.heat(value, highest) == expected
