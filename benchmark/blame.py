"""Parts by other hands: what they raise, and what they give back, told in one line that names the part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from filelock import Timeout

from prunebench.benchmark.errors import BAD_INPUT
from prunebench.benchmark.store import StoreError
from prunebench.datasets.schema import Samples
from prunebench.methods.base import Evidence, MethodError
from prunebench.recommenders.runtime import Cancelled

OURS = (*BAD_INPUT, StoreError, Timeout, Cancelled, OSError, MemoryError)
ADVICE = "`bench --debug …` shows where; prunebench.methods.testing.check_method checks a method"


@contextmanager
def blaming(part: str) -> Iterator[None]:
    """What ``part`` raises becomes a MethodError naming it; documented errors and those of the machine pass."""
    try:
        yield
    except OURS:
        raise
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        raise MethodError(f"{part} failed with {type(error).__name__}: {said}; {ADVICE}") from error


def checked_evidence(method: str, evidence: Any, samples: Samples, shared: frozenset[str]) -> Evidence:
    """``prepare``'s answer. Raises MethodError unless it holds arrays of numbers by name, a row for each sample."""
    if not isinstance(evidence, Mapping):
        raise MethodError(f"method {method}: prepare gave {type(evidence).__name__}; give named arrays")
    for name, values in evidence.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf" or values.ndim not in (1, 2):
            raise MethodError(f"method {method}: evidence {name!r} must be an array of numbers, [n] or [n, d]")
        if name not in shared and len(values) != len(samples):
            raise MethodError(
                f"method {method}: evidence {name!r} has {len(values)} rows for {len(samples)} samples; give one row per sample"
            )
    return dict(evidence)


def checked_selection(
    method: str, chosen: Any, samples: Samples, budget: int
) -> tuple[np.ndarray, dict[str, float | int | str]]:
    """``select``'s ids, increasing, and its notes. Raises MethodError unless they are ``budget`` distinct sample ids."""
    ids = np.asarray(getattr(chosen, "ids", None))
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
    return ids, {str(name): _plain(method, name, value) for name, value in chosen.notes.items()}


def _plain(method: str, name: str, value: Any) -> float | int | str:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (int, float, str)) or (isinstance(value, float) and not math.isfinite(value)):
        raise MethodError(f"method {method}: note {name!r} is {value!r}; give text or a finite number")
    return value
