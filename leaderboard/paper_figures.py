"""The published figures of Lin et al., SIGIR 2024 (tables 1 to 4), to print beside ours."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

from prunebench.leaderboard.record import DatasetFacts, Record

BUDGET = 1024
"""Samples kept in all of the paper's pruned rows."""
LAMBDA = {"games": 0.3, "microlens-50k": 1.0, "book": 1.0}
"""λ of the paper's DEALRec rows, per data set."""
FINGERPRINTS = {"games": "c592d3155173a844"}
"""Content of the paper's data sets as their authors released them."""
SURROGATE = "sasrec"
"""The surrogate of table 2; table 4 has DEALRec on Games with others."""
TABLE_4 = ("games", "bigrec", "dealrec")
DATASETS = tuple(LAMBDA)
"""The paper's data sets."""
_COLUMNS = {"games": "games", "microlens-50k": "microlens", "book": "book"}


def cutoffs(dataset: str) -> tuple[int, int]:
    """The two cut-offs the paper reports for a data set; 10 and 20 where it reports none."""
    return (20, 50) if dataset in ("microlens-50k", "book") else (10, 20)


def figures(record: Record) -> dict[str, float]:
    """The paper's figures for a run, as ``{"R@10": 0.0181, …}``; empty where it has none.

    It has them for the test split of its own data sets. A pruned run must have the paper's budget, and the full one all
    samples. Of the method's settings none may differ from its default but λ, which must be the paper's. With another
    surrogate than table 2's it has those of table 4.
    """
    name = record.dataset.name
    if record.protocol.split != "test" or not is_papers(record.dataset):
        return {}
    if (record.share < 1) if record.method == "full" else (record.budget != BUDGET):
        return {}
    changed = {key for key in record.changes if key.startswith("method.")}
    if changed - {"method.lam"} or record.config.get("method", {}).get("lam", LAMBDA[name]) != LAMBDA[name]:
        return {}
    surrogate = record.config.get("surrogate", {}).get("name", SURROGATE)
    found = published(name, record.backbone, record.method, surrogate)
    return {key: value for key, value in found.items() if "@" in key}


def published(dataset: str, backbone: str, method: str, surrogate: str = SURROGATE) -> dict[str, float]:
    """The row of tables 2 to 4 with these names: metrics and, of table 3, ``hours``; empty where there is none.

    ``surrogate_hours`` is from table 4, which is about Games and BIGRec alone.
    """
    own = _with_surrogate(surrogate) if (dataset, backbone, method) == TABLE_4 else {}
    if surrogate != SURROGATE:
        return own
    prefix = _COLUMNS.get(dataset, dataset) + "_"
    found = {key: value for key, value in own.items() if key == "surrogate_hours"}
    for row in _results():
        if (row["backbone"], row["method"]) == (backbone, method):
            named = {key.removeprefix(prefix): text for key, text in row.items() if key.startswith(prefix)}
            found |= {key: float(text) for key, text in named.items() if text}
    return found


def _with_surrogate(surrogate: str) -> dict[str, float]:
    rows = {row["surrogate"]: row for row in _table("table4_surrogates_games.csv")}
    found = {key: float(text) for key, text in rows.get(surrogate, {}).items() if text and key != "surrogate"}
    hours = found.pop("surrogate_training_hours", None)
    return found if hours is None else found | {"surrogate_hours": hours}


def is_papers(dataset: DatasetFacts) -> bool:
    """Whether these are the paper's data, not just of that name: by content where it is known, or by table 1's counts."""
    counts = (dataset.counts.get("users"), dataset.counts.get("items"))
    papers = {row["dataset"]: (int(row["users"]), int(row["items"])) for row in _table("table1_datasets.csv")}
    return dataset.name in papers and (
        dataset.fingerprint == FINGERPRINTS.get(dataset.name) or counts == papers[dataset.name]
    )


def _results() -> list[dict[str, str]]:
    return [
        *_table("table2_overall.csv"),
        *({"backbone": "bigrec", **row} for row in _table("table3_full_vs_dealrec_bigrec.csv")),
    ]


@cache
def _table(name: str) -> list[dict[str, str]]:
    text = (files(__package__) / "paper" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
