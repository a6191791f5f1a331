"""Interactions gathered from a stream: against a plain loop, in any order, with known keys coming back later."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prunebench.datasets import interactions
from prunebench.datasets.interactions import BELOW_RATING, DUPLICATES, Interactions, arrow, gather, strings
from prunebench.datasets.schema import DataError, Strings

Row = tuple[str, str, int, float]
KEYS = st.sampled_from(["a", "B", "b", "ab", "ä", "猫", "10", "9", " "])
ROWS = st.lists(
    st.tuples(
        KEYS, KEYS, st.sampled_from([-3, 0, 1, 2, 7, 2**40, 2**62, -(2**62)]), st.sampled_from([1.0, 3.5, 4.0, 5.0])
    ),
    min_size=1,
    max_size=30,
)


def batches(rows: Sequence[Row], size: int = 4, times: Any = None) -> list[pa.RecordBatch]:
    names = ("user", "item", "timestamp", "rating")
    types = (pa.string(), pa.large_string(), times or pa.int64(), pa.float64())
    return [
        pa.record_batch(
            [pa.array(column, kind) for column, kind in zip(zip(*rows[k : k + size], strict=True), types, strict=True)],
            names,
        )
        for k in range(0, len(rows), size)
    ]


def in_words(gathered: Interactions) -> list[tuple[str, str, int]]:
    """The rows as they were."""
    columns = (gathered.users.tolist(), gathered.items.tolist(), gathered.times.tolist())
    return [(gathered.user_keys[u], gathered.item_keys[i], time) for u, i, time in zip(*columns, strict=True)]


def by_bytes(row: tuple[str, str, int]) -> tuple[bytes, int, bytes]:
    return row[0].encode(), row[2], row[1].encode()


@settings(max_examples=50, deadline=None)
@given(ROWS, st.sampled_from([None, 3.0, 4.0]), st.integers(1, 40), st.sampled_from([0, 5]))
def test_gathered_rows_are_those_of_a_plain_loop(
    rows: list[Row], min_rating: float | None, size: int, waiting: int
) -> None:
    kept = [row[:3] for row in rows if min_rating is None or row[3] >= min_rating]
    if not kept:
        with pytest.raises(DataError, match=f"all {len(rows)} interactions are rated below"):
            gather(batches(rows, size), min_rating)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions, "WAITING", waiting)
        gathered = gather(batches(rows, size), min_rating)
    assert in_words(gathered) == sorted(set(kept), key=by_bytes)
    for keys, column in ((gathered.user_keys, 0), (gathered.item_keys, 1)):
        assert list(keys) == sorted({row[column] for row in kept}, key=str.encode)
    expected = {BELOW_RATING: len(rows) - len(kept), DUPLICATES: len(kept) - len(set(kept))}
    assert gathered.dropped == {why: count for why, count in expected.items() if count}
    assert (gathered.users.dtype, gathered.items.dtype, gathered.times.dtype) == (np.int32, np.int32, np.int64)


@settings(max_examples=50, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_the_batches_do_not_matter(rows: list[Row], order: random.Random) -> None:
    shuffled = order.sample(rows, len(rows))
    one, two = gather(batches(rows, 7), None), gather(batches(shuffled, 3), None)
    for part in ("users", "items", "times"):
        np.testing.assert_array_equal(getattr(one, part), getattr(two, part))
    assert list(one.user_keys) == list(two.user_keys)
    assert one.dropped == two.dropped


def test_floats_and_timestamps_keep_their_order_to_the_microsecond() -> None:
    seconds = [5.0, 1.000002, 1.000001, 0.5]
    for kind, times in ((pa.float64(), seconds), (pa.timestamp("us", "UTC"), [round(t * 1e6) for t in seconds])):
        rows = [("u", f"i{k}", time, 5.0) for k, time in enumerate(times)]
        gathered = gather(batches(rows, 2, kind), None)  # type: ignore[arg-type]
        assert [item for _, item, _ in in_words(gathered)] == ["i3", "i2", "i1", "i0"]
        assert gathered.times.tolist() == [500_000, 1_000_001, 1_000_002, 5_000_000]


def test_dictionaries_without_ratings_and_what_a_reader_left_out() -> None:
    column = pa.array(["x", "y", "x"]).dictionary_encode()
    batch = pa.record_batch([column, column, pa.array([3, 2, 1])], ["user", "item", "timestamp"])
    dropped: Counter[str] = Counter()

    def stream() -> Any:
        yield batch
        dropped["lines that cannot be read"] += 2

    gathered = gather(stream(), 4.0, dropped)
    assert in_words(gathered) == [("x", "x", 1), ("x", "x", 3), ("y", "y", 2)]
    assert gathered.dropped == {"lines that cannot be read": 2}


def test_nothing_to_gather() -> None:
    with pytest.raises(DataError, match="no interactions"):
        gather([], 4.0)
    with pytest.raises(DataError, match="no interactions"):
        gather([batches([("a", "b", 1, 5.0)])[0].slice(1)], None)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), max_size=8), st.integers(0, 3))
def test_columns_of_text_go_to_arrow_and_back(texts: list[str], start: int) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    ours = strings(pa.array(texts, pa.string()).slice(start))
    assert list(ours) == texts[start:]
    assert arrow(Strings.from_list(texts)).to_pylist() == texts
