"""Texts as a tree: shared beginnings are there once, groups keep to their size and lose nobody."""

from hypothesis import given
from hypothesis import strategies as st

from gpu_worker.engine.token_tree import count_tokens, depths, parts, token_tree

TEXTS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=7).map(tuple), min_size=1, max_size=12)


def test_shared_beginnings_are_read_once():
    tree = token_tree([(1, 2, 3), (1, 2, 4), (1, 5), (7,)])
    assert (tree.token_ids, tree.parents) == ((1, 2), (-1, 0))
    assert tree.paths == ((0, 1), (0, 1), (0,), ())
    assert depths((-1, 0, 0, 2, -1)) == [0, 1, 1, 2, 0]


@given(TEXTS)
def test_every_path_spells_its_text(texts):
    tree = token_tree(texts)
    for ids, path in zip(texts, tree.paths, strict=True):
        assert [tree.token_ids[node] for node in path] == list(ids[:-1])
        assert [tree.parents[node] for node in path] == [-1, *path][:-1]
    assert len(tree.token_ids) == len({ids[:end] for ids in texts for end in range(1, len(ids))})


@given(TEXTS)
def test_what_texts_begin_alike_with_counts_once(texts):
    assert count_tokens(texts) == len({ids[:end] for ids in texts for end in range(1, len(ids) + 1)})


@given(TEXTS, st.integers(1, 9))
def test_groups_have_everybody_once_and_keep_to_their_size(texts, most):
    groups = list(parts(texts, most))
    assert sorted(place for group in groups for place in group) == list(range(len(texts)))
    for group in groups:
        assert len(group) == 1 or len(token_tree([texts[place] for place in group]).token_ids) <= most
