"""A board as markdown for GitHub: a line per row, so that a new record changes the lines of its row and little else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from prunebench.leaderboard.board import Board, BoardRow, BoardTable, RunFacts, figure_of
from prunebench.leaderboard.comparisons import PROTOCOL, REFERENCE, Difference
from prunebench.leaderboard.pictures import DARK, FOLDER, LIGHT, Picture, pictures_of
from prunebench.leaderboard.record import Seeds
from prunebench.leaderboard.statistics import BOOTSTRAP_SEEDS
from prunebench.leaderboard.tables import (
    MISSING,
    NO_METHOD,
    VALIDATION_NOTE,
    duration,
    escape,
    figure,
    memory,
    percent,
    signed,
    spread,
)

WORDS = ("method", "backbone", "metric", "against", "hardware")
"""Columns that hold words; the others hold figures."""
_EMPHASIS = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
"""An underscore at the edge of a word: the others are no markup."""


def board_markdown(board: Board) -> str:
    """The whole board. Whatever a record says stands there as plain text."""
    if not board.tables:
        return "# Leaderboard\n\nNo runs yet.\n"
    sections = map(_section, board.tables, pictures_of(board).tables)
    return "\n".join(["# Leaderboard\n", *sections, _legend(board)])


def difference_words(one: Difference | None) -> str:
    """``+.0107 [+.0044, +.0169]``; without the interval where one seed says nothing of it; a dash for none."""
    if one is None or one.difference is None:
        return MISSING
    beside = "" if one.interval is None else f" [{signed(one.interval[0])}, {signed(one.interval[1])}]"
    return signed(one.difference) + beside


def seeds_words(row: BoardRow) -> str:
    """``3``, or ``1 of 3`` where other rows have seeds that this one lacks."""
    return f"{len(row.runs)} of {len(row.runs) + len(row.lacks)}" if row.lacks else str(len(row.runs))


def plain(text: str) -> str:
    """Text that means nothing to markdown, in a cell or out of it."""
    return _EMPHASIS.sub("&#95;", escape(text)).replace("$", "&#36;").replace("~", "&#126;")


def bold(text: str, one: Difference | None) -> str:
    """In bold where the difference is certain."""
    return f"**{text}**" if one is not None and one.certain else text


def _interval(rank: tuple[int, int] | None) -> str:
    return MISSING if rank is None else str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"


def _score(row: BoardRow, metric: str) -> str:
    one = figure_of(row, metric)
    if one is None or one.mean is None:
        return MISSING
    return spread(one.mean, one.sd) + ("" if one.paper is None else f" ({figure(one.paper)})")


def _names(row: BoardRow) -> dict[str, str]:
    return {
        "method": plain(row.label) + (" †" if row.chose_by_validation else ""),
        "backbone": plain(row.backbone_label),
    }


def grid(rows: Sequence[dict[str, str]]) -> str:
    """A table of rows with equal keys, those of the first its head."""
    rule = ["---" if name in WORDS else "--:" for name in rows[0]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (list(rows[0]), rule, *(row.values() for row in rows)))


def shown(place: str, alt: str) -> str:
    """A picture for light and dark pages; ``place``: its files relative to the page, without what they end in."""
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{place}{DARK}">'
    return f'<picture>{source}<img src="{place}{LIGHT}" alt="{plain(alt)}"></picture>\n'


def _pictures(pictures: Sequence[Picture]) -> list[str]:
    """The first one, accuracy against cost, for all to see, the others under their titles."""
    drawn = [shown(f"{FOLDER}/{picture.name}", picture.alt) for picture in pictures]
    folded = [_folded(picture.title, one) for picture, one in zip(pictures[1:], drawn[1:], strict=True)]
    return [*drawn[:1], *folded]


def _section(table: BoardTable, pictures: Sequence[Picture]) -> str:
    parts = [
        f"## {plain(table.title)} ({percent(table.share)})\n",
        f"Data {plain(table.fingerprint)}, {plain(table.split)} split, {table.users:,} users, {PROTOCOL}.{_best(table)}\n",
        grid(_main(table)),
    ]
    if any(row.chose_by_validation for row in table.rows):
        parts.append(f"{VALIDATION_NOTE}\n")
    parts += _pictures(pictures)
    compared = list(_differences(table))
    if compared:
        parts.append(_folded("Differences to random and to the best method, all metrics", grid(compared)))
    runs = [f"- {_run(row, run)}\n" for row in table.rows for run in row.runs]
    return "\n".join([*parts, _folded("Commands, seeds, hardware and records", "".join(runs))])


def _folded(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n</details>\n"


def _best(table: BoardTable) -> str:
    labels = {row.id: f"{row.label} on {row.backbone_label}" for row in table.rows}
    by_row: dict[str, list[str]] = {}
    for metric, row in table.best.items():
        by_row.setdefault(labels[row], []).append(metric)
    named = "; ".join(f"{plain(label)} ({', '.join(metrics)})" for label, metrics in by_row.items())
    return f" Best method with every seed: {named}." if named else ""


def _main(table: BoardTable) -> list[dict[str, str]]:
    metrics = table.metrics
    lead = metrics[0]
    rows = []
    for row in table.rows:
        one, costs = figure_of(row, lead), row.costs
        to_random = one.to_random if one else None
        cells = {
            **_names(row),
            "budget": MISSING if row.method == NO_METHOD and row.kind == "reference" else f"{row.budget:,}",
            "seeds": seeds_words(row),
            **{metric: _score(row, metric) for metric in metrics},
            f"{lead} − {REFERENCE}": bold(difference_words(to_random), to_random),
            f"rank by {lead}": _interval(one.rank if one else None),
            "pruning": duration(costs.pruning_s),
            "fine-tuning": duration(costs.fine_tuning_s),
            "inference": duration(costs.inference_s),
            "total": duration(costs.total_s),
            "memory": memory(costs.peak_rss_mb, costs.peak_gpu_mb),
            "of full": percent(costs.of_full),
            "noise kept": percent(row.noise_share),
        }
        rows.append(cells)
    if all(cells["noise kept"] == MISSING for cells in rows):
        for cells in rows:
            del cells["noise kept"]
    return rows


def _differences(table: BoardTable) -> Iterable[dict[str, str]]:
    backbones = {row.id: row.backbone_label for row in table.rows}
    for row in table.rows:
        for metric in table.metrics:
            one = figure_of(row, metric)
            if one is None or (one.to_random is None and one.to_best is None):
                continue
            first = one.to_random or one.to_best
            yield {
                **_names(row),
                "metric": metric,
                f"− {REFERENCE}": bold(difference_words(one.to_random), one.to_random),
                "against": MISSING if one.to_random is None else plain(backbones[one.to_random.against]),
                "p (Holm)": _p(one.to_random),
                "− best": bold(difference_words(one.to_best), one.to_best),
                "best p (Holm)": _p(one.to_best),
                "other users ±": MISSING if first is None or first.se_users is None else figure(first.se_users),
                "rank": _interval(one.rank),
            }


def _p(one: Difference | None) -> str:
    if one is None or one.holm is None:
        return MISSING
    return "<.001" if one.holm < 0.001 else f"{one.holm:.3f}".removeprefix("0")


def _run(row: BoardRow, run: RunFacts) -> str:
    facts = [f"run {plain(run.run)}", plain(row.label), plain(row.backbone_label), seed_words(run.seeds)]
    facts += [f"record {run.record_sha256[:12]}"]
    facts += [f"<code>{plain(run.command).replace('_', '&#95;')}</code>"] if run.command else []
    facts += [plain(" and ".join(run.hardware))] if run.hardware else []
    return " · ".join(facts)


def seed_words(seeds: Seeds) -> str:
    """``seed 0`` where all sources of randomness have it."""
    if seeds.signal == seeds.selection == seeds.finetune:
        return f"seed {seeds.selection}"
    return f"seeds: signal {seeds.signal}, selection {seeds.selection}, fine-tuning {seeds.finetune}"


def _legend(board: Board) -> str:
    return f"""## How to read it

- R = recall, N = NDCG, over all items, ties in expectation: mean ± sample standard deviation over seeds. In parentheses
  the paper's figure (LLaMA-7B for bigrec).
- Seeds: "1 of 3" lacks two that other rows have. Its mean is over the seed it has, so compare it by its differences,
  which are over the seeds that both rows have.
- "− {REFERENCE}": how much higher than the {REFERENCE} row of that budget whose settings differ least ("against"). In
  brackets the 95% interval. With fewer than {BOOTSTRAP_SEEDS} common seeds it is the paired t interval over seeds, for these test users;
  "other users ±" is the standard error had they been others. From {BOOTSTRAP_SEEDS} on it is a bootstrap over seeds and users
  ({board.resamples:,} redraws). One common seed gives a difference and no word on how sure it is.
- A difference in bold is certain: the interval leaves out 0, p is below .05 after Holm's correction for all rows of the
  data set, backbone and metric, and chance among users cannot explain it. No other difference should be cited as one.
- "− best": to the method with the highest mean at this budget that lacks no seed; neither all the data, nor none, nor a
  plugin, whose code may see what it likes, as oracles do.
- Rank: the places a row takes in 95% of the redraws of seeds and users, among all rows of its backbone that lack no seed,
  all the data, none and plugins included; a rough guide.
- Times are wall clock per run; total = pruning + fine-tuning + inference (not pre-training); of full: share of what the
  run on all samples costs in total, the one whose settings differ least. A dash: different hardware, which does not add up.
- record: the first digits of the SHA-256 of record.json. leaderboard.csv and board.json have all figures, also with history
  items removed from the lists (masked), and whole hashes.
"""
