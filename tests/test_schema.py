"""Ragged rows against lists of lists, samples and queries by hand, and what a fingerprint notices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunebench.datasets.schema import DataError, RecDataset, Sequences

ROW = st.lists(st.integers(0, 40), max_size=6)
ROWS = st.lists(ROW, max_size=8)


def lists(sequences: Sequences) -> list[list[int]]:
    return [row.tolist() for row in sequences]


def small() -> RecDataset:
    return RecDataset(
        "small",
        ("Chess", "Go", "", "Go"),
        Sequences.from_rows([[0, 1, 2], [3], [], [2, 0]]),
        Sequences.from_rows([[3], [], [1], []]),
        Sequences.from_rows([[0], [1, 2], [0], []]),
        labels=np.array(["clean", "noise", "clean", "duplicate"]),
    )


@given(ROWS)
def test_rows_survive_flattening(rows):
    sequences = Sequences.from_rows(rows)
    assert lists(sequences) == rows
    assert sequences.lengths.tolist() == [len(row) for row in rows]
    assert sequences.rows_of_items().tolist() == [r for r, row in enumerate(rows) for _ in row]


@given(ROWS, st.data())
def test_take_is_indexing(rows, data):
    wanted = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12) if rows else st.just([]))
    taken = Sequences.from_rows(rows).take(np.array(wanted, np.int64))
    assert lists(taken) == [rows[row] for row in wanted]


@given(ROWS, st.integers(0, 8))
def test_tail_keeps_the_latest(rows, longest):
    assert lists(Sequences.from_rows(rows).tail(longest)) == [row[max(0, len(row) - longest) :] for row in rows]


@given(st.lists(st.tuples(ROW, ROW), max_size=8))
def test_join_is_concatenation_row_by_row(pairs):
    one, other = [a for a, _ in pairs], [b for _, b in pairs]
    joined = Sequences.from_rows(one).join(Sequences.from_rows(other))
    assert lists(joined) == [a + b for a, b in pairs]


def test_join_refuses_other_numbers_of_rows():
    with pytest.raises(DataError, match="2 rows with 3"):
        Sequences.empty(2).join(Sequences.empty(3))


@pytest.mark.parametrize(
    ("items", "offsets"),
    [([1, 2], [0, 1]), ([1, 2], [1, 2]), ([1, 2], [0, 2, 1, 2]), ([], [])],
    ids=["items left over", "no start", "backwards", "nothing"],
)
def test_broken_offsets_are_refused(items, offsets):
    with pytest.raises(DataError, match="offsets"):
        Sequences(np.array(items, np.int32), np.array(offsets, np.int64))


def test_wrong_widths_are_refused():
    with pytest.raises(DataError, match="int32"):
        Sequences(np.array([1], np.int64), np.array([0, 1], np.int64))


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8))
def test_samples_are_users_with_history_and_target(rows):
    none = Sequences.empty(len(rows))
    samples = RecDataset("x", tuple("abcdefghij"), Sequences.from_rows(rows), none, none).samples()
    kept = [user for user, row in enumerate(rows) if len(row) >= 2]
    assert samples.ids.tolist() == kept
    assert lists(samples.histories) == [rows[user][:-1] for user in kept]
    assert samples.targets.tolist() == [rows[user][-1] for user in kept]
    assert lists(samples.sequences) == [rows[user] for user in kept]


def test_samples_are_taken_by_id_in_increasing_order():
    samples = small().samples()
    assert samples.ids.tolist() == [0, 3]
    some = samples.take(np.array([3, 0, 3]))
    assert some.ids.tolist() == [0, 3]
    assert some.targets.tolist() == [2, 0]
    assert samples.positions(np.array([3, 0])).tolist() == [1, 0]
    with pytest.raises(DataError, match=r"\[1, 9\] are no sample ids of small"):
        samples.take(np.array([0, 1, 9]))


def test_queries_see_what_precedes_them_and_no_more():
    valid, test = small().queries("valid"), small().queries("test")
    assert valid.users.tolist() == [0, 2]
    assert lists(valid.histories) == [[0, 1, 2], []]
    assert lists(valid.targets) == [[3], [1]]
    assert test.users.tolist() == [0, 1, 2]
    assert lists(test.histories) == [[0, 1, 2, 3], [3], [1]]
    assert lists(test.targets) == [[0], [1, 2], [0]]
    assert test.take(np.array([2, 0])).users.tolist() == [2, 0]


def test_misfits_are_refused():
    data = small()
    with pytest.raises(DataError, match="valid has 3 users, train has 4"):
        replace(data, valid=Sequences.empty(3))
    with pytest.raises(DataError, match="test names an item outside 0 … 3"):
        replace(data, test=Sequences.from_rows([[4], [], [], []]))
    with pytest.raises(DataError, match="1 labels for 4 users"):
        replace(data, labels=np.array(["clean"]))


def test_popularity_counts_training_only():
    assert small().popularity.tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"titles": ("Chess", "Go", "", "Go ")},
        {"titles": ("ChessG", "o", "", "Go")},
        {"train": Sequences.from_rows([[0, 2, 1], [3], [], [2, 0]])},
        {"train": Sequences.from_rows([[0, 1], [2, 3], [], [2, 0]])},
        {"valid": Sequences.from_rows([[], [3], [1], []])},
        {"test": Sequences.from_rows([[0], [1, 2], [1], []])},
        {"labels": None},
        {"labels": np.array(["clean", "noise", "noise", "duplicate"])},
    ],
    ids=["title", "title border", "order", "row border", "valid", "test", "no labels", "label"],
)
def test_fingerprint_notices_every_change_of_content(change):
    assert replace(small(), **change).fingerprint != small().fingerprint


def test_fingerprint_is_of_the_content_alone():
    assert replace(small(), name="other", source="elsewhere", meta={"a": "b"}).fingerprint == small().fingerprint
    assert small().fingerprint == "47409fa8e5ebc51d"
