"""From an outcome to its record: facts, metrics and the bill of the whole lineage, written last."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from filelock import FileLock

from prunebench.benchmark import metrics
from prunebench.benchmark.config import RunConfig
from prunebench.benchmark.harness import CUTOFFS, ids_digest
from prunebench.benchmark.meter import Bill, hardware
from prunebench.benchmark.outcome import Outcome, Pruned
from prunebench.benchmark.recorded import name_of
from prunebench.benchmark.store import Artefact, Store, created_by
from prunebench.datasets.files import NewerError, atomic_file, atomic_folder, leftovers, verify
from prunebench.datasets.schema import DataError
from prunebench.leaderboard import record as schema
from prunebench.leaderboard import score_summary

logger = logging.getLogger(__name__)

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "sentence-transformers",
    "faiss-cpu",
    "numpy",
    "scipy",
    "prunebench",
)


def environment(device: torch.device) -> schema.Environment:
    """What this run ran on and with."""
    return schema.Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: metadata.version(name) for name in PACKAGES},
        git_commit=created_by()["commit"],
        hardware=hardware(),
        cpu=platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    )


def bill(store: Store, roots: list[Artefact]) -> tuple[list[schema.StageBill], list[schema.StageBill]]:
    """Every artefact of the lineage once, and the killed attempts apart.

    What only the base LLM's pre-training needed goes to `pretraining`, nobody's cost; what a method or backbone also
    used by itself is charged in its own phase.
    """
    lineage = {artefact.hash: artefact for artefact in store.lineage(roots)}
    charged: set[str] = set()
    waiting = [root.hash for root in roots]
    while waiting:
        address = waiting.pop()
        if address in charged:
            continue
        charged.add(address)
        if lineage[address].phase != "pretraining":
            waiting.extend(lineage[address].upstream)

    def entry(artefact: Artefact, cost: Bill) -> schema.StageBill:
        tokens = artefact.info.get("tokens")
        return schema.StageBill(
            stage=artefact.stage,
            hash=artefact.hash,
            phase=cast(schema.Phase, artefact.phase if artefact.hash in charged else "pretraining"),
            wall_s=cost.wall_s,
            cpu_s=cost.cpu_s,
            peak_rss_mb=cost.peak_rss_mb,
            peak_gpu_mb=cost.peak_gpu_mb,
            device=cost.device,
            tokens=tokens if isinstance(tokens, int) else None,
            notes=artefact.info.get("notes", {}) if artefact.stage != "selection" else {},
        )

    whole = [entry(artefact, artefact.bill) for artefact in lineage.values()]
    return whole, [entry(artefact, artefact.killed) for artefact in lineage.values() if artefact.killed.wall_s > 0]


def selection_facts(outcome_or_samples: Any, pruned: Pruned, labels: np.ndarray | None) -> schema.SelectionFacts:
    """What was kept; the share of planted noise where the data set knows it."""
    ids = pruned.selection.ids
    counts = None
    if labels is not None and len(ids):
        names, sizes = np.unique(labels[ids], return_counts=True)
        counts = {str(name): int(size) for name, size in zip(names, sizes, strict=True)}
    return schema.SelectionFacts(
        ids_file="selection.txt" if len(ids) else None,
        sha256=ids_digest(ids) if len(ids) else None,
        count=len(ids),
        noise_share=counts.get("noise", 0) / len(ids) if counts else None,
        label_counts=counts,
        notes=pruned.selection.notes,
    )


def settings(run: RunConfig, uses: tuple[str, ...]) -> dict[str, Any]:
    """The resolved configuration by section, without seeds; of the surrogate only where the selection ``uses`` one."""
    sections = {"method": run.method_config, "backbone": run.backbone_config}
    if "surrogate" in uses:
        sections["surrogate"] = {"name": run.surrogate, **run.surrogate_config}
    if run.llm_config:
        sections["llm"] = run.llm_config
    return {**sections, **({"plugins": run.plugins} if run.plugins else {})}


def run_name(run: RunConfig, fingerprint: str, roots: list[Artefact]) -> str:
    """What a run's folder is called: the hash of its configuration, its data, and its own artefacts."""
    return name_of(run, fingerprint, [root.hash for root in roots])


def keep(
    outcome: Outcome, store: Store, defaults: dict[str, Any], command: str, device: torch.device, anew: bool = False
) -> tuple[schema.Record, Path]:
    """The record of an outcome: read back if this very run was recorded before, else written; and its folder.

    ``anew`` writes it in any case. Processes that end the same run at the same time write one record, the first one's.
    """
    run, dataset = outcome.run, outcome.dataset
    roots = [artefact for artefact in (outcome.pruned.artefact, outcome.fitted, outcome.predictions) if artefact]
    name = run_name(run, dataset.fingerprint, roots)
    folder = store.home / "runs" / name
    with store.lock(f"run-{name}", lambda: f"another process to record run {name}"):
        for unfinished in leftovers(folder):
            shutil.rmtree(unfinished)
        record = None if anew else _known(folder)
        if record is not None:
            log_test_evaluation(store.home, record)
        else:
            record = _record(name, outcome, store, roots, defaults, command, device)
            log_test_evaluation(store.home, record)
            _write(record, outcome, folder)
    return record, folder


def _known(folder: Path) -> schema.Record | None:
    """The record in a run's folder if it and the files beside it are whole; None, with a warning, if they are not.

    Raises DataError or RecordError for one that a newer version wrote, which stays as it is.
    """
    if not folder.exists():
        return None
    try:
        verify(folder)
    except NewerError:
        raise
    except DataError as error:
        logger.warning("%s; writing it again", error)
        return None
    return schema.load_record(folder / "record.json")


def _record(
    name: str,
    outcome: Outcome,
    store: Store,
    roots: list[Artefact],
    defaults: dict[str, Any],
    command: str,
    device: torch.device,
) -> schema.Record:
    run, dataset, samples = outcome.run, outcome.dataset, outcome.samples
    stages, killed = bill(store, roots)
    config = settings(run, outcome.pruned.uses)
    ranked = {"unmasked": outcome.rankings, "masked": metrics.mask(outcome.rankings, outcome.queries.histories)}
    info = outcome.fitted.info
    return schema.Record(
        run=name,
        finished=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        command=command,
        method=run.method,
        backbone=run.backbone,
        dataset=schema.DatasetFacts(
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            counts={
                "users": dataset.n_users,
                "items": dataset.n_items,
                "samples": len(samples),
                f"{run.split}_users": len(outcome.queries),
            },
        ),
        llm=run.backbone_config.get("llm"),
        budget=run.budget,
        share=run.budget / len(samples) if len(samples) else 0.0,
        config=config,
        changes=schema.differences(config, {**defaults, "plugins": run.plugins}),
        seeds=schema.Seeds(**run.seeds.model_dump()),
        environment=environment(device),
        protocol=schema.Protocol(
            split=run.split, reads=outcome.reads, cutoffs=list(CUTOFFS), users_evaluated=len(outcome.queries)
        ),
        selection=selection_facts(samples, outcome.pruned, dataset.labels),
        training=schema.Training(
            **{key: info[key] for key in ("steps", "tokens", "samples", "best_step", "valid_losses")}
        ),
        metrics={
            protocol: schema.Metrics(
                **metrics.summarise(values, outcome.queries, dataset),
                coverage=metrics.coverage(ranked[protocol], CUTOFFS),
            )
            for protocol, values in outcome.per_user.items()
        },
        per_user="per_user.npz",
        bill=stages,
        totals=schema.total(stages),
        killed=killed,
    )


def _write(record: schema.Record, outcome: Outcome, folder: Path) -> None:
    with atomic_folder(folder, overwrite=True) as half:
        np.savetxt(half / "selection.txt", outcome.pruned.selection.ids, fmt="%d")
        arrays = {
            f"{protocol}_{field}": getattr(values, field)
            for protocol, values in outcome.per_user.items()
            for field in ("recall", "ndcg")
        }
        np.savez_compressed(half / "per_user.npz", users=outcome.queries.users, cutoffs=np.array(CUTOFFS), **arrays)
        if outcome.scores is not None:
            (half / score_summary.FILE).write_text(outcome.scores.model_dump_json(indent=1) + "\n")
        (half / "record.json").write_text(schema.write_record(record))


def log_test_evaluation(home: Path, record: schema.Record) -> None:
    """One line per run that looked at test, written before its record can be seen and never twice.

    A line that was damaged stays: it is not known which run it was.
    """
    if record.protocol.split != "test":
        return
    path = home / "test_evaluations.jsonl"
    with FileLock(path.with_suffix(".lock")):
        for unfinished in leftovers(path):
            unfinished.unlink()
        logged = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        if record.run in {_logged_run(line) for line in logged}:
            return
        facts = {"run": record.run, "finished": record.finished, "digest": record.digest, "command": record.command}
        with atomic_file(path, overwrite=True) as log:
            log.writelines(f"{line}\n" for line in [*logged, json.dumps(facts)])


def _logged_run(line: str) -> str | None:
    with contextlib.suppress(ValueError, LookupError, TypeError):
        return str(json.loads(line)["run"])
    return None
