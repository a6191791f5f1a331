"""How a method's scores are spread over all samples and over those it kept: a histogram, as a run's folder has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from prunebench.leaderboard.record import Part, RecordError

FILE = "scores.json"
"""Its name in a run's folder; runs of methods without one score per sample have none."""
BINS = 60


class ScoreSummary(Part):
    """One score per sample, counted in bins of equal width.

    ``name``: what the score is; ``edges`` [bins + 1], increasing, the last bin with its upper edge; ``samples`` and ``kept``
    [bins]: how many of all and of the kept samples fall into each; ``unscored``: samples without a score; ``strata``: the
    boundaries the draw's strata have (empty where it has none); ``dropped_from``: samples with scores from here up
    were dropped before the draw, None where none were.
    """

    format: Literal[1] = 1
    name: str
    edges: list[float] = Field(min_length=2)
    samples: list[int]
    kept: list[int]
    unscored: int = 0
    strata: list[float] = Field([])
    dropped_from: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> ScoreSummary:
        if not len(self.samples) == len(self.kept) == len(self.edges) - 1:
            raise ValueError("samples and kept must have a count per bin")
        if any(high <= low for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges must increase")
        if any(not 0 <= few <= many for few, many in zip(self.kept, self.samples, strict=True)):
            raise ValueError("more samples kept than there are")
        return self


def summarise(
    name: str,
    scores: NDArray[np.float64],
    kept: NDArray[np.bool_],
    strata: NDArray[np.float64] | None = None,
    dropped_from: float | None = None,
) -> ScoreSummary | None:
    """Count ``scores`` [n] (NaN: none) of all and of the ``kept`` [n]; None where no sample has a score."""
    scored = np.isfinite(scores)
    if not scored.any():
        return None
    low, high = float(scores[scored].min()), float(scores[scored].max())
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-30):  # bins narrower than that cannot be told apart
        margin = max(abs(low) * 1e-3, 1e-3)
        low, high = low - margin, high + margin
    edges = np.linspace(low, high, BINS + 1)
    return ScoreSummary(
        name=name,
        edges=edges.tolist(),
        samples=np.histogram(scores[scored], edges)[0].tolist(),
        kept=np.histogram(scores[scored & kept], edges)[0].tolist(),
        unscored=int((~scored).sum()),
        strata=[] if strata is None else np.asarray(strata, np.float64).tolist(),
        dropped_from=dropped_from,
    )


def read_scores(path: Path) -> ScoreSummary:
    """Raises RecordError in one line where the file is no summary of scores."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"cannot read the scores {path}: {error}; run it again") from None
    return parse_scores(text, str(path))


def parse_scores(text: str, source: str) -> ScoreSummary:
    """A summary from its JSON; ``source`` names it in errors. Raises RecordError in one line."""
    try:
        return ScoreSummary.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "scores"
        raise RecordError(f"{source} is no summary of scores: {where}: {first['msg']}; run it again") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"cannot read the scores {source}: {error}; run it again") from None
