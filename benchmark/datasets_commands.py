"""`bench datasets`: import and inspect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prunebench.benchmark.generated import generated
from prunebench.benchmark.installing import check_name, tell
from prunebench.benchmark.output import clean_output, print_json
from prunebench.benchmark.plugins import Registry
from prunebench.benchmark.progress import ConsoleReporter, Report
from prunebench.datasets import layouts, tables
from prunebench.datasets.inspect import inspect as inspect_dataset
from prunebench.datasets.interactions import gather
from prunebench.datasets.library import Library
from prunebench.datasets.protocol import Protocol, Split, build, titled
from prunebench.datasets.schema import DataError, RecDataset
from prunebench.datasets.sources import Layout
from prunebench.datasets.tables import Columns


def import_(
    home: Path,
    *,
    path: Path | None,
    layout: str,
    name: str,
    interactions: Path | None,
    items: Path | None,
    user: str,
    item: str,
    time: str,
    rating: str | None,
    title: str,
    text: tuple[str, ...],
    delimiter: str | None,
    min_rating: float | None,
    split: str,
    k_core: int,
    noun: str | None,
    drop_bad_rows: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Read, check, install atomically; a name that cannot be had is told before the reading."""
    check_name(home, name, overwrite)
    columns = Columns(user, item, time, rating, title, text)
    wanted = Protocol(min_rating=min_rating, split=cast(Split, split), k_core=k_core)
    with clean_output() as out:
        if layout == "table":
            if path is not None or interactions is None or items is None:
                raise DataError("--format table takes two files: --interactions FILE --items FILE, and no folder")
            if delimiter is not None and "csv" not in (tables.checked(interactions), tables.checked(items)):
                raise DataError("--delimiter is for CSV, and neither file is")
            named = wanted.model_copy(update={"noun": noun or wanted.noun})
            reporter = ConsoleReporter(Console(stderr=True))
            dataset = _tables(interactions, items, name, columns, delimiter, named, drop_bad_rows, reporter)
        else:
            _for_tables_only(layout, columns, delimiter)
            where = _where(layout, path, interactions, items)
            dataset = layouts.read(cast(Layout, layout), where, name, wanted, noun, drop_bad_rows)
        tell(out, Library(home).install(dataset, overwrite=overwrite), as_json)


def _for_tables_only(layout: str, columns: Columns, delimiter: str | None) -> None:
    """Raise DataError for an option that this layout has no use for."""
    asked = {field.name: getattr(columns, field.name) != field.default for field in fields(Columns)}
    ignored = [f"--{name}" for name, given in {**asked, "delimiter": delimiter is not None}.items() if given]
    if ignored:
        raise DataError(f"--format {layout} says where everything is; leave {', '.join(ignored)} out")


def _where(layout: str, path: Path | None, interactions: Path | None, items: Path | None) -> Path | tuple[Path, Path]:
    """The folder, or Amazon's two files."""
    if path is None and interactions is not None and items is not None:
        return interactions, items
    ignored = [f"--{name}" for name, file in (("interactions", interactions), ("items", items)) if file is not None]
    if ignored:
        raise DataError(f"--format {layout} takes the folder to read; leave {' and '.join(ignored)} out")
    if path is None:
        raise DataError(f"--format {layout} needs the folder to read: bench datasets import FOLDER --format {layout} …")
    return path


def _tables(
    interactions: Path,
    items: Path,
    name: str,
    columns: Columns,
    delimiter: str | None,
    protocol: Protocol,
    drop_bad_rows: bool,
    reporter: ConsoleReporter,
) -> RecDataset:
    """The items first: they are few, and what is wrong with them is told early."""
    tables.checked(interactions)
    dropped: dict[str, int] | None = {} if drop_bad_rows else None
    listed = tables.items(items, columns, delimiter, dropped)
    titled(listed)
    batches = tables.interactions(
        interactions, columns, delimiter, dropped, rated=protocol.min_rating is not None or columns.rating is not None
    )
    with reporter.stage(f"reading {interactions.name}") as report:
        gathered = gather(_counted(batches, report), protocol.min_rating, dropped)
    reporter.say(
        f"  {len(gathered):,} interaction{'' if len(gathered) == 1 else 's'} read; splitting and installing them"
    )
    return build(name, gathered, listed, protocol, f"{interactions.name} and {items.name}")


def _counted(batches: Iterable[pa.RecordBatch], report: Report) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in batches:
        rows += len(batch)
        report(rows, None, "rows")
        yield batch


def _load(home: Path, name: str) -> RecDataset:
    registry = Registry()
    known = registry.names("datasets")
    return generated(registry, name) if name in known else Library(home).load(name, also=known)


def inspect(home: Path, name: str, as_json: bool) -> None:
    """Statistics as a table, or all of them as JSON."""
    with clean_output() as out:
        facts = inspect_dataset(_load(home, name))
        if as_json:
            print_json(out, facts)
            return
        table = Table(title=f"Data set {name}", show_header=False)
        for key, value in _flat(facts):
            if key != "problems":
                table.add_row(
                    key,
                    f"{value:,}"
                    if isinstance(value, int)
                    else f"{value:.4g}"
                    if isinstance(value, float)
                    else escape(str(value)),
                )
        Console(file=out).print(table)
        out.writelines(f"! {problem}\n" for problem in facts["problems"])


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in facts.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return pairs
