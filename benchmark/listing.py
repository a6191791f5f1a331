"""`bench ls`: what there is, read from entry points and small files; imports neither torch nor the parts it lists."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, cast

import click

from prunebench.benchmark.plugins import Kind, PluginError, Registry
from prunebench.datasets import listing as installed

logger = logging.getLogger(__name__)


def show(home: Path, kind: str | None, as_json: bool) -> None:
    """One kind, or all of them."""
    makers = {
        "methods": _parts,
        "backbones": _parts,
        "datasets": _datasets,
        "surrogates": _parts,
        "signals": _parts,
        "runs": _runs,
    }
    chosen = [kind] if kind else list(makers)
    print_rows({name: makers[name](name, home) for name in chosen}, as_json)


def _parts(kind: str, home: Path) -> list[dict[str, Any]]:
    registry, named = Registry(), cast(Kind, kind)
    rows: list[dict[str, Any]] = []
    for name in registry.names(named):
        try:
            rows.append(
                {"name": name, "summary": registry.summary(named, name), "from": registry.origin(named, name).source}
            )
        except PluginError as error:
            logger.warning("%s", error)
            rows.append({"name": name, "summary": "cannot be used", "from": "", "damaged": True})
    return rows


def _datasets(kind: str, home: Path) -> list[dict[str, Any]]:
    generated = [{**row, "status": "built in"} for row in _parts("datasets", home)]
    present = [{**row, "status": "damaged" if row.get("damaged") else "installed"} for row in installed.installed(home)]
    known = [{**row, "status": f"known, {installed.how_to_install(row['name'])}"} for row in installed.known(home)]
    return [*generated, *present, *known]


def _runs(kind: str, home: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted((home / "runs").glob("*/record.json")):
        try:
            record = json.loads(path.read_text())
            recall = record["metrics"]["unmasked"]["recall"]
            rows.append(
                {
                    "name": record["run"],
                    "finished": record["finished"],
                    "method": record["method"],
                    "backbone": record["backbone"],
                    "dataset": record["dataset"]["name"],
                    "budget": record["budget"],
                    "seed": record["seeds"]["selection"],
                    "split": record["protocol"]["split"],
                    "recall@10": recall.get("10"),
                    "record": str(path),
                }
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            rows.append({"name": path.parent.name, "damaged": True, "record": str(path)})
    return sorted(rows, key=lambda row: (row.get("finished", ""), row["name"]))


def print_rows(listed: dict[str, list[dict[str, Any]]], as_json: bool) -> None:
    """Kinds with their rows, as JSON or as indented lines."""
    if as_json:
        click.echo(json.dumps(listed, indent=1))
        return
    for number, (kind, rows) in enumerate(listed.items()):
        click.echo(("\n" if number else "") + f"{kind}:" + ("" if rows else " none yet"))
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            click.echo(f"  {row['name']:<{width}}  {_line(kind, row)}".rstrip())


def _line(kind: str, row: dict[str, Any]) -> str:
    if row.get("damaged"):
        return "cannot be used" if "summary" in row else "damaged"
    if kind == "runs":
        recall = f"R@10 {row['recall@10']:.4f}" if row["recall@10"] is not None else ""
        return f"{row['method']} × {row['backbone']} on {row['dataset']} ({row['split']}), {row['budget']} samples, seed {row['seed']}  {recall}"
    if kind == "datasets":
        counts = (
            f"{row['users']:,} users, {row['items']:,} items, {row['interactions']:,} interactions"
            if "users" in row
            else row.get("summary", "")
        )
        return f"{row['status']}: {counts}"
    return row["summary"]
