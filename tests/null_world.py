"""Two rows that do not differ, with effects of seeds, users and their interplay, and how often each test says they do.

``python tests/null_world.py 2000`` prints the rates of 2,000 simulations of each kind, with their standard errors.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from prunebench.leaderboard.resampling import Float64
from prunebench.leaderboard.statistics import RunValues, analyse, gather, paired_t

USERS = 200
KINDS = ("seeds", "users", "interplay", "all", "hits", "hits of other users")
TESTS = ("ours", "certain", "t over seeds", "percentile, crossed", "percentile, seeds", "pooled")


def simulate(kind: str, rng: np.random.Generator, seeds: int, finetunes: int, users: int) -> tuple[Float64, Float64]:
    """Values [cells, users] of two rows of equal expectation over seeds and users; "hits" are rare zeros and ones."""
    cells = seeds * finetunes
    if kind.startswith("hits"):
        chance = np.clip(rng.gamma(0.3, 0.1, users), 0, 1)
        other = chance if kind == "hits" else np.clip(rng.gamma(0.3, 0.1, users), 0, 1)
        return (rng.random((cells, users)) < chance).astype(float), (rng.random((cells, users)) < other).astype(float)
    of_seed, of_user, of_cell = {
        "seeds": (1.0, 0.0, 0.1),
        "users": (0.0, 1.0, 0.3),
        "interplay": (0.0, 0.0, 1.0),
        "all": (1 / math.sqrt(users), 0.5, 1.0),
    }[kind]
    effect = of_seed * np.repeat(rng.standard_normal((seeds, 1)), finetunes, axis=0)
    if finetunes > 1:
        effect = effect + of_seed * rng.standard_normal((cells, 1))
    effect = effect + of_user * rng.standard_normal((1, users)) + of_cell * rng.standard_normal((cells, users))
    base = rng.random((cells, users))
    return base + effect, base


def rates(
    kind: str, seeds: int, finetunes: int = 1, simulations: int = 200, users: int = USERS, resamples: int = 1000
) -> dict[str, float]:
    """Share of simulations in which each test finds a difference at 5%.

    ``pooled`` counts seeds × users as that many independent values; the percentile intervals redraw seeds alone, or seeds
    and users.
    """
    rng = np.random.default_rng([seeds, finetunes, KINDS.index(kind)])
    found = np.zeros(len(TESTS))
    for number in range(simulations):
        rows = dict(zip(("ours", "random"), simulate(kind, rng, seeds, finetunes, users), strict=True))
        result = analyse(
            gather(
                RunValues(row, cell // finetunes, cell % finetunes, np.arange(users), values[cell])
                for row, values in rows.items()
                for cell in range(seeds * finetunes)
            ),
            resamples=resamples,
            seed=number,
        ).to_reference[0]
        assert result.p is not None
        difference = rows["ours"] - rows["random"]
        units = difference.reshape(seeds, finetunes, users).mean(axis=1)
        of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), resamples) / seeds
        of_users = rng.multinomial(users, np.full(users, 1 / users), resamples) / users
        z = difference.mean() / (difference.std(ddof=1) / math.sqrt(difference.size))
        found += [
            result.p < 0.05,
            result.certain,
            paired_t(units.mean(axis=1))[1] < 0.05,
            _without_zero((of_seeds * (of_users @ units.T)).sum(axis=1)),
            _without_zero(of_seeds @ units.mean(axis=1)),
            abs(z) > 1.96,
        ]
    return dict(zip(TESTS, found / simulations, strict=True))


def _without_zero(redrawn: Float64) -> bool:
    low, high = np.quantile(redrawn, [0.025, 0.975])
    return bool(low > 0 or high < 0)


def main(simulations: int) -> None:
    for seeds, finetunes in ((3, 1), (6, 1), (10, 1), (6, 3)):
        for kind in KINDS:
            figures = [
                f"{name} {rate:.3f} ± {math.sqrt(rate * (1 - rate) / simulations):.3f}"
                for name, rate in rates(kind, seeds, finetunes, simulations).items()
            ]
            print(f"{seeds} seeds × {finetunes}, {kind}: {', '.join(figures)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
