"""`bench compare`: two recorded runs side by side, in tables that fit the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunebench.benchmark.boards import RECORD, run_in
from prunebench.benchmark.recorded import find_folder
from prunebench.datasets.schema import DataError
from prunebench.leaderboard.board import Run
from prunebench.leaderboard.compared import Bills, Change, Compared, Measured, Shared, Side, compare_runs
from prunebench.leaderboard.record import RecordError, load_record
from prunebench.leaderboard.tables import MISSING, duration, figure, memory, percent, signed

_LONGEST = 60
_HASH = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{8,}")
_WIDE = 80
_BRIEF = 1.0
"""Seconds below which stages are not set against each other: such a ratio says nothing."""
_PHASES = {"pretraining_s": "pre-training", "pruning_s": "pruning", "fine_tuning_s": "fine-tuning"}
_PHASES |= {"inference_s": "inference", "total_s": "total"}


def compare(records: Path, names: tuple[str, str], as_json: bool) -> None:
    """Print what differs between two runs, each a run's name in ``records`` or a path of its folder."""
    folders = [_folder(records, name) for name in names]
    a, b = (run_in(folder / RECORD, load_record(folder / RECORD)) for folder in folders)
    found = compare_runs(a, b, _others({folder.parent for folder in folders}, a, b))
    if as_json:
        click.echo(json.dumps(found.model_dump(mode="json"), indent=1))
    else:
        console = Console(markup=False, emoji=False, highlight=False)
        with console.capture() as page:
            _Page(console).print(found)
        click.echo("\n".join(line.rstrip() for line in page.get().splitlines()))


def _folder(records: Path, name: str) -> Path:
    path = Path(name)
    if path.name == RECORD and path.is_file():
        return path.absolute().parent
    return path.absolute() if (path / RECORD).is_file() else find_folder(records, name)


def _others(folders: Iterable[Path], a: Run, b: Run) -> list[Run]:
    """Further seeds of both configurations beside the two runs; those that are not whole are left out with a line."""
    found = []
    for path in sorted(path for folder in folders for path in folder.glob(f"*/{RECORD}")):
        try:
            record = load_record(path)
            if record.digest in (a.record.digest, b.record.digest) and record.run not in (a.record.run, b.record.run):
                found.append(run_in(path, record))
        except (RecordError, DataError) as error:
            click.echo(f"bench: left out: {' '.join(str(error).split())}", err=True)
    return found


class _Page:
    """Sections of text and tables. Nothing of the runs is read as markup; plain text where there is no terminal."""

    def __init__(self, console: Console):
        self.console = console
        self.box = box.SIMPLE_HEAD if console.is_terminal else None

    def print(self, found: Compared) -> None:
        self._sides(found)
        for line in found.cannot:
            self._text(line, style="yellow")
        self._head("What differs")
        self._changes(found.changes)
        if found.selection is not None:
            self._head("Selections")
            self._selection(found.selection)
        if found.metrics:
            self._head(f"Metrics of {found.metrics[0].users:,} users, B − A")
            self._metrics(found.metrics)
        self._head("Cost")
        self._bills(found.bills)

    def _head(self, text: str) -> None:
        self.console.print()
        self._text(text, style="bold")

    def _text(self, text: str, style: str = "") -> None:
        self.console.print(Text(_visible(text), style=style))

    def _table(self, *columns: str, left: int = 1) -> Table:
        table = Table(box=self.box, pad_edge=False, show_edge=False)
        for at, name in enumerate(columns):
            table.add_column(name, justify="left" if at < left else "right", overflow="fold")
        return table

    def _sides(self, found: Compared) -> None:
        table = Table(box=None, show_header=False, pad_edge=False)
        for name, side in (("A", found.a), ("B", found.b)):
            table.add_row(Text(name, style="bold"), Text(side.run), Text(_visible(_words(side))))
        self.console.print(table)

    def _changes(self, changes: list[Change]) -> None:
        if not changes:
            self._text("nothing but when they ran")
            return
        both = [one for one in changes if one.a is not None and one.b is not None]
        if both:
            table = self._table("", "A", "B", left=3)
            for one in both:
                table.add_row(*(Text(_visible(text)) for text in (one.key, _value(one.a), _value(one.b))))
            self.console.print(table)
        for name, own in (
            ("A", [(one.key, one.a) for one in changes if one.b is None]),
            ("B", [(one.key, one.b) for one in changes if one.a is None]),
        ):
            if own:
                self._text(f"Only {name} has " + ", ".join(f"{key}={_value(value)}" for key, value in own))

    def _selection(self, shared: Shared) -> None:
        self._text(
            f"{shared.common:,} samples in common: {percent(shared.share)} of {min(shared.a, shared.b):,}, Jaccard {shared.jaccard:.3f}. "
            f"By chance {shared.by_chance:,.1f} ± {shared.by_chance_sd:.1f}."
        )
        if shared.noise != (None, None):
            self._text(f"Planted noise kept: A {percent(shared.noise[0])}, B {percent(shared.noise[1])}")
        for name, kept in zip("AB", shared.scores, strict=True):
            if kept is not None:
                self._text(
                    f"{name} kept samples at {kept.place:.2f} of its {kept.score} (0 lowest, 1 highest, at random 0.5)"
                )

    def _metrics(self, metrics: list[Measured]) -> None:
        seeds = max((one.over_seeds.seeds for one in metrics if one.over_seeds), default=0)
        over_users, over_seeds = ("A", "B", "B − A", "95% over users"), (f"{seeds} seeds", "95% over seeds")
        wide = self.console.width >= _WIDE
        for number, protocol in enumerate(dict.fromkeys(one.protocol for one in metrics)):
            if number:
                self.console.print()
            own = [one for one in metrics if one.protocol == protocol]
            beside = over_seeds if seeds and wide else ()
            self._measured(protocol, (*over_users, *beside), [[*_users(one), *_seeds(one)] for one in own])
            if seeds and not wide:
                self._measured(protocol, over_seeds, [[one.metric, *_seeds(one)] for one in own])
        note = "Over users: paired t, for these two runs; what other seeds would change is not in it."
        if seeds:
            by = next(one.over_seeds.by for one in metrics if one.over_seeds)
            how = "paired t over seeds, for these users" if by == "t" else "paired bootstrap over seeds and users"
            note += f" Over seeds: all recorded of both configurations, {how}."
        self._text(f"{note} Intervals marked * leave out 0; none is adjusted for how many metrics there are.")

    def _measured(self, protocol: str, columns: tuple[str, ...], lines: list[list[str]]) -> None:
        table = self._table(protocol, *columns)
        for cells in lines:
            table.add_row(*cells[: len(columns) + 1])
        self.console.print(table)

    def _bills(self, bills: Bills) -> None:
        table = self._table("phase", "stage", "A", "B", "B / A", left=2)
        for one in bills.stages:
            note = "shared" if one.shared == one.artefacts else f"{one.shared} of {one.artefacts} shared"
            table.add_row(
                "pre-training" if one.phase == "pretraining" else one.phase,
                Text(_visible(one.stage)),
                duration(one.a),
                duration(one.b),
                note if one.shared else _times(one.ratio if max(one.a or 0, one.b or 0) >= _BRIEF else None),
            )
        table.add_section()
        for name, (a, b) in bills.totals.items():
            table.add_row(
                _PHASES[name], "in all", duration(a), duration(b), _times(bills.ratio) if name == "total_s" else ""
            )
        table.add_row(
            "peak memory", "", *(memory(*both) for both in zip(bills.peak_rss_mb, bills.peak_gpu_mb, strict=True))
        )
        self.console.print(table)
        if any(one.shared for one in bills.stages):
            self._text("shared: the same artefact by its hash, in one store built once; each bill has it in full.")
        if bills.hardware[0] != bills.hardware[1]:
            self._text(
                "Different hardware, so no ratio of totals: "
                + "; ".join(f"{name} {' | '.join(words)}" for name, words in zip("AB", bills.hardware, strict=True))
            )
        elif len(bills.hardware[0]) > 1:
            self._text(f"Stages on different hardware do not add up: {' | '.join(bills.hardware[0])}")


def _words(side: Side) -> str:
    seeds = set(side.seeds.model_dump().values())
    seeded = (
        f"seed {seeds.pop()}"
        if len(seeds) == 1
        else "seeds " + ", ".join(f"{k} {v}" for k, v in side.seeds.model_dump().items())
    )
    return f"{side.method} × {side.backbone} on {side.dataset}, {side.budget:,} samples, {seeded}"


def _users(one: Measured) -> list[str]:
    return [one.metric, figure(one.a), figure(one.b), signed(one.difference), _interval(one.interval)]


def _seeds(one: Measured) -> list[str]:
    over = one.over_seeds
    return [signed(over.difference), _interval(over.interval)] if over else [MISSING, MISSING]


def _interval(interval: tuple[float, float] | None) -> str:
    if interval is None:
        return MISSING
    low, high = interval
    return f"{signed(low)} … {signed(high)}{'*' if low > 0 or high < 0 else ' '}"


def _times(ratio: float | None) -> str:
    return MISSING if ratio is None else f"{ratio:.3g}×"


def _value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    text = _HASH.sub(r"\1…", text)
    return MISSING if value is None else text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _visible(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)
