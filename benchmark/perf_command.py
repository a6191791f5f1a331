"""`bench perf`: our paths against plain references, both in one run, as ratios."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from prunebench.benchmark import perf_bigrec, perf_methods, perf_surrogate, perf_tiger
from prunebench.benchmark.commands import quiet_libraries
from prunebench.benchmark.meter import hardware
from prunebench.benchmark.output import clean_output
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.benchmark.workbench import Workbench


def perf(home: Path, dataset: str, as_json: bool) -> None:
    """Rows ``{name, ours_s, reference_s, ratio}``: seconds of ours, of the reference on the same work, reference / ours."""
    with clean_output() as out:
        quiet_libraries()
        bench = Workbench(home, ConsoleReporter(Console(stderr=True)))
        data = bench.dataset(dataset)
        timed: list[dict[str, Any]] = []
        for module in (perf_surrogate, perf_methods, perf_bigrec, perf_tiger):
            bench.reporter.say(f"timing {module.__name__.rpartition('.')[2].removeprefix('perf_')} on {dataset}")
            timed += module.rows(data)
        if as_json:
            json.dump({"dataset": dataset, "hardware": hardware(), "rows": timed}, out, indent=1)
            out.write("\n")
            return
        table = Table(title=f"Ours against a plain reference, on {dataset}, {hardware()}")
        for name in ("path", "ours, s", "reference, s", "times faster"):
            table.add_column(name, justify="left" if name == "path" else "right")
        for row in timed:
            table.add_row(row["name"], f"{row['ours_s']:.2f}", f"{row['reference_s']:.2f}", f"{row['ratio']:.2f}")
        Console(file=out, width=110).print(table)
        click.echo("", file=out)
