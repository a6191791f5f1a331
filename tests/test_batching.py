"""Length batches: every row once, bounds kept, little padding; left padding against a row-by-row reference."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.batching import length_batches, pad_left, padded


@given(
    st.lists(st.integers(0, 40), max_size=60),
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(1, 100)),
    st.one_of(st.none(), st.integers(0, 5)),
)
def test_every_row_once_and_bounds_kept(lengths: list[int], rows: int, tokens: int | None, seed: int | None) -> None:
    array = np.array(lengths, np.int64)
    batches = length_batches(array, rows, tokens, None if seed is None else np.random.default_rng(seed))
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        assert 1 <= len(batch) <= rows
        assert tokens is None or len(batch) == 1 or array[batch].max() * len(batch) <= tokens
    ranges = sorted((array[batch].min(), array[batch].max()) for batch in batches)
    assert all(high <= low for (_, high), (low, _) in pairwise(ranges))


def test_random_batches_are_reproducible_and_mixed() -> None:
    lengths = np.repeat([3, 7], 500)
    first, again, other = (length_batches(lengths, 50, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any(set(a) != set(b) for a, b in zip(first, other, strict=True))
    assert [int(lengths[batch[0]]) for batch in first] != sorted(int(lengths[batch[0]]) for batch in first)


def test_a_batch_is_as_wide_as_its_longest_row() -> None:
    rows = Sequences.from_rows([[5, 6, 7], [], [8], [1, 2, 3, 4]])
    assert padded(rows, np.array([2, 0]), fill=-1).tolist() == [[-1, -1, 8], [5, 6, 7]]
    assert padded(rows, np.array([1, 3]), shift=1, width=2).tolist() == [[0, 0], [4, 5]]
    source, real = pad_left(rows.offsets, np.array([0, 2]))
    assert real.sum(1).tolist() == [3, 1]
    assert rows.items[source[real]].tolist() == [5, 6, 7, 8]


def test_bounds_below_one_are_refused() -> None:
    with pytest.raises(RecommenderError, match="at least 1 row"):
        length_batches(np.array([1]), 0)
