"""A study file: methods × backbones × data sets × budgets × settings × seeds, typed, and the runs it asks for.

    # lam.toml, run with `bench sweep lam.toml`
    methods = ["dealrec", "random", "full"]
    backbones = ["bigrec", "popular"]     # default bigrec
    datasets = ["mini"]                   # default mini
    budgets = [64, "2%"]                  # default the data set's own
    seeds = [0, 1, 2]                     # or crossed: seeds = {selection = [0, 1], finetune = [0, 1, 2]}
    surrogate = "sasrec"                  # as do split, llm, preset and plugins, as in `bench run`
    plugins = ["mine.py"]                 # beside this file

    [settings]                            # shared; NAME.KEY is for the method or backbone of that name alone
    "surrogate.epochs" = 20
    "dealrec.use_effort" = false

    [vary]                                # crossed with everything above
    "dealrec.lam" = [0.1, 0.3, 1]

    [[include]]                           # further runs; what is not named is as above
    method = "random"
    budget = 0                            # or backbone, dataset, surrogate

    [[exclude]]                           # combinations to leave out: where all of this holds
    method = "random"
    budget = 64

``full`` keeps all samples, so it has no budgets; ``llm`` and ``preset`` are for the backbones that take one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from prunebench.benchmark.config import (
    LARGEST_SEED,
    SECTIONS,
    Choices,
    ConfigError,
    Seeds,
    build,
    near,
    read_file,
)
from prunebench.recommenders.base import Config

ALL_SAMPLES = "full"
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED, strict=True)]
Names = Annotated[list[str], Field(min_length=1)]


class CrossedSeeds(Config):
    """Every seed of the selection (and of the signals before it) with every seed of the fine-tuning."""

    selection: list[Seed] = Field([0], min_length=1)
    finetune: list[Seed] = Field([0], min_length=1)


class Study(Config):
    """What a study file may hold; see the module."""

    methods: Names = Field(["dealrec"], description="pruning methods")
    backbones: Names = Field(["bigrec"], description="what is fine-tuned")
    datasets: Names = Field(["mini"], description="data sets")
    budgets: list[Any] = Field([None], min_length=1, description="numbers of samples, percentages or full")
    seeds: list[Seed] | CrossedSeeds = Field([0], description="a list, or lists for selection and finetune to cross")
    surrogate: str = "sasrec"
    llm: str | None = None
    preset: str | None = None
    split: Literal["valid", "test"] = "test"
    plugins: list[str] = Field([], description="Python files, relative to the study file")
    settings: dict[str, Any] = Field({}, description="settings of every run")
    vary: dict[str, Any] = Field({}, description="lists of values for settings")
    include: list[dict[str, Any]] = Field([], description="further runs")
    exclude: list[dict[str, Any]] = Field([], description="combinations to leave out")

    @field_validator("seeds", mode="before")
    @classmethod
    def _clear_about_seeds(cls, value: Any) -> Any:
        """A union's own message would name neither form."""
        if isinstance(value, dict):
            return build(CrossedSeeds, value, "the table")
        whole = (
            [seed for seed in value if type(seed) is int and 0 <= seed <= LARGEST_SEED]
            if isinstance(value, list)
            else []
        )
        if not whole or whole != value or len(set(whole)) < len(whole):
            raise ValueError("give different whole numbers, e.g. [0, 1, 2], or {selection = [0, 1], finetune = [0, 1]}")
        return value


@dataclass(frozen=True)
class Task:
    """One run as asked for: all that `bench run` would be told. Plain values, to be sent to another process."""

    method: str
    backbone: str
    dataset: str
    surrogate: str = "sasrec"
    budget: str | None = None
    split: Literal["valid", "test"] = "test"
    llm: str | None = None
    preset: str | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    selection_seed: int = 0
    finetune_seed: int = 0
    plugins: tuple[str, ...] = ()

    @property
    def choices(self) -> Choices:
        names = (self.method, self.backbone, self.surrogate, self.dataset)
        overrides = {"backbone": {"llm": self.llm}} if self.llm is not None else {}
        return Choices(*names, self.budget, self.split, self.preset, overrides)

    @property
    def seeds(self) -> Seeds:
        return Seeds(signal=self.selection_seed, selection=self.selection_seed, finetune=self.finetune_seed)

    @property
    def set_options(self) -> tuple[str, ...]:
        """The settings as `--set` has them."""
        return tuple(f"{key}={json.dumps(value)}" for key, value in self.settings)

    def words(self, device: str = "auto") -> list[str]:
        """The command that does this run alone."""
        words = ["bench", "run", "--method", self.method, "--backbone", self.backbone, "--dataset", self.dataset]
        for option, value, default in (
            ("--surrogate", self.surrogate, "sasrec"),
            ("--budget", self.budget, None),
            ("--split", self.split, "test"),
            ("--llm", self.llm, None),
            ("--preset", self.preset, None),
            ("--device", device, "auto"),
        ):
            words += [option, str(value)] if value != default else []
        for setting in self.set_options:
            words += ["--set", setting]
        words += ["--seed", str(self.selection_seed)]
        if self.finetune_seed != self.selection_seed:
            words += ["--set", f"seeds.finetune={self.finetune_seed}"]
        return [*words, *(word for path in self.plugins for word in ("--plugin", path))]

    def facts(self) -> dict[str, Any]:
        """What an entry of `exclude` can name."""
        named = {part: getattr(self, part) for part in PARTS}
        seeds = {"seed": self.selection_seed, "seeds.selection": self.selection_seed}
        return {**dict(self.settings), **named, **seeds, "seeds.finetune": self.finetune_seed}


PARTS = {
    "method": "methods",
    "backbone": "backbones",
    "dataset": "datasets",
    "budget": "budgets",
    "surrogate": "surrogate",
}
"""What an entry of `include` can name beside settings, and what of the study it stands for."""


def read_study(path: Path) -> Study:
    """The study of a file, its plugins' paths no longer relative to it.

    Raises ConfigError in one line for a file that cannot be read or holds what a study does not have.
    """
    said = "the configuration file"
    try:
        values = read_file(path)
    except ConfigError as error:
        raise ConfigError(str(error).replace(said, "the study")) from None
    study = build(Study, values, f"study {path.name}")
    assert isinstance(study, Study)
    return study.model_copy(update={"plugins": [str(path.parent / name) for name in study.plugins]})


def tasks(study: Study, title: str) -> list[Task]:
    """Every run of the study in its order, those that come up twice still twice. Raises ConfigError, all mistakes told."""
    grids = [_Grid.of(study, {}), *(_Grid.of(study, entry) for entry in study.include)]
    mistakes = list(dict.fromkeys(mistake for grid in grids for mistake in grid.mistakes()))
    refuse(title, mistakes)
    everything = [task for grid in grids for task in grid.tasks(study)]
    kept = [task for task in everything if not any(_matches(task, entry) for entry in study.exclude)]
    idle = [entry for entry in study.exclude if not any(_matches(task, entry) for task in everything)]
    mistakes += [f"exclude {_inline(entry)} fits no run; correct it, or leave it out" for entry in idle]
    if not kept:
        mistakes.append("everything is excluded; leave a run")
    refuse(title, mistakes)
    return kept


def refuse(title: str, mistakes: list[str]) -> None:
    """Raise ConfigError with every mistake in one line, if there are any."""
    if len(mistakes) == 1:
        raise ConfigError(f"study {title}: {mistakes[0]}")
    if mistakes:
        listed = "; ".join(f"({number}) {mistake}" for number, mistake in enumerate(mistakes, 1))
        raise ConfigError(f"study {title} has {len(mistakes)} mistakes: {listed}")


@dataclass(frozen=True)
class _Grid:
    """Lists to cross: the study's own, or with those of an `include` in their place."""

    parts: Mapping[str, list[Any]]
    settings: Mapping[str, Any]
    vary: Mapping[str, Any]
    owners: Mapping[str, tuple[str, ...]]
    where: str

    @classmethod
    def of(cls, study: Study, entry: Mapping[str, Any]) -> _Grid:
        chosen = {key: entry.get(key, getattr(study, listed)) for key, listed in PARTS.items()}
        parts = {key: value if isinstance(value, list) else [value] for key, value in chosen.items()}
        own = _dotted({key: value for key, value in entry.items() if key not in PARTS})
        vary = {key: value for key, value in _dotted(study.vary).items() if key not in own}
        settings = {**_dotted(study.settings), **own}
        names: dict[str, list[str]] = {}
        for section, listed in (("method", "methods"), ("backbone", "backbones")):
            entries = (item.get(section, []) for item in study.include)
            also = [name for value in entries for name in (value if isinstance(value, list) else [value])]
            for name in dict.fromkeys([*getattr(study, listed), *also]):
                names.setdefault(str(name), []).append(section)
        for name in dict.fromkeys(map(str, parts["surrogate"])):
            names.setdefault(name, []).append("surrogate")
        owners = {name: tuple(sections) for name, sections in names.items()}
        return cls(parts, settings, vary, owners, f"include {_inline(entry)}: " if entry else "")

    def mistakes(self) -> Iterator[str]:
        for key, values in self.parts.items():
            for value in values:
                if not isinstance(value, str) and (key != "budget" or isinstance(value, bool | float | list | dict)):
                    yield f"{self.where}{key} = {value!r}: give {'a number or text such as 2%' if key == 'budget' else 'a name'}"
            for value in dict.fromkeys(value for value in map(str, values) if list(map(str, values)).count(value) > 1):
                yield f"{self.where}{PARTS[key]} name {value} twice; keep one"
        for key, value in self.vary.items():
            if not isinstance(value, list) or not value:
                yield f"vary {key} = {value!r}: give a list of values, e.g. [0.1, 0.3]; one for all belongs under [settings]"
        for key in (*self.settings, *self.vary):
            owner, dot, _ = key.partition(".")
            if not dot and key in ("seed", "seeds"):
                yield f"{self.where}{key}: seeds belong at the top of the study, as a list"
            elif owner == "seeds":
                yield f"{self.where}{key}: write seeds = {{selection = […], finetune = […]}} at the top of the study"
            elif not dot or owner not in (*SECTIONS, *self.owners):
                hint = near(
                    owner, (*PARTS, *SECTIONS, *self.owners), f"write method.{key}, backbone.{key} or NAME.{key}"
                )
                yield f"{self.where}{key!r} is no setting of a section, method or backbone of this study; {hint}"
            elif owner not in SECTIONS and len(self.owners[owner]) > 1:
                choice = " or ".join(f"{section}.{key.partition('.')[2]}" for section in self.owners[owner])
                yield f"{self.where}{owner} is more than one part of this study; write {choice} in place of {key}"

    def tasks(self, study: Study) -> Iterator[Task]:
        for dataset, backbone, method, surrogate in itertools.product(
            *(self.parts[key] for key in ("dataset", "backbone", "method", "surrogate"))
        ):
            budgets = self.parts["budget"]
            if method == ALL_SAMPLES:
                budgets = list(dict.fromkeys(budget if str(budget) in ("0", "0%") else None for budget in budgets))
            chosen = {"method": method, "backbone": backbone, "surrogate": surrogate}
            own = {key: name for key in self.vary if (name := self._name(key, chosen))}
            shared = {name: value for key, value in self.settings.items() if (name := self._name(key, chosen))}
            for budget, values in itertools.product(budgets, itertools.product(*(self.vary[key] for key in own))):
                settings = {**shared, **dict(zip(own.values(), values, strict=True))}
                for selection, finetune in _seeds(study):
                    yield Task(
                        method,
                        backbone,
                        dataset,
                        surrogate,
                        None if budget is None else str(budget),
                        study.split,
                        study.llm,
                        study.preset,
                        tuple(settings.items()),
                        selection,
                        finetune,
                        tuple(study.plugins),
                    )

    def _name(self, key: str, chosen: Mapping[str, str]) -> str | None:
        """A setting's name for a run of these parts; None where it belongs to another method or backbone."""
        owner, _, rest = key.partition(".")
        if owner in SECTIONS:
            return key
        (section,) = self.owners[owner]
        return f"{section}.{rest}" if chosen[section] == owner else None


def _seeds(study: Study) -> list[tuple[int, int]]:
    """Pairs for selection and fine-tuning."""
    if isinstance(study.seeds, CrossedSeeds):
        return list(itertools.product(study.seeds.selection, study.seeds.finetune))
    return [(seed, seed) for seed in study.seeds]


def _matches(task: Task, entry: Mapping[str, Any]) -> bool:
    facts = task.facts()
    for key, value in _dotted(entry).items():
        owner, _, rest = key.partition(".")
        if key not in facts and owner in (task.method, task.backbone):
            key = f"{'method' if owner == task.method else 'backbone'}.{rest}"
        wanted = value if isinstance(value, list) else [value]
        if key == "budget":
            wanted = [str(one) for one in wanted]
        if key not in facts or facts[key] not in wanted:
            return False
    return True


def _dotted(table: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Tables in tables as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _dotted(value, f"{inside}{key}.") if isinstance(value, Mapping) else {f"{inside}{key}": value}
    return flat


def _inline(entry: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key} = {value!r}" for key, value in entry.items()) + "}"
