"""`bench run`, `bench prune` and `bench demo`: from options to records, progress on standard error."""

from __future__ import annotations

import functools
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from rich.table import Table

from prunebench.benchmark.config import NO_METHOD, SECTIONS, Choices, ConfigError, RunConfig, Seeds, near, read_file
from prunebench.benchmark.crew import Crew
from prunebench.benchmark.exports import Layout, Target, item_noun, provenance
from prunebench.benchmark.harness import Harness
from prunebench.benchmark.launch import Launch
from prunebench.benchmark.output import clean_output, print_json
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.benchmark.workbench import Workbench
from prunebench.leaderboard.record import Record
from prunebench.leaderboard.tables import duration, leaderboard_markdown
from prunebench.recommenders.distributed import Team

FILE_OPTIONS = ("method", "backbone", "surrogate", "dataset")
DEMO = (("dealrec", None), ("random", None), ("random", "0"))
DEMO_REFERENCES = ("popular", "content_knn")


def quiet_libraries() -> None:
    """Progress and problems are told by us, once."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|transformers|peft|sentence_transformers)")
    warnings.filterwarnings("ignore", category=FutureWarning)


def workbench(home: Path, device: str, plugin_files: tuple[Path, ...], crew: Crew | None = None) -> Workbench:
    """The workbench of a command: its progress on standard error, its plugins loaded."""
    quiet_libraries()
    console = Console(stderr=True)
    command = shlex.join(["bench", *sys.argv[1:]])
    reporter = ConsoleReporter(console, quiet=crew is not None and not crew.launch.leads)
    bench = Workbench(home, reporter, device, command=command, crew=crew)
    for path in plugin_files:
        bench.load_plugin(path)
    return bench


def _choices(asked: dict[str, Any], file: dict[str, Any]) -> tuple[Choices, dict[str, Any]]:
    """As ``job_choices``, complete."""
    given, sections = job_choices(asked, file)
    return Choices(**given), sections


def job_choices(asked: dict[str, Any], file: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the command line over those of the file's `run` table, as fields of ``Choices``; what remains of the
    file are sections."""
    named = file.get("run", {})
    if not isinstance(named, dict):
        raise ConfigError("the configuration file's 'run' must be a table, e.g. [run] with method = \"dealrec\"")
    allowed = {*FILE_OPTIONS, "budget", "split", "llm", "preset"}
    tables = ("run", *SECTIONS)
    for where, keys, known in (("", file, tables), ("[run] of ", named, sorted(allowed))):
        for key in keys:
            if key not in known:
                hint = near(key, known, f"it takes {', '.join(known)}")
                hint += f"; {key} belongs under [run]" if not where and key in allowed else ""
                raise ConfigError(f"{where}the configuration file has the unknown key {key!r}; {hint}")
    for key, value in named.items():
        if isinstance(value, bool) or not isinstance(value, str | int | None if key == "budget" else str | None):
            what = "a number of samples, or text such as '2%'" if key == "budget" else "a name"
            raise ConfigError(f"[run] of the configuration file has {key} = {value!r}; give {what}")
    values = {key: asked.get(key) if asked.get(key) is not None else named.get(key) for key in allowed}
    if values["split"] not in (None, "valid", "test"):
        raise ConfigError(f"split = {values['split']!r} in the configuration file: there are valid and test")
    llm = values.pop("llm")
    given: dict[str, Any] = {key: str(value) for key, value in values.items() if value is not None}
    given["overrides"] = {"backbone": {"llm": llm}} if llm is not None else {}
    return given, {key: value for key, value in file.items() if key != "run"}


def _seeds(seed: int | None, seeds: str | None) -> list[int]:
    if seeds is None:
        return [seed or 0]
    if seed is not None:
        raise ConfigError("give --seed or --seeds, not both")
    try:
        parsed = [int(part) for part in seeds.split(",")]
    except ValueError:
        parsed = []
    if not parsed or min(parsed) < 0 or len(set(parsed)) != len(parsed):
        raise ConfigError(f"--seeds {seeds!r}: give different whole numbers with commas, e.g. 0,1,2")
    return parsed


def run(
    home: Path,
    launch: Launch,
    *,
    seed: int | None,
    seeds: str | None,
    as_json: bool,
    config_file: Path | None,
    plugin_files: tuple[Path, ...],
    device: str,
    settings: tuple[str, ...],
    **asked: Any,
) -> None:
    """One record per seed, each kept as it ends. Of several processes the first does all that cannot be shared."""
    with clean_output() as out, Crew(launch) if launch.size > 1 else nullcontext() as crew:
        if crew is not None and not launch.leads:
            crew.follow(_Follower(functools.partial(workbench, home, device, plugin_files, crew)))
            return
        wanted, bench = _seeds(seed, seeds), workbench(home, device, plugin_files, crew)
        choices, file = _choices(asked, read_file(config_file) if config_file else {})
        records = []
        for number in wanted:
            resolved, dataset, defaults = bench.resolve(choices, settings, file, Seeds.all(number))
            job = in_words(resolved.method, resolved.backbone, dataset.name, resolved.budget)
            bench.reporter.say(f"{job}, seed {number}")
            if crew is not None and getattr(bench.registry.resolve("backbones", resolved.backbone), "joint", False):
                crew.tell({"run": resolved.model_dump(mode="json"), "dataset": choices.dataset})
            elif crew is not None:
                bench.reporter.say(f"  {resolved.backbone} is fine-tuned by one process; the others wait")
            record, folder = bench.run(resolved, dataset, defaults)
            bench.reporter.say(f"  record         {folder / 'record.json'}")
            records.append(record)
        if as_json:
            print_json(out, _plain(records[0]) if seeds is None else {"runs": [_plain(record) for record in records]})
        else:
            _print_table(out, records)


class _Follower:
    """What any other process than the first does: get ready for a run, then its share where the run can be shared."""

    def __init__(self, opened: Callable[[], Workbench]) -> None:
        self._opened = functools.cache(opened)
        self._harness: Harness

    def __call__(self, call: dict[str, Any], team: Team) -> None:
        if "run" in call:
            bench = self._opened()
            self._harness = bench.harness(RunConfig.model_validate(call["run"]), bench.dataset(call["dataset"]))
        else:
            self._harness.join(call, team)


def prune(
    home: Path,
    *,
    seed: int | None,
    out: Path | None,
    layout: Layout,
    overwrite: bool,
    as_json: bool,
    config_file: Path | None,
    plugin_files: tuple[Path, ...],
    device: str,
    settings: tuple[str, ...],
    **asked: Any,
) -> None:
    """Only the selection: on standard output, or in a file or folder to fine-tune on."""
    target = Target(out, layout, overwrite)
    target.check(as_json)
    with clean_output() as stream:
        bench = workbench(home, device, plugin_files)
        choices, file = _choices(asked, read_file(config_file) if config_file else {})
        resolved, dataset, _ = bench.resolve(choices, settings, file, Seeds.all(seed or 0), select_only=True)
        pruned, stages = bench.prune(resolved, dataset)
        samples, ids = dataset.samples(), pruned.selection.ids
        if out is not None or not as_json:
            facts = provenance(resolved, samples, pruned, stages, bench.command)
            target.write(samples.take(ids), item_noun(resolved, dataset), facts, stream)
        if out is not None:
            bench.reporter.say(f"Wrote {len(ids):,} samples to {out} ({layout})")
        if as_json:
            print_json(
                stream,
                {
                    "method": resolved.method,
                    "backbone": resolved.backbone,
                    "dataset": dataset.name,
                    "fingerprint": dataset.fingerprint,
                    "budget": resolved.budget,
                    "seeds": resolved.seeds.model_dump(),
                    "sample_ids": ids.tolist(),
                    "notes": pruned.selection.notes,
                    "bill": [stage.model_dump() for stage in stages],
                    **({"out": str(out), "format": layout} if out is not None else {}),
                },
            )


def demo(home: Path, as_json: bool) -> None:
    """DEALRec, random, zero-shot and the references on `mini`, then the board."""
    with clean_output() as out:
        bench = workbench(home, "auto", ())
        jobs = [Choices(method=method, budget=budget) for method, budget in DEMO] + [
            Choices(backbone=name) for name in DEMO_REFERENCES
        ]
        records = []
        for number, choices in enumerate(jobs, 1):
            resolved, dataset, defaults = bench.resolve(choices, (), {}, Seeds())
            job = in_words(resolved.method, resolved.backbone, dataset.name, resolved.budget)
            bench.reporter.say(f"[{number}/{len(jobs)}] {job}")
            records.append(bench.run(resolved, dataset, defaults)[0])
        if as_json:
            print_json(out, {"runs": [_plain(record) for record in records]})
        else:
            out.write(leaderboard_markdown(records))


def in_words(method: str, backbone: str, dataset: str, budget: int) -> str:
    """A run in a line."""
    what = f"{method} × {backbone}" if method != NO_METHOD else f"{backbone} without samples"
    return f"{what} on {dataset}" + (f", {budget:,} samples" if budget else "")


def _plain(record: Record) -> dict[str, Any]:
    return record.model_dump(mode="json")


def _print_table(out: Any, records: list[Record]) -> None:
    """Never narrower than its figures: a figure cut short is worse than a line that wraps."""
    console = Console(file=out)
    console.width = max(console.width, 16 + 12 * len(records))
    console.print(_table(records))


def _table(records: list[Record]) -> Table:
    """One column per seed: it fits a narrow terminal."""
    first = records[0]
    mixed = any(record.totals.total_s is None for record in records)
    table = Table(
        title=f"{in_words(first.method, first.backbone, first.dataset.name, first.budget)}\n"
        f"{first.protocol.split} split, {first.protocol.users_evaluated:,} users, history not masked",
        caption="– : stages on different hardware or threads do not add up" if mixed else None,
    )
    table.add_column("")
    for record in records:
        table.add_column(f"seed {record.seeds.selection}", justify="right")
    means = [record.metrics["unmasked"] for record in records]
    for letter, name in (("Recall", "recall"), ("NDCG", "ndcg")):
        for cutoff in ("10", "20"):
            values = [getattr(mean, name)[cutoff] for mean in means]
            table.add_row(f"{letter}@{cutoff}", *("–" if value is None else f"{value:.4f}" for value in values))
    for phase in ("pruning", "fine_tuning", "inference", "total"):
        table.add_row(phase.replace("_", "-"), *(duration(getattr(record.totals, f"{phase}_s")) for record in records))
    table.add_row("peak memory", *(f"{record.totals.peak_rss_mb:,.0f} MB" for record in records))
    return table
