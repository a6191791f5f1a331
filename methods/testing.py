"""Conformance suite for pruning methods: what a plugin's own test runs, with fake signals and small data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from prunebench.datasets.schema import Samples
from prunebench.methods.base import Evidence, Explains, Explanation, HasScores, MethodError, Scores, Selection
from prunebench.methods.examples import (
    FakeSignals,
    example_samples,
    fake_signal,
    other_settings,
    shuffled,
    situations,
    with_hidden_parts,
)
from prunebench.methods.selection import check_selection
from prunebench.recommenders.base import Config, Request
from prunebench.recommenders.runtime import Runtime

__all__ = ["FakeSignals", "check_method", "example_samples", "fake_signal"]

CONTRACT = ("Config", "version", "requests", "evidence_key", "prepare", "select")


def check_method(
    method: type[Any],
    config: Mapping[str, Any] | None = None,
    signals: FakeSignals | None = None,
    n: int = 60,
    budgets: Sequence[int] | None = None,
) -> None:
    """Check that ``method`` keeps the contract of ``prunebench.methods.base``; a plugin's test is one call of this.

    Checked: docstring and version; the configuration (JSON round-trip, unknown key refused); requests (JSON-able, with
    settings their signals have) and evidence key; that the key covers every setting ``prepare`` reads; evidence that is
    float32, aligned with the samples, finite, and the same again; selections of 1, n / 4 and n of ``n`` samples (or of
    the given ``budgets``, for a method that cannot meet any): exactly the budget, distinct sample ids, the same again
    for the same seed, on any instance, for any order of the samples, whatever validation and test hold; ``explain``, where
    there is one, which must agree with the selection; ``scores``, likewise, which must fit the samples; and degenerate data (``prunebench.methods.examples.situations``), where a MethodError in one line will do as well as a selection.
    ``signals`` supplies signals that ``fake_signal`` does not know.

    Raises MethodError naming the method, what is wrong, and what to do.
    """
    for attribute in CONTRACT:
        if not hasattr(method, attribute):
            raise MethodError(f"{method.__name__} has no {attribute}; see prunebench.methods.base.PruningMethod")
    trial = _Trial(method, _check_config(method, dict(config or {})), signals or fake_signal)
    _check_class(trial)
    _check_requests(trial)
    samples = example_samples(n)
    evidence = trial.prepare(samples)
    if not _same(evidence, trial.prepare(samples)):
        trial.fail("prepare gave other evidence for the same seed: draw from runtime.rng(purpose) alone")
    _check_key(trial, samples, evidence)
    for budget in (1, n // 4, n) if budgets is None else budgets:
        _check_selections(trial, samples, evidence, budget)
        _check_explanations(trial, samples, evidence, budget)
        _check_scores(trial, samples, evidence, budget)
    _check_situations(trial)


@dataclass(frozen=True)
class _Trial:
    """A method with one configuration and its signals; every step's failure is told as the method's."""

    method: type[Any]
    settings: Config
    fake: FakeSignals

    def fail(self, message: str, cause: Exception | None = None) -> NoReturn:
        raise MethodError(f"{self.method.__name__}: {message}") from cause

    def call(self, step: str, work: Callable[..., Any], *given: Any, place: str = "") -> Any:
        try:
            return work(*given)
        except MethodError as error:
            if "\n" in str(error).strip():
                self.fail(f"the MethodError of {step}{place} has several lines; say it in one", error)
            self.fail(f"{step}{place} refused: {error}", error)
        except Exception as error:
            self.fail(
                f"{step}{place} failed with {type(error).__name__}: {' '.join(str(error).split())}; "
                "make it work, or raise a MethodError that says in one line what to do",
                error,
            )

    def build(self) -> Any:
        return self.call("its constructor", self.method, self.settings)

    def requests(self) -> dict[str, Request]:
        return self.call("requests()", self.build().requests)

    def identity(self) -> str:
        """What the harness knows evidence by: the requests and the evidence key."""
        wanted = {name: [request.name, dict(request.config)] for name, request in self.requests().items()}
        return json.dumps([wanted, self.call("evidence_key()", self.build().evidence_key)], sort_keys=True)

    def _signals(self, samples: Samples) -> dict[str, Any]:
        try:
            return {name: self.fake(request, samples) for name, request in self.requests().items()}
        except MethodError as error:
            self.fail(str(error))

    def prepare(self, samples: Samples, place: str = "", built: Any = None) -> Evidence:
        built = built or self.build()
        signals = self._signals(samples)
        before = {name: value.copy() for name, value in signals.items() if isinstance(value, np.ndarray)}
        evidence = self.call("prepare", built.prepare, samples, signals, Runtime(), place=place)
        if not _same(before, signals):
            self.fail("prepare changed a signal it was given, which other methods share: work on a copy")
        if not isinstance(evidence, Mapping):
            self.fail(f"prepare must give named arrays, not {type(evidence).__name__}")
        for name, values in evidence.items():
            self._check_values(built, samples, name, values, place)
        return dict(evidence)

    def _check_values(self, built: Any, samples: Samples, name: str, values: Any, place: str) -> None:
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.ndim not in (1, 2):
            self.fail(f"evidence {name!r} must be a float32 array [n] or [n, d]: cast it with .astype(np.float32)")
        shared = name in getattr(built, "shared", ())
        if not shared and len(values) != len(samples):
            self.fail(
                f"evidence {name!r} has {len(values)} rows for {len(samples)} samples{place}: give one row per sample, "
                "or name it in `shared` if it belongs to no sample"
            )
        allowed = np.isnan(values) if name in getattr(built, "partial", ()) else np.zeros(values.shape, bool)
        bad = np.argwhere(~np.isfinite(values) & ~allowed)
        if len(bad):
            where = f"row {bad[0, 0]}" if shared else f"sample {samples.ids[bad[0, 0]]}"
            self.fail(
                f"evidence {name!r} is {values[tuple(bad[0])]} for {where}{place}: give every sample a finite value, "
                "or name it in `partial` if NaN means that a sample has none"
            )

    def select(
        self, samples: Samples, evidence: Evidence, budget: int, place: str = "", built: Any = None
    ) -> Selection:
        built = built or self.build()
        given = {name: values.copy() for name, values in evidence.items()}
        before = _columns(samples)
        place = f" with a budget of {budget} of {len(samples)}{place}"
        chosen = self.call("select", built.select, samples, given, budget, Runtime(seed=3), place=place)
        if not isinstance(chosen, Selection):
            self.fail(f"select must give a Selection, not {type(chosen).__name__}: see methods.selection.selection")
        try:
            check_selection(chosen, samples, budget)
        except MethodError as error:
            self.fail(f"select{place}: {error}")
        if not _same(given, evidence):
            self.fail("select changed the evidence, which serves other budgets too: work on a copy")
        if not _same(_columns(samples), before):
            self.fail("select changed the samples, which other methods share: work on a copy")
        if not all(type(note) in (float, int, str) for note in chosen.notes.values()):
            self.fail(f"the notes of a selection are plain numbers and text, not {chosen.notes}: use float() or int()")
        return chosen


def _check_class(trial: _Trial) -> None:
    method = trial.method
    if not (method.__doc__ or "").strip():
        trial.fail("the class has no docstring: say what it selects, and which paper it is from")
    if type(method.version) is not int:
        trial.fail(f"version must be a whole number to raise when results change, not {method.version!r}")


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


def _check_requests(trial: _Trial) -> None:
    requests = trial.requests()
    if not isinstance(requests, Mapping) or not all(isinstance(request, Request) for request in requests.values()):
        trial.fail(f"requests must give Request objects by name, not {requests}")
    try:
        trial.identity()
    except (TypeError, ValueError) as error:
        if isinstance(error, MethodError):
            raise
        trial.fail(f"request and evidence_key settings must be JSON-able: {error}", error)
    for request in requests.values():
        for provider in metadata.entry_points(group="prunebench.signals", name=request.name):
            kind = trial.call(f"the signal {request.name!r} it asks for", provider.load).Config
            try:
                kind.model_validate(dict(request.config))
            except ValidationError as error:
                first = error.errors()[0]
                trial.fail(
                    f"the signal {request.name!r} refuses the request's setting "
                    f"{'.'.join(map(str, first['loc']))!r}: {first['msg'].lower()}; "
                    f"it has {', '.join(kind.model_fields) or 'none'}"
                )


def _check_key(trial: _Trial, samples: Samples, evidence: Evidence) -> None:
    """Change each setting: evidence that follows while its identity does not would be taken from the store, stale."""
    identity = trial.identity()
    for name, settings in other_settings(trial.settings):
        other = replace(trial, settings=settings)
        if other.identity() != identity:
            continue
        changed = other.prepare(samples, f" with {name} = {getattr(settings, name)!r}")
        if not _same(changed, evidence):
            trial.fail(
                f"prepare reads the setting {name!r}, but neither requests() nor evidence_key() names it, so that "
                "stored evidence would go stale: add it to evidence_key()"
            )


def _check_selections(trial: _Trial, samples: Samples, evidence: Evidence, budget: int) -> None:
    first = trial.select(samples, evidence, budget)
    if not np.array_equal(first.ids, trial.select(samples, evidence, budget).ids):
        trial.fail(
            f"select chose other samples for the same seed and budget {budget}: draw from runtime.rng(purpose) or "
            "prunebench.methods.selection, not from a global generator"
        )
    used = trial.build()
    trial.prepare(samples, built=used)
    for _ in range(2):
        if not np.array_equal(first.ids, trial.select(samples, evidence, budget, built=used).ids):
            trial.fail(
                f"select chose other samples (budget {budget}) on an instance used before: it may depend on samples, "
                "evidence, budget and seed alone, so keep nothing on self"
            )
    other = shuffled(samples)
    if not np.array_equal(first.ids, trial.select(other, trial.prepare(other), budget).ids):
        trial.fail(
            f"select chose other samples when their order changed (budget {budget}): break ties and draw by a hash of "
            "the sample id, as prunebench.methods.selection does"
        )
    other = with_hidden_parts(samples)
    if not np.array_equal(first.ids, trial.select(other, trial.prepare(other), budget).ids):
        trial.fail(
            f"the selection (budget {budget}) depends on validation, test or labels of samples.dataset: use train "
            "alone, or ask for a signal that declares what it reads"
        )


def _check_explanations(trial: _Trial, samples: Samples, evidence: Evidence, budget: int) -> None:
    """Of a method that explains itself: a sample's verdict is that of the selection; some twenty are tried."""
    if not isinstance(trial.build(), Explains):
        return
    chosen = trial.select(samples, evidence, budget)
    for position in range(0, len(samples), max(1, len(samples) // 20)):
        sample = int(samples.ids[position])
        given = samples, dict(evidence), chosen, Runtime(seed=3), position
        said, is_kept = trial.call("explain", trial.build().explain, *given), sample in chosen.ids
        if not isinstance(said, Explanation) or bool(said.kept) != is_kept:
            trial.fail(
                f"explain says other than select about sample {sample} (budget {budget}), which was "
                f"{'kept' if is_kept else 'not kept'}: work both out by the same functions, and give an Explanation"
            )


def _check_scores(trial: _Trial, samples: Samples, evidence: Evidence, budget: int) -> None:
    """Of a method that has scores: one for each sample, and for every sample that was chosen."""
    if not isinstance(trial.build(), HasScores):
        return
    chosen = trial.select(samples, evidence, budget)
    said = trial.call("scores", trial.build().scores, samples, dict(evidence), chosen, Runtime(seed=3))
    values = np.asarray(getattr(said, "values", None))
    if not isinstance(said, Scores) or values.shape != (len(samples),) or np.isinf(values).any():
        trial.fail("scores must give Scores with a number for each sample, NaN where it has none")
    if np.isnan(values[np.isin(samples.ids, chosen.ids)]).any():
        trial.fail(f"scores has none for a sample that select chose (budget {budget})")


def _check_situations(trial: _Trial) -> None:
    """A selection, or a MethodError in one line: nothing else."""
    for situation in situations(trial.fake):
        n, place = len(situation.samples), f" on {situation.name}"
        there = replace(trial, fake=situation.signals)
        try:
            evidence = there.prepare(situation.samples, place)
        except MethodError as error:
            _allow_refusal(error)
            continue
        for budget in sorted({0, 1, n // 4, n}):
            try:
                there.select(situation.samples, evidence, budget, place)
            except MethodError as error:
                _allow_refusal(error)


def _allow_refusal(error: MethodError) -> None:
    """Raise it again unless it is the method's own refusal in one line."""
    cause = error.__cause__
    if not isinstance(cause, MethodError) or "\n" in str(cause).strip():
        raise error


def _columns(samples: Samples) -> dict[str, NDArray]:
    histories = samples.histories
    arrays = {"ids": samples.ids, "targets": samples.targets, "items": histories.items, "offsets": histories.offsets}
    return {name: np.array(values) for name, values in arrays.items()}


def _same(ours: Mapping[str, NDArray], theirs: Mapping[str, Any]) -> bool:
    """Whether the arrays of ``ours`` are also in ``theirs``, value by value."""
    return all(name in theirs and np.array_equal(ours[name], theirs[name], equal_nan=True) for name in ours)
