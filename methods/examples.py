"""Small made-up data and signals to try a pruning method on: ordinary ones, and those that break careless code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from prunebench.datasets.schema import Int64, RecDataset, Samples, Sequences
from prunebench.methods.base import MethodError
from prunebench.methods.selection import priorities, top
from prunebench.recommenders.base import Config, Request
from prunebench.recommenders.runtime import Runtime

SCORES = ("influence", "effort", "el2n", "grand", "forgetting", "token_errors", "less")
ITEMS = 40
FakeSignals = Callable[[Request, Samples], Any]
"""From a request and the samples to the signal's value, which must follow each sample by its id."""


@dataclass(frozen=True, eq=False)
class Situation:
    """``name`` completes "on …" in a message."""

    name: str
    samples: Samples
    signals: FakeSignals


def example_samples(n: int, seed: int = 0, longest: int = 8) -> Samples:
    """``n`` samples of a small random data set, with gaps between their ids: an id is never a position.

    The first sample has a sequence of exactly ``longest`` items where that is more than 8.
    """
    rng = np.random.default_rng(seed)
    lengths = np.zeros(2 * n + 3, np.int64)
    users = np.sort(rng.choice(np.arange(3, 2 * n + 3), n, replace=False))
    lengths[users] = rng.integers(2, 9, n)
    if longest > 8:
        lengths[users[0]] = longest
    train = Sequences.from_flat(rng.integers(0, ITEMS, int(lengths.sum())), lengths)
    nobody = Sequences.empty(len(lengths))
    return RecDataset("example", tuple(f"item {item}" for item in range(ITEMS)), train, nobody, nobody).samples()


def with_hidden_parts(samples: Samples, seed: int = 0) -> Samples:
    """The same samples of a data set that also has validation and test interactions and planted labels."""
    rng, users = np.random.default_rng(seed), samples.dataset.n_users
    valid, test = (Sequences.from_flat(rng.integers(0, ITEMS, 2 * users), np.full(users, 2)) for _ in range(2))
    labels = rng.choice(["clean", "noise"], users)
    return Samples(
        replace(samples.dataset, valid=valid, test=test, labels=labels), samples.ids, samples.histories, samples.targets
    )


def shuffled(samples: Samples) -> Samples:
    """The same samples in another order: ids that are not increasing, and that can still be looked up."""
    order = np.random.default_rng(1).permutation(len(samples))
    return _AnyOrder(samples.dataset, samples.ids[order], samples.histories.take(order), samples.targets[order])


def situations(fake: FakeSignals) -> Iterator[Situation]:
    """Degenerate data a method must select from all the same, or refuse in one line."""
    yield Situation("a single sample", example_samples(1), fake)
    yield Situation("two samples", example_samples(2), fake)
    yield Situation("a user with 3,000 items", example_samples(20, longest=3000), fake)
    samples = example_samples(24)
    yield Situation("signals that are equal for all samples", samples, _flattened(fake, _equal))
    yield Situation("signals that are all zero", samples, _flattened(fake, np.zeros_like))


def fake_signal(request: Request, samples: Samples) -> NDArray[np.float32]:
    """A random value per sample id: a score [n], or a vector [n, 8] where the signal's name ends in ``vectors``.

    ``effort`` is NaN outside its ``candidates``, the most influential ones. What belongs to validation users has 20 rows
    whatever the samples. Raises MethodError for other signals.
    """
    if request.name not in SCORES and not request.name.endswith("vectors"):
        raise MethodError(f"there is no fake for the signal {request.name!r}: pass signals= to check_method")
    width = 8 if request.name.endswith("vectors") else 1
    seeds = [Runtime().derive(request.name, column) for column in range(width)]
    ids = np.arange(20) if request.name.startswith("validation") else samples.ids
    values = np.stack([priorities(ids, seed) / 2.0**64 for seed in seeds], axis=1).astype(np.float32)
    values = values if width > 1 else values[:, 0]
    candidates = request.config.get("candidates")
    if request.name == "effort" and candidates is not None and candidates < len(samples):
        influence = fake_signal(Request("influence"), samples)
        outside = np.ones(len(samples), bool)
        outside[top(influence, samples.ids, candidates, 0)] = False
        values[outside] = np.nan
    return values


def other_settings(settings: Config) -> Iterator[tuple[str, Config]]:
    """The settings with one field changed at a time, to several other valid values: ``(field, settings)``."""
    kind, given = type(settings), settings.model_dump(by_alias=True)
    for name, info in kind.model_fields.items():
        now = getattr(settings, name)
        for value in _values(info.annotation, now):
            try:
                other = kind.model_validate({**given, info.alias or name: value})
            except ValidationError:
                continue
            if other != settings:
                yield name, other


def _values(annotation: Any, now: Any) -> list[Any]:
    if get_origin(annotation) in (Union, UnionType):
        return [value for part in get_args(annotation) for value in _values(part, now)]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    number = now if isinstance(now, (int, float)) else 1
    known: dict[Any, list[Any]] = {
        bool: [True, False],
        NoneType: [None],
        int: [0, 1, 2, 3, 5, int(number) + 1, 2 * int(number)],
        float: [0.0, 0.1, 0.5, 0.9, 1.0, 2.0, number / 2, number * 2.0],
    }
    return known.get(annotation, [])


def _flattened(fake: FakeSignals, flat: Callable[[NDArray], NDArray]) -> FakeSignals:
    """The same signals without their differences; those that are no arrays, and missing values, stay as they are."""

    def signals(request: Request, samples: Samples) -> Any:
        made = fake(request, samples)
        if not (isinstance(made, np.ndarray) and np.issubdtype(made.dtype, np.floating)):
            return made
        return np.where(np.isnan(made), made, flat(made)).astype(made.dtype)

    return signals


def _equal(values: NDArray) -> NDArray:
    return np.broadcast_to(np.nanmax(values, axis=0), values.shape)


class _AnyOrder(Samples):
    def positions(self, ids: NDArray) -> Int64:
        order = np.argsort(self.ids)
        ordered = Samples(self.dataset, self.ids[order], self.histories.take(order), self.targets[order])
        return order[ordered.positions(ids)]
