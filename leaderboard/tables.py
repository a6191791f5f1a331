"""Leaderboard tables: one row per configuration, mean and spread over seeds, costs, the paper's figures beside ours."""

from __future__ import annotations

import html
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prunebench.leaderboard import paper_figures
from prunebench.leaderboard.comparisons import rounded
from prunebench.leaderboard.per_user import metric_names
from prunebench.leaderboard.record import COUNTED, Phase, Record

REFERENCES = ("content_knn", "popular", "sasrec")
"""Backbones every other row is read against: they stand in every table of their data set."""
NO_METHOD = "none"
"""The method of a run that selects nothing: zero-shot, and references no selection can change."""
MISSING = "–"
VALIDATION_NOTE = "† read validation users (`select`) to choose samples"

Row = dict[str, Any]

_PRUNING = ("method", "surrogate")
"""Sections of a configuration that choose the samples; the others say what is trained on them."""
_SECONDS = ("pruning_s", "fine_tuning_s", "inference_s", "total_s")
_UNSAFE = {"|": "&#124;", "`": "&#96;", "*": "&#42;", "[": "&#91;", "]": "&#93;", "\\": "&#92;"}


def rows(records: Iterable[Record], full_reference: str = "full") -> list[Row]:
    """One plain-JSON row per configuration, in a stable order; several seeds of it are one row.

    ``metrics``: protocol → metric name (``R@10``, ``N@10``, …, and under ``warm`` and ``cold``) → ``{"mean", "sd"}``. A
    run that lacks a value leaves the row's mean None: nothing is averaged over what is there. ``sd`` is the sample
    standard deviation over seeds, None for one seed. ``hardware`` lists where the phases a method is charged for ran;
    ``cost`` holds mean wall seconds per phase, None where stages or seeds ran on different hardware. ``of_full`` is the
    total cost over that of ``full_reference`` on the same split, data, base LLM and hardware (see ``_of_full``). Of
    runs with equal configuration and seeds the last finished counts.
    """
    groups: dict[str, dict[str, Record]] = {}
    for record in sorted(records, key=lambda record: (record.finished, record.run)):
        groups.setdefault(record.digest, {})[record.seeds.model_dump_json()] = record
    made = [_row(list(by_seed.values())) for by_seed in groups.values()]
    shown = Counter(map(_shown, made))
    for row in [row for row in made if shown[_shown(row)] > 1]:
        row |= _labels(row, row["plugins"])
    made.sort(key=_order)
    for row in made:
        row["of_full"] = _of_full(row, made, full_reference)
    return made


def leaderboard_markdown(
    records: Iterable[Record],
    full_reference: str = "full",
    protocol: str = "unmasked",
    references: Sequence[str] = REFERENCES,
) -> str:
    """Markdown tables, one per data set × split × backbone × LLM × budget.

    A table also lists its backbone with no samples (zero-shot, or untrained) and with all of them, and the reference backbones. Every
    row stands in a table: a reference with a budget that no other backbone has heads one.
    ``protocol`` is ``unmasked`` (as the paper evaluates) or ``masked`` (history items removed).
    """
    tables = [_render(members, key, protocol) for key, members in tables_of(rows(records, full_reference), references)]
    if not tables:
        return "No runs yet.\n"
    return "\n".join([*tables, _caption(protocol)])


def _row(runs: list[Record]) -> Row:
    runs = sorted(runs, key=lambda run: (run.seeds.signal, run.seeds.selection, run.seeds.finetune))
    last = max(runs, key=lambda run: (run.finished, run.run))
    plugins = last.config.get("plugins", {})
    setting = {part: value for part, value in last.config.items() if part not in (*_PRUNING, "plugins")}
    row = {
        "dataset": last.dataset.name,
        "fingerprint": last.dataset.fingerprint,
        "split": last.protocol.split,
        "backbone": last.backbone,
        "llm": last.llm,
        "budget": last.budget,
        "share": last.share,
        "method": last.method,
        "changes": last.changes,
        "setting": setting | {"plugins": {part: sha for part, sha in plugins.items() if part not in _PRUNING}},
        "plugins": plugins,
        "config_digest": last.digest,
        "runs": [run.run for run in runs],
        "seeds": [run.seeds.model_dump() for run in runs],
        "users": last.protocol.users_evaluated,
        "metrics": {name: _metrics(runs, name) for name in dict.fromkeys(name for run in runs for name in run.metrics)},
        "cost": {name: _cost(runs, name) for name in ("pretraining_s", *_SECONDS)},
        "hardware": _hardware(runs, COUNTED),
        "peak_rss_mb": max(run.totals.peak_rss_mb for run in runs),
        "peak_gpu_mb": max(run.totals.peak_gpu_mb for run in runs),
        "noise_share": _spread([run.selection.noise_share for run in runs])["mean"],
        "chose_by_validation": any(map(_chose_by_validation, runs)),
        "paper": paper_figures.figures(last),
    }
    return row | _labels(row, {})


def _metrics(runs: list[Record], protocol: str) -> dict[str, Any]:
    """Metric name → mean and sd over the runs, for all targets and for warm and cold ones."""
    found = [run.metrics.get(protocol) for run in runs]
    result: dict[str, Any] = {}
    for part in ("", "warm", "cold"):
        views = [getattr(metrics, part) if metrics and part else metrics for metrics in found]
        cells: dict[str, Any] = {}
        for letter, name in (("R", "recall"), ("N", "ndcg")):
            means = [getattr(view, name) if view else {} for view in views]
            for k in sorted({k for mean in means for k in mean}, key=int):
                cells[f"{letter}@{k}"] = _spread([mean.get(k) for mean in means])
        result |= {part: cells} if part else cells
    return result


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return {"mean": None, "sd": None}
    return {"mean": statistics.fmean(known), "sd": statistics.stdev(known) if len(known) > 1 else None}


def _chose_by_validation(run: Record) -> bool:
    """Whether a stage before fine-tuning looked at the `select` validation users."""
    later = ("fine-tuning", "inference", "evaluation")
    return any("select" in parts for stage, parts in run.protocol.reads.items() if stage not in later)


def _hardware(runs: list[Record], phases: tuple[Phase, ...]) -> list[str]:
    return sorted({device for run in runs for entry in run.bill if entry.phase in phases for device in entry.devices})


def _cost(runs: list[Record], name: str) -> float | None:
    hardware = _hardware(runs, ("pretraining",) if name == "pretraining_s" else COUNTED)
    return _spread([getattr(run.totals, name) for run in runs])["mean"] if len(hardware) <= 1 else None


def _of_full(row: Row, everything: list[Row], full_reference: str) -> float | None:
    """Total cost over the full run's on the same data, base LLM, code and hardware.

    The backbone's own settings may differ, since rate and step cap are tuned per budget; of several full runs the one
    that differs least is the reference.
    """
    same = ("dataset", "fingerprint", "split", "backbone", "llm", "hardware")

    def comparable(other: Row) -> bool:
        fixed = [{part: value for part, value in one["setting"].items() if part != "backbone"} for one in (row, other)]
        return fixed[0] == fixed[1] and all(other[at] == row[at] for at in same)

    def distance(other: Row) -> tuple[int, int]:
        ours, theirs = (one["setting"].get("backbone", {}) for one in (row, other))
        return sum(ours.get(key) != theirs.get(key) for key in {*ours, *theirs}), len(other["changes"])

    candidates = [
        other
        for other in everything
        if other["method"] == full_reference and other["cost"]["total_s"] and comparable(other)
    ]
    if not candidates or row["cost"]["total_s"] is None:
        return None
    return row["cost"]["total_s"] / min(candidates, key=distance)["cost"]["total_s"]


def _method_name(row: Row) -> str:
    if row["method"] != NO_METHOD:
        return str(row["method"])
    if row["llm"]:
        return "zero-shot"
    return MISSING if row["backbone"] in REFERENCES else "untrained"


def _labels(row: Row, plugins: Mapping[str, str]) -> dict[str, str]:
    """A row's two labels; ``plugins`` (part → sha256) are named in them as if they were settings."""
    changes = row["changes"] | {f"{part}.plugin": sha256[:8] for part, sha256 in plugins.items()}
    return {
        "label": _label(_method_name(row), _own(changes, _PRUNING)),
        "backbone_label": _label(row["backbone"], _own(changes, ("backbone", "llm"))),
    }


def _own(changes: dict[str, Any], sections: tuple[str, ...]) -> dict[str, Any]:
    """The changes to some sections; those to the first one without its name. The LLM's name has a place of its own."""
    return {
        key.removeprefix(f"{sections[0]}."): value
        for key, value in sorted(changes.items())
        if key.split(".")[0] in sections and key != "backbone.llm"
    }


def _label(name: str, own: dict[str, Any]) -> str:
    """``dealrec (lam=1)``: the name, and what differs from its defaults."""
    return f"{name} ({', '.join(f'{key}={_value(value)}' for key, value in own.items())})" if own else name


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _order(row: Row) -> tuple[Any, ...]:
    group = (row["dataset"], row["fingerprint"], row["split"], row["backbone"], row["llm"] or "", row["budget"])
    return (*group, row["method"], row["label"], row["backbone_label"], row["config_digest"])


def _table(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("dataset", "fingerprint", "split", "backbone", "llm", "budget"))


def _shown(row: Row) -> tuple[Any, ...]:
    return (*_table(row), row["label"], row["backbone_label"])


def _is_bound(row: Row) -> bool:
    """Zero-shot or all the data: the two ends that every budget is read against."""
    return row["budget"] == 0 or row["share"] == 1


def tables_of(everything: list[Row], references: Sequence[str] = REFERENCES) -> list[tuple[tuple[Any, ...], list[Row]]]:
    """The fewest tables that hold every row, in row order: one per budget tried, then what those leave out.

    Of each its key (data set, fingerprint, split, backbone, LLM, budget) and its rows, those of its own backbone first.
    """
    keys: list[tuple[Any, ...]] = []
    for row in sorted(everything, key=lambda row: (row["backbone"] in references, _is_bound(row), -row["share"])):
        if not any(_belongs(row, key, references) for key in keys):
            keys.append(_table(row))
    ordered = [key for key in dict.fromkeys(map(_table, everything)) if key in keys]
    members = [[row for row in everything if _belongs(row, key, references)] for key in ordered]
    return [
        (key, sorted(found, key=lambda row: _table(row)[3:5] != key[3:5]))
        for key, found in zip(ordered, members, strict=True)
    ]


def _belongs(row: Row, key: tuple[Any, ...], references: Sequence[str]) -> bool:
    place = _table(row)
    if place[:3] != key[:3]:
        return False
    if place[3:5] == key[3:5] or row["backbone"] in references:
        return row["budget"] == key[5] or _is_bound(row)
    return False


def _render(members: list[Row], key: tuple[Any, ...], protocol: str) -> str:
    dataset, fingerprint, split, backbone, llm, budget = key
    names = metric_names(paper_figures.cutoffs(dataset))
    own = [row for row in members if row["backbone"] == backbone and row["llm"] == llm]
    shown = {
        "method": [escape(row["label"]) + (" †" if row["chose_by_validation"] else "") for row in members],
        "backbone": [escape(row["backbone_label"]) for row in members],
        "budget": [MISSING if row["label"] == MISSING else f"{row['budget']:,}" for row in members],
        "seeds": [str(len(row["seeds"])) for row in members],
        **{name: [_score(row, protocol, name) for row in members] for name in names},
        "pruning": [duration(row["cost"]["pruning_s"]) for row in members],
        "fine-tuning": [duration(row["cost"]["fine_tuning_s"]) for row in members],
        "inference": [duration(row["cost"]["inference_s"]) for row in members],
        "total": [duration(row["cost"]["total_s"]) for row in members],
        "memory": [memory(row["peak_rss_mb"], row["peak_gpu_mb"]) for row in members],
        "of full": [percent(row["of_full"]) for row in members],
        "noise kept": [percent(row["noise_share"]) for row in members],
    }
    if all(cell == MISSING for cell in shown["noise kept"]):
        del shown["noise kept"]
    share = next((row["share"] for row in own if row["budget"] == budget), None)
    title = f"{escape(dataset)} · {escape(backbone)}{f' · {escape(llm)}' if llm else ''} · {budget:,} samples"
    title += f" ({percent(share)})" if share else ""
    facts = f"Data {escape(fingerprint)}, {escape(split)} split, {own[0]['users'] if own else 0:,} users, {protocol}."
    note = f"\n{VALIDATION_NOTE}\n" if any(row["chose_by_validation"] for row in members) else ""
    return f"## {title}\n\n{facts}\n\n{markdown_table(shown)}{note}"


def _score(row: Row, protocol: str, name: str) -> str:
    cell = row["metrics"].get(protocol, {}).get(name, {"mean": None, "sd": None})
    beside = f" ({figure(row['paper'][name])})" if name in row["paper"] and protocol == "unmasked" else ""
    return spread(cell["mean"], cell["sd"]) + beside


def figure(value: float) -> str:
    """Four decimals without the leading 0: ``.0181``; the same for figures that differ in their last bits only."""
    return f"{rounded(value):.4f}".removeprefix("0")


def signed(value: float | None) -> str:
    """``+.0012``, without a sign where nothing is left of it; a dash for None."""
    if value is None:
        return MISSING
    text = figure(abs(value))
    return text if not float(text) else ("+" if value > 0 else "−") + text


def spread(mean: float | None, sd: float | None) -> str:
    """``.0181 ± .0002``, or the mean alone; a dash for None."""
    return MISSING if mean is None else figure(mean) + ("" if sd is None else f" ± {figure(sd)}")


def duration(seconds: float | None) -> str:
    """Seconds in the unit a reader would choose; a dash for None."""
    if seconds is None:
        return MISSING
    for limit, unit, name in ((59.95, 1, "s"), (3597, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds / 3600:.2f} h"


def memory(rss_mb: float, gpu_mb: float) -> str:
    """Peak memory in GB of 2^30 bytes, that of the GPU apart; a dash for none."""
    return f"{rss_mb / 1024:.1f} GB{f' + {gpu_mb / 1024:.1f} GPU' if gpu_mb else ''}" if rss_mb else MISSING


def percent(share: float | None) -> str:
    """Three digits; a dash for None."""
    return MISSING if share is None else f"{100 * share:.3g}%" if share < 0.9995 else f"{100 * share:.0f}%"


def escape(text: str) -> str:
    """Plain text in a table cell: no markup, no line breaks, no control characters."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return "".join(_UNSAFE.get(letter, letter) for letter in html.escape(" ".join(printable.split())))


def markdown_table(columns: dict[str, list[str]], left: Sequence[str] = ("method", "backbone")) -> str:
    """A table padded to align as plain text; the columns named ``left`` hold words, the others figures."""
    widths = {name: max(3, len(name), *map(len, cells)) for name, cells in columns.items()}

    def line(cells: dict[str, str]) -> str:
        padded = (
            text.ljust(widths[name]) if name in left else text.rjust(widths[name]) for name, text in cells.items()
        )
        return f"| {' | '.join(padded)} |\n"

    rule = {name: "-" * width if name in left else "-" * (width - 1) + ":" for name, width in widths.items()}
    body = [{name: cells[at] for name, cells in columns.items()} for at in range(len(next(iter(columns.values()))))]
    return "".join(map(line, [{name: name for name in columns}, rule, *body]))


def _caption(protocol: str) -> str:
    brackets = " In parentheses: the paper's figure (LLaMA-7B for bigrec)." if protocol == "unmasked" else ""
    return (
        "Mean ± sample standard deviation over seeds; R = recall, N = NDCG over all items, ties in expectation."
        f"{brackets} Times are wall clock; total = pruning + fine-tuning + inference (not pre-training);"
        " of full: share of what the full run costs in total, the one whose settings differ least.\n"
    )
