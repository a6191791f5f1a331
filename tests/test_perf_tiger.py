"""The timings of TIGER compare like with like: both sides' results agree, and a side that is wrong is an error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_llm import make_dataset

from prunebench.benchmark import perf_tiger
from prunebench.recommenders.base import RecommenderError

SIZES = {"trained": 24, "users": 6, "generated": 3, "effort_samples": 3}


def test_every_row_times_both_sides() -> None:
    torch.set_num_threads(1)
    rows = perf_tiger.rows(make_dataset(), **SIZES)
    assert len(rows) == len({row["name"] for row in rows}) == 4
    for row in rows:
        assert row["ratio"] == pytest.approx(row["reference_s"] / row["ours_s"])


def test_efforts_that_disagree_mean_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perf_tiger, "efforts", lambda model, spelt, *_: np.ones(len(spelt), np.float32))
    with pytest.raises(RecommenderError, match="the times mean nothing"):
        perf_tiger.rows(make_dataset(), **SIZES)
