"""Artefacts that methods and backbones ask for: declared as requests, built once, cached and billed by one graph."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from prunebench.benchmark.blame import blaming, checked_key, checked_requests
from prunebench.benchmark.config import NO_METHOD, RunConfig, build
from prunebench.benchmark.plugins import Registry
from prunebench.benchmark.progress import Reporter
from prunebench.benchmark.store import Artefact, Store, Workspace
from prunebench.datasets.schema import Queries, RecDataset, Samples
from prunebench.recommenders.base import Backbone, Config, RecommenderError, Request
from prunebench.recommenders.runtime import Runtime

OF_TITLES = ("llm", "title_vectors", "semantic_ids")
"""Signals every data set's titles give; what is made with them says whether a method uses text."""
STOP_USERS = 512
"""Validation users kept for early stopping, the same for every method (protocol, FACTS §9)."""


@dataclass(frozen=True)
class Context:
    """What a signal is built from. ``inputs`` holds the loaded values of what it said it needs."""

    dataset: RecDataset
    samples: Samples
    stop: Queries
    select: Queries
    run: RunConfig
    registry: Registry
    surrogate: Callable[..., Any]
    backbone: Backbone
    runtime: Runtime
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def backbone_with(self, inputs: Mapping[str, Any]) -> Any:
        """The run's backbone with these values as its resources."""
        return with_resources(self.backbone, LoadedResources(self.dataset, inputs))


class Signal(Protocol):
    """A provider: how one kind of artefact is made. Entry point group ``prunebench.signals``."""

    Config: ClassVar[type[Config]]
    version: ClassVar[int]
    phase: ClassVar[str]
    """``pretraining`` | ``pruning`` | ``fine-tuning`` | ``inference``: where the bill goes."""
    seeded: ClassVar[bool]
    """Whether it varies with the run's signal seed; a base LLM, say, is the same for every seed."""
    reads: ClassVar[tuple[str, ...]]
    """Parts of the data it looks at: ``titles``, ``train``, ``stop``, ``select``. One whose configuration decides has a
    method ``reads_with(config)`` as well, which says how much of that it is."""

    def needs(self, config: Any, context: Context) -> dict[str, Request]: ...
    def key(self, config: Any, context: Context) -> dict[str, Any]:
        """What enters the hash beyond the configuration, the data, the seed and the needs."""
        ...

    def build(self, config: Any, context: Context, work: Workspace) -> dict[str, Any] | None: ...
    def load(self, config: Any, context: Context, artefact: Artefact) -> Any: ...


def parts_read(provider: Signal, config: Any) -> tuple[str, ...]:
    """The parts of the data a provider looks at with this configuration."""
    narrowed: Callable[[Any], tuple[str, ...]] | None = getattr(provider, "reads_with", None)
    return provider.reads if narrowed is None else narrowed(config)


def split_validation(queries: Queries) -> tuple[Queries, Queries]:
    """Validation users split once, for all methods: ``(select, stop)``. ``stop`` is 512 users, or half of fewer than 1,024."""
    order = np.random.default_rng(20240126).permutation(len(queries))
    stop = min(STOP_USERS, len(queries) // 2)
    return queries.take(np.sort(order[stop:])), queries.take(np.sort(order[:stop]))


def users_digest(queries: Queries) -> str:
    """Which users these are: what reads validation users depends on how they were split."""
    return hashlib.sha256(queries.users.astype("<i8").tobytes()).hexdigest()[:16]


@dataclass
class Graph:
    """Resolves requests to artefacts for one run: dependencies first, each built at most once, every use in the lineage."""

    context: Context
    store: Store
    reporter: Reporter
    _artefacts: dict[str, Artefact] = field(default_factory=dict)
    _values: dict[str, Any] = field(default_factory=dict)
    reads: dict[str, list[str]] = field(default_factory=dict)
    """Who read which part of the data: stage name → parts."""
    models: set[str] = field(default_factory=set)
    """What had a part: ``surrogate`` and ``backbone``, those that a provider's key names, and ``text``, sentence vectors."""

    @cached_property
    def data_key(self) -> dict[str, str]:
        return {"fingerprint": self.context.dataset.fingerprint}

    def artefact(self, request: Request) -> Artefact:
        """The artefact of a request, built if the store has none."""
        return self._resolve(request)[0]

    def check(self, requests: Iterable[Request]) -> list[tuple[str, tuple[str, ...]]]:
        """Ask every provider on the way for its needs, so that what cannot work fails before anything is built.

        Returns each signal with the parts of the data it will read.
        """
        found: list[tuple[str, tuple[str, ...]]] = []
        for request in requests:
            _, _, needs, reads = self._asked(request)
            found += self.check(needs.values())
            found.append((request.name, reads))
        return found

    def _asked(self, request: Request) -> tuple[Signal, Any, dict[str, Request], tuple[str, ...]]:
        """Provider, configuration, needs and parts read of a request."""
        with self._blaming(request):
            provider: Signal = self.context.registry.resolve("signals", request.name)()
            config = build(provider.Config, request.config, f"signal {request.name!r}")
            needs = provider.needs(config, self.context)
            reads = tuple(parts_read(provider, config))
        return provider, config, checked_requests(f"signal {request.name}: needs", needs), reads

    def _blaming(self, request: Request, key: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
        """Blame the signal, and with it the surrogate or backbone that its ``key`` says it is made with."""
        run, registry = self.context.run, self.context.registry
        with_it = [kind for kind in ("surrogate", "backbone") if kind in (key or {})]
        ours = registry.built_in("signals", request.name) and all(
            registry.built_in(f"{kind}s", getattr(run, kind))  # type: ignore[arg-type]
            for kind in with_it
        )
        made_with = "".join(f" with {kind} {getattr(run, kind)}" for kind in with_it)
        return blaming(f"signal {request.name}{made_with}", ours)

    def value(self, request: Request) -> Any:
        """The loaded value of a request; loaded once per run."""
        artefact, load = self._resolve(request)
        if artefact.hash not in self._values:
            self._values[artefact.hash] = load()
        return self._values[artefact.hash]

    def values(self, requests: Mapping[str, Request]) -> dict[str, Any]:
        return {name: self.value(request) for name, request in requests.items()}

    def _resolve(self, request: Request) -> tuple[Artefact, Callable[[], Any]]:
        provider, config, needs, reads = self._asked(request)
        upstream = [self.artefact(need) for need in needs.values()]
        seed = self.context.run.seeds.signal if provider.seeded else 0
        context = replace(self.context, runtime=self.context.runtime.with_seed(seed))
        with self._blaming(request):
            own = checked_key(f"signal {request.name}: key", provider.key(config, context))
        key = {
            "config": config.model_dump(mode="json"),
            "data": self.data_key if set(reads) - {"titles"} else {},
            "seed": seed,
            **own,
        }
        code = self.context.registry.origin("signals", request.name).sha256
        if code is not None:
            key["plugin"] = code
        self.reads[request.name] = [*dict.fromkeys([*self.reads.get(request.name, []), *reads])]
        self.models |= {"surrogate", "backbone"} & key.keys()
        if request.name not in OF_TITLES and (
            set(reads) == {"titles"} or any(need.name == "title_vectors" for need in needs.values())
        ):
            self.models.add("text")

        def make(work: Workspace) -> dict[str, Any] | None:
            inputs = self.values(needs)
            with self.reporter.stage(request.name) as report, self._blaming(request, key):
                return provider.build(
                    config,
                    replace(context, inputs=inputs, runtime=replace(context.runtime, report=report, saved=work.keep)),
                    work,
                )

        def load() -> Any:
            inputs = self.values(needs)
            with self._blaming(request, key):
                value = provider.load(config, replace(context, inputs=inputs), artefact)
            if isinstance(value, np.ndarray):  # whoever asks for it next gets the same array
                value.setflags(write=False)
            return value

        name = json.dumps([request.name, config.model_dump(mode="json")], sort_keys=True)
        if name not in self._artefacts:
            self._artefacts[name] = self.store.get_or_build(
                request.name, provider.version, key, make, upstream, phase=provider.phase
            )
            self.reporter.built(self._artefacts[name])
        artefact = self._artefacts[name]
        return artefact, load


@dataclass(frozen=True)
class LoadedResources:
    """The resources of one stage of a backbone: only what it declared, so that nothing is used unbilled."""

    dataset: RecDataset
    values: Mapping[str, Any] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        if name not in self.values:
            raise RecommenderError(
                f"a backbone used {name!r} without naming it in needs(); add it there, so that it is hashed and billed"
            )
        return self.values[name]

    def llm(self) -> Path | str:
        return self.get("llm")

    def title_vectors(self) -> np.ndarray:
        return self.get("title_vectors").vectors

    def encode(self, texts: Any) -> np.ndarray:
        return self.get("title_vectors").encode(texts)


def with_resources(backbone: Backbone, resources: LoadedResources) -> Backbone:
    return type(backbone)(backbone.config, resources)  # type: ignore[call-arg,attr-defined]


def parse_sections(registry: Registry, run: RunConfig, dataset: RecDataset) -> tuple[Any, Any, Any]:
    """Method, surrogate factory and backbone of a run, their sections validated. Raises ConfigError, PluginError.

    The factory takes settings in place of the run's own, e.g. ``epochs=10``.
    """
    made = None

    def constructing(kind: Literal["method", "backbone", "surrogate"]) -> AbstractContextManager[None]:
        name: str = getattr(run, kind)
        return blaming(f"{kind} {name}: its constructor", registry.built_in(f"{kind}s", name))  # type: ignore[arg-type]

    if run.method != NO_METHOD:
        method = registry.resolve("methods", run.method)
        with constructing("method"):
            made = method(build(method.Config, run.method_config, f"method {run.method}"))
    backbone = registry.resolve("backbones", run.backbone)
    surrogate = registry.resolve("surrogates", run.surrogate)
    with constructing("backbone"):
        learned = backbone(
            build(backbone.Config, run.backbone_config, f"backbone {run.backbone}"), LoadedResources(dataset)
        )
        if not isinstance(learned.reads, (tuple, list)):
            raise RecommenderError(
                f"backbone {run.backbone}: its reads is {learned.reads!r:.60}; give a tuple of names"
            )

    def untrained(**settings: Any) -> Any:
        config = build(surrogate.Config, {**run.surrogate_config, **settings}, f"surrogate {run.surrogate}")
        with constructing("surrogate"):
            return surrogate(config, dataset.n_items)

    untrained()
    return made, learned, untrained
