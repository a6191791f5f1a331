"""One place on disk, one device: resolves what was asked for into runs, and runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from prunebench.benchmark.config import (
    NO_METHOD,
    SECTIONS,
    Choices,
    ConfigError,
    RunConfig,
    Seeds,
    budget_form,
    build,
    by_field,
    merge,
    near,
    parse_budget,
    parse_settings,
    presets,
)
from prunebench.benchmark.crew import Crew, local_device
from prunebench.benchmark.generated import frozen
from prunebench.benchmark.generated import generated as make_dataset
from prunebench.benchmark.harness import Harness
from prunebench.benchmark.launch import Launch
from prunebench.benchmark.meter import processor_in_words
from prunebench.benchmark.outcome import Pruned
from prunebench.benchmark.plugins import Registry
from prunebench.benchmark.progress import Reporter
from prunebench.benchmark.providers import CATALOGUE
from prunebench.benchmark.records import bill, keep
from prunebench.benchmark.store import Store
from prunebench.datasets.library import Library
from prunebench.datasets.schema import RecDataset
from prunebench.leaderboard.record import Record, StageBill
from prunebench.recommenders.base import Config
from prunebench.recommenders.bigrec.catalogue import CatalogueConfig
from prunebench.recommenders.runtime import Runtime

DEFAULT_BUDGET = 1024


@dataclass
class Workbench:
    """``home``: where data sets, artefacts and records live. ``device``: auto, cpu, cuda or mps. ``crew``: of a run that a
    launcher started several processes for; the store is the first one's to build in."""

    home: Path
    reporter: Reporter
    device: str = "auto"
    cancelled: Callable[[], bool] = bool
    command: str = ""
    crew: Crew | None = None
    registry: Registry = field(default_factory=Registry)
    _loaded: dict[str, RecDataset] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        launch = self.crew.launch if self.crew else Launch()
        self.torch_device = local_device(launch, choose_device(self.device))
        if self.torch_device.type == "cuda":
            torch.cuda.init()
        # One description for every stage of a run, also for those that leave the accelerator alone.
        hardware = launch.words + describe(self.torch_device)
        self.store = Store(self.home, device=hardware, say=self.reporter.say, builds=launch.leads)
        self.library = Library(self.home)

    def load_plugin(self, path: Path) -> None:
        """Register a single-file plugin; its content enters the hashes of what its parts make."""
        self.registry.load_file(path)

    def dataset(self, name: str) -> RecDataset:
        """An installed data set, or one an entry point generates. Raises DataError for a name that is neither."""
        if name not in self._loaded:
            generated = self.registry.names("datasets")
            made = name in generated
            data = make_dataset(self.registry, name) if made else self.library.load(name, also=generated)
            self._loaded[name] = frozen(data)
        return self._loaded[name]

    # -- from choices to a resolved configuration -----------------------------------------------------------------

    def resolve(
        self,
        choices: Choices,
        settings: tuple[str, ...],
        file: Mapping[str, Any],
        seeds: Seeds,
        select_only: bool = False,
    ) -> tuple[RunConfig, RecDataset, dict[str, Any]]:
        """As ``configure``, for the data set of that name, which comes second. Raises DataError where it is not there."""
        run, defaults = self.configure(
            choices, settings, file, seeds, lambda: _size(self.dataset(choices.dataset)), select_only
        )
        return run, self.dataset(choices.dataset), defaults

    def configure(
        self,
        choices: Choices,
        settings: tuple[str, ...],
        file: Mapping[str, Any],
        seeds: Seeds,
        size: Callable[[], tuple[str, int]],
        select_only: bool = False,
    ) -> tuple[RunConfig, dict[str, Any]]:
        """Defaults < presets < file < --set, every default written out; and the defaults for comparison.

        ``size`` gives the data set's name and number of samples. A run has no method where nothing is selected: for a
        budget of 0, and (unless ``select_only``) for a reference that no selection can change.

        Raises ConfigError or PluginError in one line, and what ``size`` raises.
        """
        kinds = {
            "method": self.registry.resolve("methods", choices.method).Config,
            "backbone": self.registry.resolve("backbones", choices.backbone).Config,
            "surrogate": self.registry.resolve("surrogates", choices.surrogate).Config,
            "llm": CatalogueConfig,
        }
        own = f"{choices.method}."
        settings = tuple(f"method.{text.removeprefix(own)}" if text.startswith(own) else text for text in settings)
        asked = parse_settings(
            settings, {**{name: _keys(kind) for name, kind in kinds.items()}, "seeds": [*Seeds.model_fields]}
        )
        crossed = build(Seeds, {**seeds.model_dump(), **asked.pop("seeds", {})}, "seeds")
        asked = {
            name: merge(
                self._file_section(file, name), merge((choices.overrides or {}).get(name, {}), asked.get(name, {}))
            )
            for name in SECTIONS
        }
        preset = presets(
            choices.dataset, choices.method, choices.backbone, str(asked["backbone"].get("llm", CATALOGUE))
        )
        kept = {name: {k: v for k, v in preset.get(name, {}).items() if k in _keys(kinds[name])} for name in SECTIONS}
        below = {**kept, "backbone": self._named(choices)} if choices.preset else kept
        full = {
            name: _dump(kinds[name], merge(below[name], by_field(kinds[name], asked[name])), _label(name, choices))
            for name in SECTIONS
        }
        plain = {name: _defaults(kinds[name], kept[name]) for name in SECTIONS}
        if (asked_budget := self._asked_budget(choices, file)) not in (None, "full"):
            budget_form(asked_budget)

        # Last, since it may take long: every mistake in the words of the command has been told by now.
        name, samples = size()
        if not samples:
            raise ConfigError(
                f"data set {name} has no user with two training items or more, so no sample (a history and the item after it)"
            )
        backbone = self.registry.resolve("backbones", choices.backbone)
        method, budget = choices.method, self._budget(choices, file, preset, samples)
        if budget == 0 or not (backbone.uses_samples or select_only):
            method, budget, full["method"] = NO_METHOD, 0, {}
        uses_catalogue = full["backbone"].get("llm") == CATALOGUE
        run = RunConfig(
            method=method,
            backbone=choices.backbone,
            surrogate=choices.surrogate,
            dataset=name,
            budget=budget,
            split=choices.split,
            seeds=Seeds.model_validate(crossed.model_dump()),
            method_config=full["method"],
            backbone_config=full["backbone"],
            surrogate_config=full["surrogate"],
            llm_config=full["llm"] if uses_catalogue else {},
            plugins=self._plugins(choices),
        )
        defaults: dict[str, Any] = {
            "method": plain["method"],
            "backbone": plain["backbone"],
            "surrogate": {"name": "sasrec", **plain["surrogate"]},
            "llm": plain["llm"],
        }
        return run, defaults

    def _file_section(self, file: Mapping[str, Any], name: str) -> dict[str, Any]:
        section = file.get(name, {})
        if not isinstance(section, dict):
            raise ConfigError(
                f"the configuration file's {name!r} must be a table of settings; under [run], {name} = … names one"
            )
        return section

    def _plugins(self, choices: Choices) -> dict[str, str]:
        """sha256 of the files that bring the chosen parts: a plugin enters the hashes of what it has a part in."""
        chosen = {
            "method": ("methods", choices.method),
            "backbone": ("backbones", choices.backbone),
            "surrogate": ("surrogates", choices.surrogate),
        }
        origins = {part: self.registry.origin(kind, name).sha256 for part, (kind, name) in chosen.items()}  # type: ignore[arg-type]
        return {part: sha256 for part, sha256 in origins.items() if sha256}

    def _named(self, choices: Choices) -> dict[str, Any]:
        """The backbone's preset of that name; it replaces what is kept for the data set, which suits another LLM."""
        if choices.preset is None:
            return {}
        offered = getattr(self.registry.resolve("backbones", choices.backbone), "PRESETS", {})
        if choices.preset not in offered:
            hint = near(choices.preset, offered, f"it has {', '.join(offered) or 'none'}")
            raise ConfigError(f"backbone {choices.backbone} has no preset {choices.preset!r}; {hint}")
        return dict(offered[choices.preset])

    def _asked_budget(self, choices: Choices, file: Mapping[str, Any]) -> str | int | None:
        return choices.budget if choices.budget is not None else file.get("budget")

    def _budget(self, choices: Choices, file: Mapping[str, Any], preset: Mapping[str, Any], samples: int) -> int:
        asked = self._asked_budget(choices, file)
        if choices.method == "full":
            budget = parse_budget(asked, samples)
            if budget not in (0, samples):
                raise ConfigError(
                    f"--method full keeps all {samples} samples; leave --budget out, or choose another method"
                )
            return budget
        if asked is None:
            asked = min(preset.get("budget", DEFAULT_BUDGET), samples)
        return parse_budget(asked, samples)

    # -- run ------------------------------------------------------------------------------------------------------

    def harness(self, run: RunConfig, dataset: RecDataset) -> Harness:
        runtime = Runtime(device=self.torch_device, cancelled=self.cancelled)
        return Harness(run, dataset, self.registry, self.store, self.reporter, runtime, self.crew)

    def evaluated(self, run: RunConfig, dataset: RecDataset) -> Harness:
        """The harness of a run to a record. Raises ConfigError where there is nobody to evaluate on."""
        if not dataset.split(run.split).lengths.any():
            other: Literal["valid", "test"] = "valid" if run.split == "test" else "test"
            way = f"choose --split {other}" if dataset.split(other).lengths.any() else "`bench prune` needs none"
            raise ConfigError(f"data set {dataset.name} has no {run.split} interactions to evaluate on; {way}")
        return self.harness(run, dataset)

    def run(
        self, run: RunConfig, dataset: RecDataset, defaults: dict[str, Any], anew: bool = False
    ) -> tuple[Record, Path]:
        """One run to its record and the record's folder; whatever is in the store already is not built again.

        ``anew`` writes a record that is there again.
        """
        outcome = self.evaluated(run, dataset).execute()
        return keep(outcome, self.store, defaults, self.command, self.torch_device, anew)

    def prune(self, run: RunConfig, dataset: RecDataset) -> tuple[Pruned, list[StageBill]]:
        """Select only. The bill is that of pruning."""
        pruned = self.harness(run, dataset).prune()
        stages = bill(self.store, [pruned.artefact])[0] if pruned.artefact else []
        return pruned, stages


def _size(dataset: RecDataset) -> tuple[str, int]:
    return dataset.name, len(dataset.samples())


def _keys(kind: type[Config]) -> list[str]:
    """Every name a setting can be given under."""
    return [name for field, info in kind.model_fields.items() for name in (field, info.alias) if name]


def _label(section: str, choices: Choices) -> str:
    return "the catalogue LLM" if section == "llm" else f"{section} {getattr(choices, section)}"


def _dump(kind: type[Config], values: Mapping[str, Any], label: str) -> dict[str, Any]:
    return build(kind, values, label).model_dump(mode="json")


def _defaults(kind: type[Config], kept: Mapping[str, Any]) -> dict[str, Any]:
    """The settings a section has when nothing is asked for; none where some have no default."""
    if any(info.is_required() and key not in kept for key, info in kind.model_fields.items()):
        return {}
    return kind.model_validate(dict(kept)).model_dump(mode="json")


def describe(device: torch.device) -> str:
    """The hardware a run's seconds belong to: processor and threads, and the accelerator if the run uses one."""
    processor = f"{processor_in_words()}, {torch.get_num_threads()} used"
    return f"{processor} + {torch.cuda.get_device_name(device)}" if device.type == "cuda" else processor


def choose_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one. Raises ConfigError for a device this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(name, False):
        raise ConfigError(
            f"device {name!r} is not here; there is {', '.join(device for device, here in present.items() if here)}"
        )
    return torch.device(name)
