"""From interactions to a data set: against a slow reading of the protocol, for every split, in any order."""

from __future__ import annotations

import json
import random
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_interactions import Row, batches

from prunebench.datasets.inspect import inspect
from prunebench.datasets.interactions import gather
from prunebench.datasets.protocol import COLD, CORE, Protocol, build, titled
from prunebench.datasets.schema import SPLITS, DataError, RecDataset

ITEMS = "abcdefgh"
ROWS = st.lists(
    st.tuples(
        st.sampled_from("UVWX"), st.sampled_from(ITEMS), st.integers(0, 9), st.sampled_from([4.0, 1.0, 5.0, 5.0])
    ),
    min_size=16,
    max_size=50,
)
PROTOCOLS = st.builds(
    Protocol,
    min_rating=st.sampled_from([None, 4.0]),
    split=st.sampled_from(["global", "leave-one-out", "none"]),
    k_core=st.integers(0, 3),
)
TITLES = pa.table({"item": list(ITEMS[:6]), "title": [f"Title {item}" for item in ITEMS[:5]] + [None]})
Splits = dict[str, dict[str, list[str]]]


def by_hand(rows: list[Row], protocol: Protocol) -> tuple[Splits, int]:
    """{split: {user: items}} of users with a training item, one step at a time; and the interactions that were split."""
    kept = {row[:3] for row in rows if protocol.min_rating is None or row[3] >= protocol.min_rating}
    while True:
        of_users, of_items = Counter(user for user, _, _ in kept), Counter(item for _, item, _ in kept)
        core = {row for row in kept if min(of_users[row[0]], of_items[row[1]]) >= protocol.k_core}
        if core == kept:
            break
        kept = core
    ordered = sorted(kept, key=lambda row: (row[2], row[0], row[1]))
    parts: dict[str, list[tuple[str, str, int]]] = {split: [] for split in SPLITS}
    if protocol.split == "global":
        n = len(ordered)
        for rank, row in enumerate(ordered):
            parts["train" if 10 * (rank + 1) <= 8 * n else "valid" if 10 * (rank + 1) <= 9 * n else "test"].append(row)
    else:
        for user in {row[0] for row in ordered}:
            own = [row for row in ordered if row[0] == user]
            if protocol.split == "leave-one-out" and len(own) >= 3:
                parts["test"].append(own.pop())
                parts["valid"].append(own.pop())
            parts["train"] += own
    warm = sorted({row[0] for row in parts["train"]})
    splits = {
        split: {user: [row[1] for row in part if row[0] == user] for user in warm} for split, part in parts.items()
    }
    return splits, len(ordered)


def in_words(dataset: RecDataset) -> Splits:
    assert dataset.user_keys is not None
    assert dataset.item_keys is not None
    items = list(dataset.item_keys)
    return {
        split: {
            user: [items[item] for item in row]
            for user, row in zip(dataset.user_keys, dataset.split(split), strict=True)
        }
        for split in SPLITS
    }


def made(rows: list[Row], protocol: Protocol) -> RecDataset:
    return build("x", gather(batches(rows, 7), protocol.min_rating), TITLES, protocol, "by hand")


@settings(max_examples=50, deadline=None)
@given(ROWS, PROTOCOLS)
def test_a_data_set_is_what_the_protocol_read_slowly_says(rows: list[Row], protocol: Protocol) -> None:
    expected, split = by_hand(rows, protocol)
    users = expected["train"]
    left = {item for part in expected.values() for row in part.values() for item in row}
    too_small = protocol.split == "global" and split < 10
    if too_small or max(map(len, users.values()), default=0) < 2 or left.isdisjoint(ITEMS[:6]):
        with pytest.raises(DataError):
            made(rows, protocol)
        return
    dataset = made(rows, protocol)
    assert in_words(dataset) == expected
    assert list(dataset.item_keys or ()) == sorted(left)
    assert dataset.titles == tuple(f"Title {item}" if item in ITEMS[:5] else "" for item in sorted(left))
    dropped, kept = json.loads(dataset.meta["dropped"]), sum(len(dataset.split(split).items) for split in SPLITS)
    assert sum(dropped.values()) == len(rows) - kept
    assert dropped.get(COLD, 0) == split - kept
    assert dataset.meta["missing_titles"] == str(len(left - set(ITEMS[:5])))
    assert dataset.meta["unlisted_items"] == str(len(left - set(ITEMS[:6])))


@settings(max_examples=50, deadline=None)
@given(ROWS, PROTOCOLS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[Row], protocol: Protocol, order: random.Random) -> None:
    try:
        one = made(rows, protocol)
    except DataError:
        return
    two = made(order.sample(rows, len(rows)), protocol)
    assert (one.fingerprint, one.meta) == (two.fingerprint, two.meta)
    assert list(one.user_keys or ()) == list(two.user_keys or ())


def test_the_cut_is_at_the_floor_of_eight_and_nine_tenths() -> None:
    rows: list[Row] = [("U", "ab"[n % 2], n, 5.0) for n in range(19)]
    dataset = made(rows, Protocol())
    assert [len(dataset.split(split).items) for split in SPLITS] == [15, 2, 2]


def test_at_one_time_the_keys_order_users_and_items() -> None:
    rows: list[Row] = [(user, item, 7, 5.0) for user in "VU" for item in "hgfedcba"]
    dataset = made(rows, Protocol())
    assert in_words(dataset) == {
        "train": {"U": list("abcdefgh"), "V": list("abcd")},
        "valid": {"U": [], "V": list("ef")},
        "test": {"U": [], "V": list("gh")},
    }


def test_users_without_a_training_interaction_leave_with_their_items() -> None:
    rows: list[Row] = [*(("U", "ab"[n % 2], n, 5.0) for n in range(9)), ("V", "c", 20, 5.0)]
    dataset = made(rows, Protocol())
    assert in_words(dataset) == {"train": {"U": list("abababab")}, "valid": {"U": ["a"]}, "test": {"U": []}}
    assert list(dataset.item_keys or ()) == ["a", "b"]
    assert json.loads(dataset.meta["dropped"]) == {COLD: 1}
    assert dataset.meta["cold_users"] == "1"


def test_the_core_is_a_fixpoint() -> None:
    links = ("Ua", "Va", "Vb", "Wb", "We", "Ze")  # only the ends are too few at first
    chain: list[Row] = [(user, item, time, 5.0) for time, (user, item) in enumerate(links)]
    square: list[Row] = [(user, item, 5, 5.0) for user in "XY" for item in "cd"]
    dataset = made(chain + square, Protocol(split="none", k_core=2))
    assert in_words(dataset)["train"] == {"X": ["c", "d"], "Y": ["c", "d"]}
    assert json.loads(dataset.meta["dropped"]) == {CORE: 6}
    with pytest.raises(DataError, match="none is in the 2-core of 6"):
        made(chain, Protocol(split="none", k_core=2))


def test_steps_without_time_are_counted() -> None:
    rows: list[Row] = [("U", "c", 1, 5.0), ("U", "b", 1, 5.0), ("U", "a", 2, 5.0), ("V", "a", 2, 5.0)]
    dataset = made(rows, Protocol(split="none"))
    assert dataset.meta["tied_times"] == "0.5000"
    assert in_words(dataset)["train"]["U"] == ["b", "c", "a"]
    assert any(problem.startswith("50.0% of the steps") for problem in inspect(dataset)["problems"])
    apart = made([(user, item, time + n, 5.0) for n, (user, item, time, _) in enumerate(rows)], Protocol(split="none"))
    assert not any("steps" in problem for problem in inspect(apart)["problems"])


def test_one_title_an_item() -> None:
    agreed = titled(pa.table({"item": ["a", "a", "b", "a"], "title": ["A", "A", " ", None]}))
    assert agreed.to_pydict() == {"item": ["a", "a"], "title": ["A", "A"]}
    with pytest.raises(DataError, match="item 'a' has two titles in the file of items, 'A' and 'B'"):
        titled(pa.table({"item": ["a", "c", "a"], "title": ["A", "C", "B"]}))


@pytest.mark.parametrize(
    "asked", [{"min_rating": float("nan")}, {"k_core": -1}, {"noun": ""}, {"split": "random"}, {"seed": 1}]
)
def test_a_protocol_is_checked(asked: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Protocol.model_validate(asked)
