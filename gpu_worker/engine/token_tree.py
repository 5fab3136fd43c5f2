"""Texts that begin alike, as a tree of tokens: what they share is computed once. No tensors here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

TokenIds = Sequence[int]


@dataclass(frozen=True)
class TokenTree:
    """What has to be read to know how likely each token of several texts is.

    Node i reads `token_ids[i]` behind node `parents[i]`, which comes before it; -1 is the place behind which all texts
    begin. `paths` has, for each text and each of its tokens but the first, the node behind which that token stands.
    """

    token_ids: tuple[int, ...]
    parents: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]


def token_tree(texts: Sequence[TokenIds]) -> TokenTree:
    """Return the tree of the texts' tokens; the last token of a text is never read."""
    nodes: dict[tuple[int, int], int] = {}
    paths = []
    for ids in texts:
        path, at = [], -1
        for token in ids[:-1]:
            at = nodes.setdefault((at, token), len(nodes))
            path.append(at)
        paths.append(tuple(path))
    return TokenTree(tuple(token for _parent, token in nodes), tuple(parent for parent, _token in nodes), tuple(paths))


def count_tokens(texts: Sequence[TokenIds]) -> int:
    """Return how many tokens several texts have, counting once what they begin alike with."""
    ordered = sorted(map(tuple, texts))
    return sum(len(ids) - _same(before, ids) for before, ids in pairwise([(), *ordered]))


def depths(parents: Sequence[int]) -> list[int]:
    """Return how many nodes lie before each node."""
    found: list[int] = []
    for parent in parents:
        found.append(found[parent] + 1 if parent >= 0 else 0)
    return found


def parts(texts: Sequence[TokenIds], most_nodes: int) -> Iterator[list[int]]:
    """Yield the places of the texts in groups whose trees have at most so many nodes; a longer text is alone.

    Texts that begin alike come into one group.
    """
    part: list[int] = []
    nodes = 0
    before: TokenIds = ()
    for place in sorted(range(len(texts)), key=lambda place: tuple(texts[place])):
        ids = texts[place]
        new = len(ids) - 1 - _same(before[:-1], ids[:-1])
        if part and nodes + new > most_nodes:
            yield part
            part, nodes, new = [], 0, len(ids) - 1
        part.append(place)
        nodes, before = nodes + new, ids
    if part:
        yield part


def _same(one: TokenIds, other: TokenIds) -> int:
    """Return how many tokens both begin with."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))
