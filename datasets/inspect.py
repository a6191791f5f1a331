"""What to know of a data set before trusting a number on it: sizes, cold targets, leaks, duplicates, skew."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunebench.datasets.library import counts
from prunebench.datasets.schema import SPLITS, Int64, RecDataset, Sequences, Split

QUANTILES = (0, 25, 50, 75, 90, 99, 100)
FEW_TIES = 0.01
"""Share of steps without time that nobody need be told of."""


def inspect(dataset: RecDataset) -> dict[str, Any]:
    """Statistics of ``dataset`` as a JSON-able dictionary; shares are fractions but for ``density_percent``.

    ``splits``: interactions and users with a target. ``samples``: users with a history and a target in train.
    ``cold``: test interactions with an item that train never has. ``repeats``: interactions of a user with an item that
    the same user had before, over the three splits in order. ``leaks``: distinct user-item pairs that two splits share.
    ``problems``: one line each, for a reader.
    """
    train, valid, test = (dataset.split(split) for split in SPLITS)
    pairs = {split: _pairs(dataset.split(split), dataset.n_items) for split in SPLITS}
    report: dict[str, Any] = {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "source": dataset.source,
        **counts(dataset),
        "samples": int((train.lengths >= 2).sum()),
        "splits": {
            split: {"interactions": len(part.items), "users_with_target": int((part.lengths > 0).sum())}
            for split, part in zip(SPLITS, (train, valid, test), strict=True)
        },
        "sequence_length": {
            split: _quantiles(lengths)
            for split, lengths in (
                *((split, dataset.split(split).lengths) for split in SPLITS),
                ("all", train.lengths + valid.lengths + test.lengths),
            )
        },
        "titles": _titles(dataset),
        "cold": _cold(dataset),
        "repeats": _repeats(pairs, sum(len(dataset.split(split).items) for split in SPLITS)),
        "leaks": {f"{one}-{other}": _shared(pairs[one], pairs[other]) for one, other in combinations(SPLITS, 2)},
        "popularity": _popularity(dataset.popularity),
    }
    if dataset.labels is not None:
        report["labels"] = dict(sorted(Counter(dataset.labels.tolist()).items()))
    return {**report, "problems": _problems(report, float(dataset.meta.get("tied_times", 0)))}


def _quantiles(lengths: Int64) -> dict[str, float]:
    if not len(lengths):
        return {}
    values = np.percentile(lengths, QUANTILES)
    return {
        **{f"p{q}": float(value) for q, value in zip(QUANTILES, values, strict=True)},
        "mean": float(lengths.mean()),
    }


def _titles(dataset: RecDataset) -> dict[str, int]:
    named = [title for title in dataset.titles if title.strip()]
    distinct = Counter(named)
    return {
        "distinct": len(set(dataset.titles)),
        "items_sharing_a_title": sum(count for count in distinct.values() if count > 1),
        "missing": dataset.n_items - len(named),
    }


def _cold(dataset: RecDataset) -> dict[str, float | int]:
    test = dataset.test
    cold = dataset.popularity[test.items] == 0
    per_user = np.bincount(test.rows_of_items()[cold], minlength=len(test))
    only_cold = (test.lengths > 0) & (per_user == test.lengths)
    return {
        "items_never_in_train": int((dataset.popularity == 0).sum()),
        "test_interactions": int(cold.sum()),
        "test_interactions_share": float(cold.mean()) if len(cold) else 0.0,
        "test_users_with_only_cold_targets": int(only_cold.sum()),
    }


def _pairs(part: Sequences, n_items: int) -> Int64:
    """Distinct (user, item) pairs as one number each, increasing."""
    pairs = part.rows_of_items()
    pairs *= max(n_items, 1)
    pairs += part.items
    return _distinct(pairs)


def _distinct(numbers: Int64) -> Int64:
    """As np.unique, in place: at 50 million pairs the copies matter."""
    numbers.sort()
    return numbers[np.r_[True, numbers[1:] != numbers[:-1]]] if len(numbers) else numbers


def _shared(some: Int64, others: Int64) -> int:
    """How many distinct increasing numbers are in both."""
    few, many = sorted((some, others), key=len)
    where = np.searchsorted(many, few)
    inside = where < len(many)
    return int((many[where[inside]] == few[inside]).sum())


def _repeats(pairs: dict[Split, Int64], interactions: int) -> dict[str, float | int]:
    repeated = interactions - len(_distinct(np.concatenate(list(pairs.values()))))
    return {"interactions": repeated, "share": repeated / interactions if interactions else 0.0}


def _popularity(count: NDArray[np.int64]) -> dict[str, float]:
    """Gini coefficient of training interactions over items (0 even, 1 all on one), and what the top items take."""
    total = int(count.sum())
    if not total:
        return {"gini": 0.0, "top_1_percent_share": 0.0, "top_10_percent_share": 0.0}
    ascending = np.sort(count)
    n = len(ascending)
    gini = float(2 * (np.arange(1, n + 1) * ascending).sum() / (n * total) - (n + 1) / n)
    top = {f"top_{p}_percent_share": float(ascending[-max(1, n * p // 100) :].sum() / total) for p in (1, 10)}
    return {"gini": gini, **top}


def _problems(report: dict[str, Any], tied_times: float) -> list[str]:
    titles, cold = report["titles"], report["cold"]
    found = []
    if report["samples"] < report["users"]:
        short = report["users"] - report["samples"]
        found.append(f"{short:,} users have fewer than two training items and so give no sample")
    if titles["items_sharing_a_title"]:
        found.append(
            f"{report['items']:,} items have {titles['distinct']:,} distinct titles: "
            "a generated title can mean several items, so rank items and break no ties"
        )
    if titles["missing"]:
        found.append(f"{titles['missing']:,} items have no title: a language model cannot tell them apart")
    if cold["test_interactions"]:
        found.append(
            f"{cold['test_interactions_share']:.1%} of test interactions are of items that train never has "
            f"({cold['test_users_with_only_cold_targets']:,} test users have no other): report them apart"
        )
    for pair, shared in report["leaks"].items():
        if shared:
            found.append(f"{shared:,} user-item pairs are in both splits of {pair}: a target was seen before")
    if tied_times >= FEW_TIES:
        found.append(
            f"{tied_times:.1%} of the steps from one interaction of a user to the next take no time: "
            "their order is that of the items' keys, so a sequence says less than it seems to"
        )
    found += [f"{split} has no targets" for split in ("valid", "test") if not report["splits"][split]["interactions"]]
    return found
