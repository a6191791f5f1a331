"""Parts by other hands: what they raise, and what they give back, told in one line that names the part."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from filelock import Timeout

from prunebench.benchmark.contracts import REPORTED, broken_fitted
from prunebench.benchmark.errors import BAD_INPUT
from prunebench.benchmark.machine import disk_failed, out_of_memory
from prunebench.benchmark.metrics import MetricError, check_rankings
from prunebench.benchmark.store import StoreError
from prunebench.benchmark.undisturbed import undisturbed
from prunebench.datasets.schema import Samples, Sequences
from prunebench.methods.base import Evidence, MethodError, Scores
from prunebench.recommenders.base import Rankings, RecommenderError, Request
from prunebench.recommenders.runtime import Cancelled

OURS = (*BAD_INPUT, StoreError, Timeout, Cancelled, KeyboardInterrupt)
THEIRS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, BrokenPipeError)
"""Errors of the system that are more often a part's mistake than the machine's."""
ADVICE = "`bench --debug …` shows where"
SHARED = "what it is given is shared, and read only: work on a copy"
LONGEST_NOTE, MOST_NOTES = 1000, 100


@contextmanager
def blaming(part: str, built_in: bool = False) -> Iterator[None]:
    """What ``part`` raises becomes a MethodError naming it; documented errors and those of the machine pass.

    So does everything from a part that is ``built_in``: an unexpected error in it is a defect of ours. What a part
    changes for the whole process is put back.
    """
    try:
        with undisturbed():
            yield
    except OURS:
        raise
    except BaseException as error:
        machine = isinstance(error, OSError) and not isinstance(error, THEIRS)
        if machine or disk_failed(error) or out_of_memory(error) or (built_in and isinstance(error, Exception)):
            raise
        said = " ".join(str(error).split())
        advice = SHARED if isinstance(error, ValueError) and "read-only" in said else ADVICE
        if part.startswith("method "):
            advice += "; prunebench.methods.testing.check_method checks a method"
        raise MethodError(f"{part} failed with {type(error).__name__}: {said:.1000}; {advice}") from error


# -- what a part is given ----------------------------------------------------------------------------------------------


def read_only(samples: Samples) -> Samples:
    """The same samples as views that cannot be written to: others are given them, too."""
    histories = Sequences(_view(samples.histories.items), _view(samples.histories.offsets))
    return Samples(samples.dataset, _view(samples.ids), histories, _view(samples.targets))


def _view(values: np.ndarray) -> np.ndarray:
    view = values.view()
    view.setflags(write=False)
    return view


# -- what a part gives back --------------------------------------------------------------------------------------------


def checked_key(part: str, key: Any) -> dict[str, Any]:
    """What enters a hash. Raises MethodError unless it is a dictionary that JSON can hold."""
    try:
        json.dumps(key, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise MethodError(f"{part} must give plain JSON, it enters the hash: {error}") from None
    if not isinstance(key, dict):
        raise MethodError(f"{part} gave {type(key).__name__}; give a dictionary")
    return key


def checked_requests(part: str, requests: Any) -> dict[str, Request]:
    """What a part asks for. Raises MethodError unless they are requests by name."""
    if not isinstance(requests, dict) or not all(isinstance(request, Request) for request in requests.values()):
        raise MethodError(f"{part} must give a dictionary of prunebench.recommenders.base.Request by name")
    return requests


def checked_evidence(
    method: str, evidence: Any, samples: Samples, shared: frozenset[str], partial: frozenset[str] = frozenset()
) -> Evidence:
    """``prepare``'s answer. Raises MethodError unless it holds arrays of numbers by name, a row for each sample, all of
    them finite; NaN is for samples without a value, of evidence that the method calls ``partial``."""
    if not isinstance(evidence, Mapping):
        raise MethodError(f"method {method}: prepare gave {type(evidence).__name__}; give named arrays")
    for name, values in evidence.items():
        if not isinstance(name, str):
            raise MethodError(f"method {method}: evidence is named {name!r}; give a name in letters")
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.ndim not in (1, 2):
            raise MethodError(f"method {method}: evidence {name!r} must be an array of numbers, [n] or [n, d]")
        if name not in shared and len(values) != len(samples):
            raise MethodError(
                f"method {method}: evidence {name!r} has {len(values)} rows for {len(samples)} samples; give one row per sample"
            )
        wrong = ~np.isfinite(values)
        if name in partial:
            wrong &= ~np.isnan(values)
        if wrong.any():
            first, rows = np.argwhere(wrong)[0], int(wrong.reshape(len(values), -1).any(axis=1).sum())
            whose = f"row {first[0]}" if name in shared else f"sample {samples.ids[first[0]]}"
            more = f" (and {rows - 1} more)" if rows > 1 else ""
            raise MethodError(
                f"method {method}: evidence {name!r} is {values[tuple(first)]} for {whose}{more}; give finite numbers, or name it in `partial` if NaN means that a sample has none"
            )
    return dict(evidence)


def checked_selection(
    method: str, chosen: Any, samples: Samples, budget: int
) -> tuple[np.ndarray, dict[str, float | int | str]]:
    """``select``'s ids, increasing, and its notes. Raises MethodError unless they are ``budget`` distinct sample ids."""
    try:
        ids = np.asarray(getattr(chosen, "ids", None))
    except (TypeError, ValueError):  # rows of different lengths
        ids = np.empty((0, 0))
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise MethodError(f"method {method}: select must give a Selection with an array of sample ids, int64 [budget]")
    ids = np.sort(ids.astype(np.int64))
    if repeated := len(ids) - len(np.unique(ids)):
        raise MethodError(f"method {method} chose {repeated} samples more than once; a selection holds unique ids")
    if len(ids) != budget:
        raise MethodError(
            f"method {method} chose {len(ids)} samples for a budget of {budget}; choose exactly that many"
        )
    foreign = ids[~np.isin(ids, samples.ids)]
    if len(foreign):
        raise MethodError(
            f"method {method} chose {foreign[:3].tolist()}, which are no sample ids of {samples.dataset.name}; a position is no id: give samples.ids[positions]"
        )
    return ids, checked_notes(f"method {method}", getattr(chosen, "notes", {}))


def checked_scores(method: str, said: Any, samples: Samples) -> Scores:
    """``scores``' answer. Raises MethodError unless it has a number or NaN for each sample, and boundaries that rise."""
    try:
        values = np.asarray(said.values, np.float64)
        strata = None if said.strata is None else np.asarray(said.strata, np.float64)
        dropped_from = None if said.dropped_from is None else float(said.dropped_from)
    except (AttributeError, TypeError, ValueError):
        raise MethodError(f"method {method}: scores gave {type(said).__name__}; give Scores of numbers") from None
    if values.shape != (len(samples),) or np.isinf(values).any():
        raise MethodError(f"method {method}: scores must have a finite number for each sample, NaN where it has none")
    rises = strata is None or (strata.ndim == 1 and bool(np.isfinite(strata).all() and (np.diff(strata) >= 0).all()))
    if not rises or (dropped_from is not None and not math.isfinite(dropped_from)):
        raise MethodError(f"method {method}: scores has strata that are no rising boundaries; give finite numbers")
    return Scores(str(said.name)[:LONGEST_NOTE], values, strata, dropped_from)


def checked_notes(part: str, notes: Any) -> dict[str, float | int | str]:
    """Notes for a record. Raises MethodError unless they are few, short, and plain."""
    if not isinstance(notes, Mapping) or len(notes) > MOST_NOTES:
        what = f"{len(notes)} notes" if isinstance(notes, Mapping) else f"notes as {type(notes).__name__}"
        raise MethodError(f"{part}: {what}; give a dictionary of {MOST_NOTES} at most")
    return {str(name): _plain(part, str(name), value) for name, value in notes.items()}


def _plain(part: str, name: str, value: Any) -> float | int | str:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (int, float, str)) or (isinstance(value, float) and not math.isfinite(value)):
        raise MethodError(f"{part}: note {name[:40]!r} is {value!r:.60}; give text or a finite number")
    if len(name) > LONGEST_NOTE or (isinstance(value, str) and len(value) > LONGEST_NOTE):
        raise MethodError(
            f"{part}: note {name[:40]!r} is longer than {LONGEST_NOTE:,} characters; a record holds facts"
        )
    return value


def checked_fitted(part: str, fitted: Any) -> Any:
    """What ``fit`` or ``load`` gives. Raises RecommenderError where it cannot do what a fitted backbone must."""
    if fault := broken_fitted(fitted):
        raise RecommenderError(f"{part} {fault}")
    return fitted


def checked_report(part: str, report: Any) -> dict[str, Any]:
    """What a fit consumed, as plain numbers. Raises RecommenderError for what is none, and for a loss that is NaN."""
    try:
        facts: dict[str, Any] = {name: int(getattr(report, name)) for name in REPORTED if name != "valid_losses"}
        losses = [float(loss) for loss in report.valid_losses]
    except (TypeError, ValueError) as error:
        raise RecommenderError(f"{part}: its report does not hold numbers ({error}); give a FitReport") from None
    if not all(map(math.isfinite, losses)):
        raise RecommenderError(f"{part}: its validation loss became {losses[-1]}; lower the learning rate")
    return {**facts, "valid_losses": losses}


def checked_rankings(backbone: str, ranked: Any, depth: np.ndarray, n_items: int) -> Rankings:
    """``recommend``'s answer. Raises RecommenderError naming the backbone and, where there is one, the row."""
    arrays = {name: getattr(ranked, name, None) for name in ("items", "scores", "offsets")}
    flat = all(isinstance(values, np.ndarray) and values.ndim == 1 for values in arrays.values())
    if not flat or [arrays[name].dtype.kind in kinds for name, kinds in _NUMBERS.items()] != [True] * 3:  # type: ignore[union-attr]
        raise RecommenderError(
            f"backbone {backbone}: recommend gave {type(ranked).__name__}, not Rankings of whole-number items, scores and offsets; see prunebench.recommenders.base.Rankings"
        )
    ranked = Rankings(ranked.items.astype(np.int32), ranked.scores.astype(np.float32), ranked.offsets.astype(np.int64))
    offsets = ranked.offsets
    if len(offsets) != len(depth) + 1:
        raise RecommenderError(
            f"backbone {backbone} ranked {len(offsets) - 1} of {len(depth)} users; every user must be ranked"
        )
    if offsets[0] != 0 or (np.diff(offsets) < 0).any() or not len(ranked.items) == len(ranked.scores) == offsets[-1]:
        raise RecommenderError(
            f"backbone {backbone}: the offsets of its rankings do not start at 0, rise, and end at their number"
        )
    try:
        check_rankings(ranked, depth, n_items)
    except MetricError as error:
        raise RecommenderError(f"backbone {backbone}: {error}") from None
    return ranked


_NUMBERS = {"items": "iu", "scores": "fiu", "offsets": "iu"}
