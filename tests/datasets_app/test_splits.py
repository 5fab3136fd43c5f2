"""The division of rows: complete, seeded, in proportion, by time, and never through what belongs together."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets_app.conversion import without_templates
from datasets_app.splits import (
    NO_DATE,
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    RowsToDivide,
    SplitPlan,
    SplitRefused,
    split_sizes,
    together,
)
from datasets_app.splits import (
    divide as divided,
)

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def divide(rows, plan):
    return divided(rows, plan).parts


def ids(count):
    return np.arange(1, count + 1)


def counts(parts):
    return dict(zip(SPLITS, np.bincount(parts, minlength=3).tolist(), strict=True))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 10, 11, 99, 1_000])
def test_rows_alone_get_exactly_their_sizes(count):
    sizes = split_sizes(count, SHARES)
    assert sum(sizes.values()) == count
    if count:
        found = counts(divide(RowsToDivide(ids(count)), SplitPlan(shares=SHARES)))
        assert found == (sizes if count >= 3 else {"train": count, "validation": 0, "test": 0})
    assert count < 3 or min(sizes.values()) >= 1


def test_the_division_is_the_same_for_ever():
    parts = divide(RowsToDivide(ids(40)), SplitPlan(shares={"train": 0.5, "validation": 0.3, "test": 0.2}, seed=7))
    assert "".join(str(part) for part in parts) == ("0100120020112000112000000112110022210001")


def test_the_seed_decides_and_not_the_place():
    first = divide(RowsToDivide(ids(3_000)), SplitPlan(seed=1))
    assert (first != divide(RowsToDivide(ids(3_000)), SplitPlan(seed=2))).any()
    for third in np.split(first, 3):
        assert 70 < (third == TEST).sum() < 130


def test_every_stratum_is_divided_in_proportion():
    strata = np.array([0] * 700 + [1] * 200 + [2] * 100, dtype=np.int32)
    parts = divide(RowsToDivide(ids(1_000), strata=strata), SplitPlan())
    for stratum, size in ((0, 700), (1, 200), (2, 100)):
        found = counts(parts[strata == stratum])
        assert all(abs(found[split] - size * SHARES[split]) <= 1 for split in SPLITS)


keys_of_rows = st.integers(1, 120).flatmap(
    lambda count: st.tuples(
        st.lists(st.integers(0, 30), min_size=count, max_size=count),
        st.lists(st.integers(0, 30), min_size=count, max_size=count),
        st.lists(st.integers(0, 3), min_size=count, max_size=count),
    )
)


@pytest.mark.slow
@given(columns=keys_of_rows, seed=st.integers(0, 2**31 - 1), by=st.sampled_from(["random", "time"]))
def test_what_belongs_together_stays_together(columns, seed, by):
    questions, groups, strata = (np.array(column) for column in columns)
    rows = RowsToDivide(
        ids(len(questions)), keys=[questions, groups], strata=strata.astype(np.int32), moments=questions * 1_000
    )
    parts = divide(rows, SplitPlan(seed=seed, by=by))
    assert len(parts) == len(questions)
    for key in (questions, groups):
        for value in set(key.tolist()) - {0}:
            assert len(set(parts[key == value].tolist())) == 1
    assert (parts == divide(rows, SplitPlan(seed=seed, by=by))).all()
    assert (parts == TRAIN).any()


@pytest.mark.slow
@given(columns=keys_of_rows)
def test_rows_are_together_exactly_if_a_chain_leads_from_one_to_the_other(columns):
    keys = [np.array(column) for column in columns[:2]]
    count = len(keys[0])
    expected = list(range(count))
    for _ in range(count):  # the slowest way there is
        for key in keys:
            for value in set(key.tolist()) - {0}:
                members = np.flatnonzero(key == value)
                low = min(expected[member] for member in members)
                for member in members:
                    expected[member] = low
    assert together(count, keys).tolist() == expected


def test_the_newest_rows_are_for_test():
    moments = np.array([NO_DATE, *range(99)])
    parts = divide(RowsToDivide(ids(100), moments=moments), SplitPlan(by="time"))
    assert np.flatnonzero(parts == TEST).tolist() == list(range(90, 100))
    assert np.flatnonzero(parts == VALIDATION).tolist() == list(range(80, 90))
    with pytest.raises(SplitRefused, match="no row has a date"):
        divide(RowsToDivide(ids(3), moments=np.array([NO_DATE] * 3)), SplitPlan(by="time"))
    with pytest.raises(SplitRefused, match="no row has a date"):
        divide(RowsToDivide(ids(3)), SplitPlan(by="time"))


def test_a_thread_goes_where_its_newest_row_goes():
    groups = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 1])
    plan = SplitPlan(shares={"train": 0.8, "test": 0.2}, by="time")
    parts = divide(RowsToDivide(ids(10), keys=[groups], moments=np.arange(10)), plan)
    assert np.flatnonzero(parts == TEST).tolist() == [0, 9]


def test_rows_say_themselves_where_they_belong():
    now = np.array([0, 2, 1, 0], dtype=np.int8)
    assert divide(RowsToDivide(ids(4), parts=now), SplitPlan(by="column")).tolist() == [0, 2, 1, 0]
    with pytest.raises(SplitRefused, match="none is chosen"):
        divide(RowsToDivide(ids(4)), SplitPlan(by="column"))


@pytest.mark.slow
@given(columns=keys_of_rows, seed=st.integers(0, 100))
def test_test_rows_stay_test_rows(columns, seed):
    questions, _groups, now = (np.array(column) for column in columns)
    now = np.minimum(now, 2).astype(np.int8)
    parts = divide(RowsToDivide(ids(len(now)), keys=[questions], parts=now), SplitPlan(seed=seed))
    assert (parts[now == TEST] == TEST).all()
    in_test = set(questions[now == TEST].tolist()) - {0}
    for row in np.flatnonzero((parts == TEST) & (now != TEST)):
        assert int(questions[row]) in in_test  # only what would leak joins them


def test_a_part_goes_not_empty_because_of_large_clusters():
    keys = np.array([1] * 50 + [2] * 49 + [3])
    parts = divide(RowsToDivide(ids(100), keys=[keys]), SplitPlan())
    assert set(parts.tolist()) == {TRAIN, VALIDATION, TEST}


def test_rows_that_stay_with_others_are_counted():
    keys = np.array([1, 1, 1, 0, 2, 2, 3, 0, 0, 0])
    assert divided(RowsToDivide(ids(10), keys=[keys]), SplitPlan()).together == 5


def test_a_template_is_no_reason_to_keep_rows_together():
    first_near = np.array([0] * 50 + [50, 50, 52, *range(53, 100)])
    assert Counter(without_templates(first_near).tolist()) == Counter({0: 98, 51: 2})


@pytest.mark.parametrize("shares", [{"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}, {"a": float("inf")}])
def test_impossible_shares_are_an_error(shares):
    with pytest.raises(ValueError, match="shares"):
        split_sizes(10, shares)
