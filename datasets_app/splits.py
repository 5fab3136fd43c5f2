"""Divide the rows of one file among training, validation and test."""

import random
from collections.abc import Iterator, Mapping


def split_rows(count: int, shares: Mapping[str, float], seed: int) -> Iterator[str]:
    """Yield the name of the part that each of `count` rows belongs to, in the order of the rows.

    The parts get exactly the sizes of `split_sizes`; the same count, shares and seed give the same rows, in every
    release of Python. Constant memory. Raises: ValueError as `split_sizes` does.
    """
    left = split_sizes(count, shares)
    # random() is the one method whose sequence Python promises to keep.
    draw = random.Random(seed).random  # noqa: S311 - not a secret
    for remaining in range(count, 0, -1):
        # Selection sampling: a part is drawn with the probability that its open places have among all open places.
        name = _part_at(int(draw() * remaining), left)
        left[name] -= 1
        yield name


def _part_at(place: int, left: Mapping[str, int]) -> str:
    """Return the part that holds a place when the open places of all parts stand in one row."""
    for name, places in left.items():
        if place < places:
            return name
        place -= places
    raise AssertionError("there are as many places as rows")


def split_sizes(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return how many of `count` rows each part gets: by its share, rounded so that the sum is `count`.

    A part with a share gets at least one row if there are enough rows for all.
    Raises: ValueError if a share is negative or not finite, or all are zero.
    """
    total = sum(shares.values())
    if not 0 < total < float("inf") or min(shares.values()) < 0:
        raise ValueError("the shares must be numbers of at least zero, and one of them more than zero")
    exact = {name: count * share / total for name, share in shares.items()}
    sizes = {name: int(size) for name, size in exact.items()}
    by_remainder = sorted(shares, key=lambda name: sizes[name] - exact[name])
    for name in by_remainder[: count - sum(sizes.values())]:
        sizes[name] += 1
    wanted = [name for name, share in shares.items() if share > 0]
    if count >= len(wanted):
        for name in wanted:
            if sizes[name] == 0:
                sizes[max(sizes, key=lambda other: sizes[other])] -= 1
                sizes[name] = 1
    return sizes
