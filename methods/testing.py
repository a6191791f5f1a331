"""Conformance suite for pruning methods: what a plugin's own test runs, with fake signals and small data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from prunebench.datasets.schema import Int64, RecDataset, Samples, Sequences
from prunebench.methods.base import Evidence, MethodError, Selection
from prunebench.methods.selection import check_selection, priorities, top
from prunebench.recommenders.base import Config, Request
from prunebench.recommenders.runtime import Runtime

SCORES = ("influence", "effort", "el2n", "grand", "forgetting", "token_errors", "less")
FakeSignals = Callable[[Request, Samples], Any]
"""From a request and the samples to the signal's value, which must follow each sample by its id."""


def check_method(
    method: type[Any],
    config: Mapping[str, Any] | None = None,
    signals: FakeSignals | None = None,
    n: int = 60,
    budgets: Sequence[int] | None = None,
) -> None:
    """Check that ``method`` keeps the contract of ``prunebench.methods.base``; a plugin's test is one call of this.

    Checked: the configuration (JSON round-trip, unknown key refused), JSON-able requests and evidence key, evidence
    aligned with the samples, and selections of 1, n / 4 and n of ``n`` samples (or of the given ``budgets``, for a
    method that cannot meet any): exactly the budget, distinct sample ids, the same again for the same seed and for any
    order of the samples. ``signals`` supplies signals that ``fake_signal`` does not know.

    Raises MethodError saying what is wrong and, where it can, why.
    """
    for attribute in ("Config", "version", "requests", "evidence_key", "prepare", "select"):
        if not hasattr(method, attribute):
            raise MethodError(f"{method.__name__} has no {attribute}; see prunebench.methods.base.PruningMethod")
    settings = _check_config(method, dict(config or {}))
    samples = example_samples(n)
    fake = signals or fake_signal
    evidence = _prepare(method, settings, samples, fake)
    shuffled = _shuffled(samples)
    shuffled_evidence = _prepare(method, settings, shuffled, fake)
    for budget in (1, n // 4, n) if budgets is None else budgets:
        first = _select(method, settings, samples, evidence, budget)
        if not np.array_equal(first.ids, _select(method, settings, samples, evidence, budget).ids):
            raise MethodError(
                f"{method.__name__} chose other samples for the same seed and budget {budget}: draw from "
                "runtime.rng(purpose) or prunebench.methods.selection, not from a global generator"
            )
        if not np.array_equal(first.ids, _select(method, settings, shuffled, shuffled_evidence, budget).ids):
            raise MethodError(
                f"{method.__name__} chose other samples when their order changed (budget {budget}): break ties and "
                "draw by a hash of the sample id, as prunebench.methods.selection does"
            )


def example_samples(n: int, seed: int = 0) -> Samples:
    """``n`` samples of a small random data set, with gaps between their ids: an id is never a position."""
    rng = np.random.default_rng(seed)
    lengths = np.zeros(2 * n + 3, np.int64)
    lengths[np.sort(rng.choice(np.arange(3, 2 * n + 3), n, replace=False))] = rng.integers(2, 9, n)
    train = Sequences.from_flat(rng.integers(0, 40, int(lengths.sum())), lengths)
    nobody = Sequences.empty(len(lengths))
    return RecDataset("example", tuple(f"item {item}" for item in range(40)), train, nobody, nobody).samples()


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


class _AnyOrder(Samples):
    """Samples whose ids are not increasing, and that can still be looked up."""

    def positions(self, ids: NDArray) -> Int64:
        order = np.argsort(self.ids)
        ordered = Samples(self.dataset, self.ids[order], self.histories.take(order), self.targets[order])
        return order[ordered.positions(ids)]


def _shuffled(samples: Samples) -> Samples:
    order = np.random.default_rng(1).permutation(len(samples))
    return _AnyOrder(samples.dataset, samples.ids[order], samples.histories.take(order), samples.targets[order])


def _check_config(method: type[Any], values: dict[str, Any]) -> Config:
    kind = method.Config
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        raise MethodError(f"{method.__name__}.Config must be a pydantic model: derive it from recommenders.base.Config")
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        raise MethodError(f"{method.__name__}.Config refuses {values}: {error.errors()[0]['msg']}") from None
    if kind.model_validate_json(settings.model_dump_json()) != settings:
        raise MethodError(f"{method.__name__}.Config is not the same after a round trip through JSON")
    try:
        kind.model_validate({**values, "no_such_setting": 1})
    except ValidationError:
        return settings  # type: ignore[return-value]
    raise MethodError(
        f"{method.__name__}.Config accepts unknown settings, so a typing error would go unnoticed: "
        "derive it from recommenders.base.Config"
    )


def _prepare(method: type[Any], settings: Config, samples: Samples, fake: FakeSignals) -> Evidence:
    built = method(settings)
    requests = built.requests()
    if not all(isinstance(request, Request) for request in requests.values()):
        raise MethodError(f"{method.__name__}.requests must give Request objects by name, not {requests}")
    try:
        json.dumps([dict(request.config) for request in requests.values()] + [built.evidence_key()])
    except (TypeError, ValueError) as error:
        raise MethodError(f"{method.__name__}: request and evidence_key settings must be JSON-able: {error}") from None
    evidence = built.prepare(samples, {name: fake(request, samples) for name, request in requests.items()}, Runtime())
    for name, values in evidence.items():
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.ndim not in (1, 2):
            raise MethodError(f"evidence {name!r} of {method.__name__} must be a float32 array [n] or [n, d]")
        if name not in getattr(built, "shared", ()) and len(values) != len(samples):
            raise MethodError(
                f"evidence {name!r} of {method.__name__} has {len(values)} rows for {len(samples)} samples"
            )
    return evidence


def _select(method: type[Any], settings: Config, samples: Samples, evidence: Evidence, budget: int) -> Selection:
    copies = {name: values.copy() for name, values in evidence.items()}
    chosen = method(settings).select(samples, copies, budget, Runtime(seed=3))
    try:
        check_selection(chosen, samples, budget)
    except MethodError as error:
        raise MethodError(f"{method.__name__} with a budget of {budget} of {len(samples)}: {error}") from None
    return chosen
