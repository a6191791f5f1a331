"""What a run's stages gave, before it becomes a record."""

from __future__ import annotations

from dataclasses import dataclass

from prunebench.benchmark.config import RunConfig
from prunebench.benchmark.metrics import PerUser
from prunebench.benchmark.store import Artefact
from prunebench.datasets.schema import Queries, RecDataset, Samples
from prunebench.leaderboard.score_summary import ScoreSummary
from prunebench.methods.base import Selection
from prunebench.recommenders.base import Rankings


@dataclass(frozen=True)
class Pruned:
    """What pruning gave: the selection, its artefact, what it ``uses`` (surrogate, LLM or backbone, text, validation), and
    the artefact of its evidence."""

    selection: Selection
    artefact: Artefact | None
    uses: tuple[str, ...] = ()
    evidence: Artefact | None = None


@dataclass(frozen=True)
class Outcome:
    """Everything a record is made from."""

    run: RunConfig
    dataset: RecDataset
    samples: Samples
    queries: Queries
    pruned: Pruned
    fitted: Artefact
    predictions: Artefact
    rankings: Rankings
    per_user: dict[str, PerUser]
    reads: dict[str, list[str]]
    scores: ScoreSummary | None
