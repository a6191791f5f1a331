"""A data set like `mini`, only small, for runs through the command line."""

from __future__ import annotations

from prunebench.datasets.synthetic import MiniConfig

SMALL_WORLD = MiniConfig(
    users=160,
    valid_users=40,
    test_users=50,
    genres=4,
    franchises_per_genre=3,
    instalments=3,
    platforms=2,
    editions=4,
    longest=6,
    listed_twice=2,
)
