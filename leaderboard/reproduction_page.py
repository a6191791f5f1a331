"""A table or figure of the paper as data: ours, theirs and the difference, panel by panel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from prunebench.leaderboard import paper_figures
from prunebench.leaderboard.comparisons import Difference, rounded
from prunebench.leaderboard.per_user import metric_names
from prunebench.leaderboard.record import Part, RecordError
from prunebench.leaderboard.reproductions import FULL, Found, Row, Wanted
from prunebench.leaderboard.user_groups import UserGroups

PAPERS = "games"
"""The paper's data set whose figures stand beside ours where ours is none of the paper's."""


class Score(Part):
    """One metric of one row: mean and sample standard deviation over seeds; ``theirs`` from the paper's tables.

    ``difference`` to theirs, on the paper's own data only. ``gain`` and ``their_gain``: how much higher than the reference,
    as a share of its mean over the seeds both have. ``to_reference``: the difference and how sure it is. ``best``: no other
    method is higher with the same backbone and as many samples; None where one lacks a seed.
    """

    ours: float | None
    sd: float | None
    theirs: float | None
    difference: float | None
    gain: float | None
    their_gain: float | None
    to_reference: Difference | None
    best: bool | None
    their_best: bool


class Line(Part):
    """A row as it is printed. ``reference``: it is what others are read against.

    Mean seconds per run, None where they do not add up; ``their_hours`` what tables 3 and 4 have of time.
    """

    label: str
    method: str
    backbone: str
    llm: str | None
    surrogate: str
    budget: int
    share: float
    asked: dict[str, Any]
    reference: bool
    seeds: int
    wanted_seeds: int
    scores: dict[str, Score]
    pruning_s: float | None
    total_s: float | None
    hardware: list[str]
    surrogate_s: float | None
    their_hours: float | None
    their_surrogate_hours: float | None


class Panel(Part):
    """One data set. ``theirs``: the paper's data set whose figures stand beside ours; ``same``: it is this one, not only by
    name. ``groups``: of users, in Fig. 6."""

    dataset: str
    theirs: str
    same: bool
    llms: list[str]
    metrics: list[str]
    lines: list[Line]
    groups: list[UserGroups] = Field([])


class Reproduction(Part):
    """A table or figure of the paper: ``there`` of ``wanted`` runs, the ``command`` that makes it, and its panels.

    ``against``: the method that others are read against, with ``resamples`` redraws.
    """

    name: str
    title: str
    command: str
    wanted: int
    there: int
    against: str
    resamples: int
    panels: list[Panel]


def read_reproduction(path: Path) -> Reproduction:
    """A page from its JSON. Raises RecordError in one line where it is none."""
    try:
        return Reproduction.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "page"
        raise RecordError(f"{path} is no page of `bench reproduce`: {where}: {first['msg']}; delete it") from None


def reproduction(name: str, title: str, command: str, found: Found) -> Reproduction:
    """What is there of a table or figure, a panel per data set in the study's order."""
    datasets = dict.fromkeys(row.wanted.dataset for row in found.rows)
    return Reproduction(
        name=name,
        title=title,
        command=command,
        wanted=found.wanted,
        there=found.there,
        against=found.against,
        resamples=found.resamples,
        panels=[_panel(found, dataset) for dataset in datasets],
    )


def _panel(found: Found, dataset: str) -> Panel:
    rows = [row for row in found.rows if row.wanted.dataset == dataset]
    theirs = dataset if dataset in paper_figures.DATASETS else PAPERS
    contents = [run.record.dataset for row in rows for run in row.runs.values()]
    same = theirs == dataset and all(map(paper_figures.is_papers, contents))
    metrics = metric_names(paper_figures.cutoffs(dataset))
    return Panel(
        dataset=dataset,
        theirs=theirs,
        same=same,
        llms=list(dict.fromkeys(row.wanted.llm for row in rows if row.wanted.llm)),
        metrics=metrics,
        lines=[_line(found, row, theirs, same, metrics) for row in rows],
    )


def _line(found: Found, row: Row, theirs: str, same: bool, metrics: Sequence[str]) -> Line:
    wanted, paper = row.wanted, _paper(row, theirs)
    return Line(
        label=_label(wanted),
        **{
            name: getattr(wanted, name)
            for name in ("method", "backbone", "llm", "surrogate", "budget", "share", "asked")
        },
        reference=found.reference(row) is row,
        seeds=len(row.runs),
        wanted_seeds=len(wanted.seeds),
        scores={metric: _score(found, row, theirs, same, metric) for metric in metrics},
        pruning_s=rounded(row.cost.get("pruning_s")),
        total_s=rounded(row.cost.get("total_s")),
        hardware=list(row.hardware),
        surrogate_s=_surrogate_seconds(row),
        their_hours=paper.get("hours"),
        their_surrogate_hours=paper.get("surrogate_hours"),
    )


def _label(wanted: Wanted) -> str:
    """The method, and what the study asks of it: ``dealrec (use_effort=false)``."""
    own = {key.removeprefix("method."): value for key, value in wanted.asked.items() if key.startswith("method.")}
    settings = ", ".join(f"{key}={str(value).lower()}" for key, value in own.items())
    return f"{wanted.method} ({settings})" if own else wanted.method


def _paper(row: Row, theirs: str) -> dict[str, float]:
    """What tables 2 to 4 have of a row: at the paper's budget or on all samples, of the method as it is, λ theirs."""
    wanted = row.wanted
    own = {key for key in wanted.asked if key.startswith("method.")}
    lam = wanted.config.get("method", {}).get("lam", paper_figures.LAMBDA[theirs])
    if own - {"method.lam"} or lam != paper_figures.LAMBDA[theirs] or not (wanted.usual or wanted.method == FULL):
        return {}
    return paper_figures.published(theirs, wanted.backbone, wanted.method, wanted.surrogate)


def _score(found: Found, row: Row, theirs: str, same: bool, metric: str) -> Score:
    figure = row.figures.get(metric)
    ours, paper = figure.mean if figure else None, _paper(row, theirs).get(metric)
    reference = found.reference(row)
    other = reference if reference is not row else None
    return Score(
        ours=ours,
        sd=figure.sd if figure else None,
        theirs=paper,
        difference=_apart(ours, paper) if same else None,
        gain=_gain(row, other, metric) if other else None,
        their_gain=_share(paper, _paper(other, theirs).get(metric)) if other else None,
        to_reference=figure.to_random if figure else None,
        best=_best(found, row, metric),
        their_best=_their_best(found, row, theirs, metric),
    )


def _rivals(found: Found, row: Row) -> list[Row]:
    """The rows that may be best: those with as many samples for the same backbone; all the data only where it is read against."""

    def runs(one: Row) -> bool:
        return one.wanted.method != FULL or found.against == FULL

    return [one for one in found.beside(row) if runs(one)] if runs(row) else []


def _best(found: Found, row: Row, metric: str) -> bool | None:
    rivals = _rivals(found, row)
    if not all(one.whole and metric in one.figures for one in rivals):
        return None
    means = [one.figures[metric].mean for one in rivals]
    known = [mean for mean in means if mean is not None]
    return bool(rivals) and len(known) == len(means) and row.figures[metric].mean == max(known)


def _their_best(found: Found, row: Row, theirs: str, metric: str) -> bool:
    papers = [value for one in _rivals(found, row) if (value := _paper(one, theirs).get(metric)) is not None]
    return bool(papers) and _paper(row, theirs).get(metric) == max(papers)


def _gain(row: Row, reference: Row, metric: str) -> float | None:
    common = sorted(row.runs.keys() & reference.runs.keys())
    return _share(row.mean(metric, common), reference.mean(metric, common))


def _apart(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else rounded(ours - theirs)


def _share(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else rounded(value / reference - 1)


def _surrogate_seconds(row: Row) -> float | None:
    """Mean seconds of training the surrogate; None without one."""
    spent = [sum(entry.wall_s for entry in run.record.bill if entry.stage == "surrogate") for run in row.runs.values()]
    return rounded(sum(spent) / len(spent)) if spent and all(spent) else None
