"""The tensor trie of semantic IDs against a dictionary of prefixes."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.tiger.semantic_ids import SemanticIDs
from prunebench.recommenders.tiger.trie import Trie

Prefixes = dict[tuple[int, ...], set[int]]


@st.composite
def semantic_ids(draw: st.DrawFn) -> SemanticIDs:
    """Any number of items of any number of levels, in any order; prefixes shared at any depth."""
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    every = list(itertools.product(*map(range, sizes)))
    codes = draw(st.lists(st.sampled_from(every), min_size=1, max_size=40, unique=True))
    return SemanticIDs(np.array(codes, np.int32), sizes)


def prefixes(ids: SemanticIDs) -> Prefixes:
    following: Prefixes = defaultdict(set)
    for row in ids.tokens.tolist():
        for level in range(ids.levels):
            following[tuple(row[:level])].add(row[level])
    return following


@settings(max_examples=60, deadline=None)
@given(semantic_ids())
def test_every_node_has_the_children_of_its_prefix_and_every_leaf_its_item(ids: SemanticIDs) -> None:
    trie, following = Trie(ids), prefixes(ids)
    assert trie.levels == ids.levels
    found: dict[int, tuple[int, ...]] = {0: ()}
    for level in range(trie.levels):
        nodes = torch.arange(len(found))
        children, exist = trie.children(level, nodes)
        assert children.shape == exist.shape == (len(found), trie.widest[level])
        assert children.max() < len(trie.tokens[level])
        assert int(exist.sum(1).max()) == trie.widest[level]
        below: dict[int, tuple[int, ...]] = {}
        for node in nodes.tolist():
            real = children[node][exist[node]].tolist()
            tokens = trie.tokens[level][real].tolist()
            assert tokens == sorted(following[found[node]])
            below |= {child: (*found[node], token) for child, token in zip(real, tokens, strict=True)}
        assert sorted(below) == list(range(len(trie.tokens[level])))
        found = below
    assert {leaf: tuple(ids.tokens[item]) for leaf, item in enumerate(trie.items.tolist())} == found


@settings(max_examples=60, deadline=None)
@given(semantic_ids(), st.integers(0, 2**32 - 1))
def test_it_contains_the_ids_and_nothing_else(ids: SemanticIDs, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = set(map(tuple, ids.tokens.tolist()))
    made_up = rng.integers(0, ids.vocabulary + 3, (50, ids.levels))
    one_off = ids.tokens[rng.integers(len(ids.tokens), size=50)].astype(np.int64)
    one_off[np.arange(50), rng.integers(ids.levels, size=50)] += rng.integers(-1, 2, 50)
    asked = np.concatenate([ids.tokens, made_up, one_off])
    expected = [tuple(row) in known for row in asked.tolist()]
    trie = Trie(ids)
    assert trie.contains(torch.from_numpy(asked)).tolist() == expected
    folded = torch.from_numpy(asked[: len(asked) // 2 * 2]).view(2, -1, ids.levels)
    assert trie.contains(folded).flatten().tolist() == expected[: len(asked) // 2 * 2]
    assert trie.contains(folded[:, :0]).shape == (2, 0)


def test_one_item_is_a_chain_and_none_is_an_error() -> None:
    trie = Trie(SemanticIDs(np.array([[3, 0, 1]], np.int32), (4, 1, 2)))
    assert trie.widest == [1, 1, 1]
    assert [part.tolist() for part in trie.tokens] == [[4], [5], [7]]
    with pytest.raises(RecommenderError, match="make no trie"):
        Trie(SemanticIDs(np.empty((0, 3), np.int32), (4, 1, 2)))
