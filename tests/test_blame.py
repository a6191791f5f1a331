"""What parts by other hands raise or give back: one line that names the part, and nothing let through."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prunebench.benchmark.blame import blaming, checked_evidence, checked_selection
from prunebench.datasets.schema import DataError
from prunebench.methods.base import MethodError, Selection
from prunebench.methods.examples import example_samples
from prunebench.recommenders.runtime import Cancelled

SAMPLES = example_samples(10)
IDS = SAMPLES.ids


@pytest.mark.parametrize("error", [KeyError("boom\nsecond"), ZeroDivisionError("x"), SystemExit("bye")])
def test_what_a_part_raises_is_one_line_that_names_it(error: BaseException) -> None:
    with pytest.raises(MethodError, match="method mine: select failed with") as caught, blaming("method mine: select"):
        raise error
    assert type(error).__name__ in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [MethodError("no"), DataError("no"), Cancelled(), MemoryError(), KeyboardInterrupt()])
def test_documented_errors_and_those_of_the_machine_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, blaming("method mine"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (None, "prepare gave NoneType"),
        ({"v": 3.0}, "'v' must be an array of numbers"),
        ({"v": np.array([{}] * 10)}, "'v' must be an array of numbers"),
        ({"v": np.zeros((10, 2, 2))}, r"\[n\] or \[n, d\]"),
        ({"v": np.zeros(9)}, "9 rows for 10 samples"),
    ],
)
def test_evidence_that_cannot_be_kept_is_refused(evidence: Any, said: str) -> None:
    with pytest.raises(MethodError, match=f"method mine.*{said}"):
        checked_evidence("mine", evidence, SAMPLES, frozenset())


def test_evidence_of_nobody_may_have_any_length() -> None:
    given = {"v": np.zeros(10), "validation": np.zeros((3, 2))}
    assert checked_evidence("mine", given, SAMPLES, frozenset({"validation"})) == given


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (None, "must give a Selection"),
        (Selection(IDS[:3] + 0.5), "int64"),
        (Selection(IDS[:3].astype(str)), "int64"),  # type: ignore[arg-type]
        (Selection(IDS[[0, 1, 1]]), "1 samples more than once"),
        (Selection(IDS[:2]), "chose 2 samples for a budget of 3"),
        (Selection(np.append(IDS[:2], 10**6)), "1000000.*no sample ids"),
        (Selection(IDS[:3], {"x": float("nan")}), "note 'x' is nan"),
        (Selection(IDS[:3], {"x": [1]}), r"note 'x' is \[1\]"),  # type: ignore[dict-item]
    ],
)
def test_a_selection_that_is_none_is_refused(chosen: Any, said: str) -> None:
    with pytest.raises(MethodError, match=f"method mine.*{said}"):
        checked_selection("mine", chosen, SAMPLES, 3)


def test_ids_come_back_increasing_and_notes_plain() -> None:
    notes = {"a": np.float32(0.5), "b": np.int64(2), "c": "x"}
    ids, plain = checked_selection("mine", SimpleNamespace(ids=IDS[[5, 2]].astype(np.int32), notes=notes), SAMPLES, 2)
    assert ids.dtype == np.int64
    assert ids.tolist() == sorted(IDS[[5, 2]].tolist())
    assert plain == {"a": 0.5, "b": 2, "c": "x"}
    assert [type(value) for value in plain.values()] == [float, int, str]
