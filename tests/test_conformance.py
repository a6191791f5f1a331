"""Every built-in method keeps the contract, and the suite tells the author of a broken one in words what is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import pytest
from pydantic import Field

from prunebench.benchmark.plugins import Registry
from prunebench.datasets.schema import Samples
from prunebench.methods import selection
from prunebench.methods.base import Evidence, Method, MethodError, PruningMethod, Selection
from prunebench.methods.examples import example_samples, fake_signal, other_settings, shuffled, situations
from prunebench.methods.random import Random
from prunebench.methods.testing import check_method
from prunebench.recommenders.base import Config, Request
from prunebench.recommenders.runtime import Runtime

OURS = sorted(
    point.name
    for point in metadata.entry_points(group="prunebench.methods")
    if point.dist is not None and point.dist.name == "prunebench"
)


def configs(method: type[Any]) -> list[dict[str, Any]]:
    """The defaults; and the LLM's signal where a method has the choice."""
    return [{}] + ([{"signal": "backbone"}] if "signal" in method.Config.model_fields else [])


@pytest.mark.parametrize("name", OURS)
def test_every_built_in_method_keeps_the_contract(name: str) -> None:
    method = Registry().resolve("methods", name)
    assert isinstance(method(method.Config()), PruningMethod)
    for config in configs(method):
        check_method(method, config, **({"n": 20, "budgets": (20,)} if name == "full" else {}))


def test_the_table_of_methods_is_complete() -> None:
    ours = {
        "ccs",
        "dealrec",
        "el2n",
        "forgetting",
        "full",
        "goracs",
        "grand",
        "herding",
        "k_center",
        "less",
        "moderate",
    }
    assert set(OURS) == ours | {"random", "recranker", "tf_dcon"}
    for name in OURS:
        summary = Registry().summary("methods", name)
        assert 20 < len(summary) < 140, (name, summary)


class Sound(Method):
    """The highest scores; broken below in one way at a time."""

    class Config(Config):
        scale: float = Field(default=1.0, gt=0, le=4, description="factor of the evidence")
        reverse: bool = Field(default=False, description="lowest first")

    def requests(self) -> dict[str, Request]:
        return {"score": Request("el2n", {"runs": 1})}

    def evidence_key(self) -> dict[str, Any]:
        return {"scale": self.config.scale}

    def prepare(self, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Evidence:
        return {"score": (self.config.scale * signals["score"]).astype(np.float32)}

    def select(self, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        score = -evidence["score"] if self.config.reverse else evidence["score"]
        return selection.selection(samples, selection.top(score, samples.ids, budget, runtime.derive("sound")))


def broken(**parts: Any) -> type[Any]:
    """``Sound`` with other parts, called ``Broken``."""
    return type("Broken", (Sound,), {"__doc__": "Broken on purpose.", **parts})


def select(change: Any) -> dict[str, Any]:
    """A part: ``select`` with ``change(self, samples, evidence, budget, runtime)`` in place of the sound one."""
    return {"select": change}


def prepare(change: Any) -> dict[str, Any]:
    """A part: ``prepare`` with ``change(sound evidence, samples, signals)`` over what the sound one gives."""

    def changed(self: Any, samples: Samples, signals: Mapping[str, Any], runtime: Runtime) -> Any:
        return change(Sound.prepare(self, samples, signals, runtime), samples, signals)

    return {"prepare": changed}


def some_nan(evidence: Evidence, samples: Samples, signals: Any) -> Evidence:
    evidence["score"][samples.ids == samples.ids.max()] = np.nan
    return evidence


def halve_in_place(evidence: Evidence, samples: Samples, signals: Any) -> Evidence:
    signals["score"] /= 2
    return evidence


def by_rank(samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
    return Sound(Sound.Config()).select(samples, evidence, budget, runtime)


def sort_in_place(self: Any, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
    chosen = by_rank(samples, evidence, budget, runtime)
    evidence["score"].sort()
    return chosen


def change_targets(self: Any, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
    samples.targets[:] = 0
    return by_rank(samples, evidence, budget, runtime)


def remember(self: Any, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
    self.calls = getattr(self, "calls", 0) + 1
    return selection.selection(samples, selection.uniform(samples.ids, budget, self.calls))


GENERATOR = np.random.default_rng(0)


class Careless(Config, extra="ignore"):
    pass


class Listed(Config):
    scale: float = 1.0
    reverse: bool = False

    def model_dump_json(self, **options: Any) -> str:
        return '{"scale": 2.0}'


def ids(values: Any) -> Selection:
    return Selection(np.asarray(values, np.int64))


RULES: dict[str, tuple[type[Any], str]] = {
    "no part is missing": (int, "int has no Config; see .*PruningMethod"),
    "docstring": (broken(__doc__=" "), "Broken: the class has no docstring: say what it selects"),
    "version": (broken(version="2"), "Broken: version must be a whole number .*, not '2'"),
    "version is no flag": (broken(version=True), "version must be a whole number"),
    "config is a model": (broken(Config=dict), "Broken.Config must be a pydantic model"),
    "config in JSON": (broken(Config=Listed), "not the same after a round trip through JSON"),
    "unknown setting": (broken(Config=Careless), "accepts unknown settings, so a typing error would go unnoticed"),
    "requests are requests": (broken(requests=lambda self: {"score": "el2n"}), "requests must give Request objects"),
    "requests in JSON": (
        broken(requests=lambda self: {"score": Request("el2n", {"runs": {1}})}),
        "evidence_key settings must be JSON-able",
    ),
    "key in JSON": (broken(evidence_key=lambda self: {"scale": {1}}), "evidence_key settings must be JSON-able"),
    "signal without a fake": (broken(requests=lambda self: {"m": Request("moon")}), "no fake for the signal 'moon'"),
    "signal's settings": (
        broken(requests=lambda self: {"score": Request("el2n", {"rans": 1})}),
        "Broken: the signal 'el2n' refuses the request's setting 'rans'.*; it has .*runs",
    ),
    "a stale cache": (
        broken(evidence_key=lambda self: {}),
        "Broken: prepare reads the setting 'scale', but neither .* names it, .* stale: add it to evidence_key",
    ),
    "evidence is named": (broken(**prepare(lambda evidence, *_: [1])), "prepare must give named arrays, not list"),
    "evidence is float32": (
        broken(**prepare(lambda evidence, *_: {"score": evidence["score"].astype(float)})),
        r"evidence 'score' must be a float32 array \[n\] or \[n, d\]: cast it",
    ),
    "evidence per sample": (
        broken(**prepare(lambda evidence, *_: {"score": evidence["score"][:3]})),
        "evidence 'score' has 3 rows for 60 samples: .* `shared`",
    ),
    "evidence is finite": (broken(**prepare(some_nan)), r"evidence 'score' is nan for sample \d+: .* `partial`"),
    "infinite is never partial": (
        broken(partial={"score"}, **prepare(lambda evidence, *_: {"score": evidence["score"] / np.float32(0)})),
        "evidence 'score' is inf",
    ),
    "evidence is reproducible": (
        broken(**prepare(lambda e, s, _: {"score": GENERATOR.random(len(s), np.float32)})),
        r"prepare gave other evidence for the same seed: draw from runtime.rng",
    ),
    "signals are shared": (broken(**prepare(halve_in_place)), "prepare changed a signal .*: work on a copy"),
    "prepare fails": (broken(**prepare(lambda *_: 1 / 0)), "prepare failed with ZeroDivisionError: .*MethodError"),
    "select gives a selection": (
        broken(**select(lambda self, samples, *_: samples.ids)),
        "select must give a Selection, not ndarray",
    ),
    "exact budget": (
        broken(**select(lambda self, samples, e, budget, r: ids(samples.ids[: budget - 1]))),
        "Broken: select with a budget of 1 of 60: the method chose 0 samples",
    ),
    "unique": (
        broken(**select(lambda self, samples, e, budget, r: ids([samples.ids.min()] * budget))),
        "budget of 15 of 60: the method chose a sample twice",
    ),
    "ids, not positions": (
        broken(**select(lambda self, samples, e, budget, r: ids(range(budget)))),
        r"which are no sample ids \(positions in place of ids\?\)",
    ),
    "same seed, same samples": (
        broken(**select(lambda s, samples, e, b, r: ids(sorted(GENERATOR.choice(samples.ids, b, replace=False))))),
        "for the same seed and budget 1: draw from runtime.rng",
    ),
    "nothing on self": (broken(**select(remember)), "on an instance used before: .* keep nothing on self"),
    "any order": (
        broken(
            **select(lambda s, samples, e, b, r: ids(sorted(samples.ids[r.rng("x").permutation(len(samples))[:b]])))
        ),
        r"when their order changed \(budget 1\): break ties",
    ),
    "validation, test and labels are not for it": (
        broken(
            **select(
                lambda s, samples, e, b, r: ids(
                    np.sort(samples.ids)[-b:] if len(samples.dataset.test.items) else np.sort(samples.ids)[:b]
                )
            )
        ),
        "depends on validation, test or labels of samples.dataset",
    ),
    "evidence stays": (broken(**select(sort_in_place)), "select changed the evidence, which serves other budgets"),
    "samples stay": (broken(**select(change_targets)), "select changed the samples, which other methods share"),
    "plain notes": (
        broken(
            **select(lambda s, samples, e, b, r: Selection(np.sort(samples.ids)[:b], {"cut": np.float32(1)}))  # type: ignore[dict-item]
        ),
        "notes of a selection are plain numbers and text",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_suite_tells_an_author_what_is_wrong(rule: str) -> None:
    method, message = RULES[rule]
    with np.errstate(all="ignore"), pytest.raises(MethodError, match=message) as caught:
        check_method(method)
    assert str(caught.value).startswith(method.__name__)
    assert "\n" not in str(caught.value)


def fails_where(condition: Any, error: Exception) -> type[Any]:
    """Raises ``error`` in ``select`` where ``condition(samples, evidence, budget)`` holds."""

    def select(self: Any, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        if condition(samples, evidence, budget):
            raise error
        return by_rank(samples, evidence, budget, runtime)

    return broken(select=select)


DEGENERATE = {
    "on a single sample": lambda samples, evidence, budget: len(samples) == 1,
    "on two samples": lambda samples, evidence, budget: len(samples) == 2,
    "on a user with 3,000 items": lambda samples, evidence, budget: samples.histories.lengths.max() > 2000,
    "on signals that are equal": lambda samples, evidence, budget: len(samples) > 2 and np.ptp(evidence["score"]) == 0,
    "on signals that are all zero": lambda samples, evidence, budget: not evidence["score"].any(),
    "with a budget of 0 of": lambda samples, evidence, budget: budget == 0,
}


@pytest.mark.parametrize("situation", DEGENERATE)
def test_degenerate_data_are_selected_from_or_refused_in_one_line(situation: str) -> None:
    condition = DEGENERATE[situation]
    with pytest.raises(
        MethodError, match=f"Broken: select .*{situation}.* failed with IndexError: out of bounds; make"
    ):
        check_method(fails_where(condition, IndexError("out of\nbounds")))
    with pytest.raises(MethodError, match=f"Broken: the MethodError of select .*{situation}.* has several lines"):
        check_method(fails_where(condition, MethodError("no.\nReally.")))
    check_method(fails_where(condition, MethodError("these data have no spread: take random")))


def test_a_wrong_selection_of_degenerate_data_is_no_refusal() -> None:
    def select(self: Any, samples: Samples, evidence: Evidence, budget: int, runtime: Runtime) -> Selection:
        return by_rank(samples, evidence, max(budget, min(len(samples), 1)), runtime)

    with pytest.raises(MethodError, match="budget of 0 of 1 on a single sample: the method chose 1 samples"):
        check_method(broken(select=select))


def test_sound_methods_pass() -> None:
    check_method(Sound)
    check_method(Sound, {"scale": 3.0, "reverse": True})
    check_method(Random)
    check_method(broken(partial={"score"}, **prepare(some_nan), select=Random.select))
    check_method(
        broken(requests=lambda self: {"score": Request("moon")}),
        signals=lambda request, samples: (samples.ids % 28).astype(np.float32),
    )


def test_settings_are_varied_within_their_bounds() -> None:
    found: dict[str, set[Any]] = {}
    for name, settings in other_settings(Sound.Config()):
        found.setdefault(name, set()).add(getattr(settings, name))
    assert found["reverse"] == {True}
    assert found["scale"] >= {0.5, 2.0}
    assert all(0 < value <= 4 for value in found["scale"])


def test_examples_are_what_they_say() -> None:
    samples = example_samples(30)
    mixed = shuffled(samples)
    assert sorted(mixed.ids) == samples.ids.tolist() != mixed.ids.tolist()
    assert np.array_equal(mixed.targets, samples.targets[samples.positions(mixed.ids)])
    assert np.array_equal(mixed.ids[mixed.positions(samples.ids)], samples.ids)
    one, other = fake_signal(Request("effort"), samples), fake_signal(Request("effort"), mixed)
    assert np.array_equal(one[samples.positions(mixed.ids)], other)
    made = {found.name: found for found in situations(fake_signal)}
    assert [len(found.samples) for found in made.values()][:2] == [1, 2]
    assert max(found.samples.sequences.lengths.max() for found in made.values()) == 3000
    equal = made["signals that are equal for all samples"]
    vectors = equal.signals(Request("user_vectors"), equal.samples)
    assert len(np.unique(vectors, axis=0)) == 1
    assert vectors.any()
