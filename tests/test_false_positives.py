"""How often the statistics find a difference where there is none, and what simpler tests would find.

Bounds leave at least three standard errors of these few simulations; ``null_world.py`` prints the rates of many.
"""

from __future__ import annotations

import pytest
from null_world import rates


@pytest.mark.parametrize("kind", ["seeds", "users", "interplay", "hits of other users"])
@pytest.mark.parametrize("seeds", [6, 10])
def test_the_bootstrap_keeps_its_level_whatever_varies(kind: str, seeds: int) -> None:
    assert rates(kind, seeds, simulations=100, users=80, resamples=400)["ours"] <= 0.12


def test_the_hierarchical_bootstrap_keeps_its_level() -> None:
    assert rates("seeds", 6, 3, simulations=100, users=40, resamples=400)["ours"] <= 0.12


def test_three_seeds_want_the_t_interval() -> None:
    found = rates("seeds", 3, simulations=200, users=40, resamples=400)
    assert found["ours"] == found["t over seeds"] <= 0.12
    assert found["percentile, seeds"] > 0.15
    assert found["percentile, crossed"] > 0.15
    assert found["pooled"] > 0.7


def test_a_t_interval_alone_says_nothing_about_other_users() -> None:
    found = rates("users", 3, simulations=200, users=40, resamples=400)
    assert found["ours"] > 0.3
    assert found["certain"] <= 0.13


def test_a_percentile_interval_is_too_narrow_for_six_seeds_and_too_wide_for_their_interplay_with_users() -> None:
    assert rates("seeds", 6, simulations=200, users=40, resamples=400)["percentile, crossed"] > 0.08
    found = rates("interplay", 6, simulations=200, users=40, resamples=400)
    assert found["percentile, crossed"] < 0.01 < found["ours"]
