"""The contracts that are checked are those that are written down, and a part that breaks one is told where."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
from foreign_parts import BACKBONE, HEAD, METHOD, SIGNAL, source

from prunebench.benchmark.contracts import CONTRACTS, FITTED, broken, broken_fitted
from prunebench.benchmark.plugins import KINDS, Registry
from prunebench.benchmark.signals import Signal
from prunebench.methods.base import PruningMethod
from prunebench.recommenders import base

PROTOCOLS = {
    "methods": PruningMethod,
    "backbones": base.Backbone,
    "surrogates": base.Surrogate,
    "signals": Signal,
    "fitted": base.Fitted,
}
OPTIONAL = (
    *(base.HasEffort, base.HasUserVectors, base.HasTokenErrors, base.HasAlignment),
    *(base.RanksUsers, base.HasDiagnostics, base.HasTargetLosses),
)


def _calls(protocol: type) -> dict[str, tuple[str, ...]]:
    functions = {name: value for name, value in vars(protocol).items() if inspect.isfunction(value) and name[0] != "_"}
    return {name: tuple(inspect.signature(call).parameters)[1:] for name, call in functions.items()}


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_a_contract_asks_for_what_the_protocol_says(kind: str) -> None:
    contract = FITTED if kind == "fitted" else CONTRACTS[kind]
    written = _calls(PROTOCOLS[kind])
    extra = {"load": ("folder", "runtime")} if kind == "surrogates" else {}  # a class method, told in the docstring
    assert dict(contract.calls) == {**written, **extra}


def test_optional_members_are_those_of_the_protocols() -> None:
    known = {name: call for protocol in OPTIONAL for name, call in _calls(protocol).items()}
    assert {**CONTRACTS["backbones"].optional, **FITTED.optional} == known


@pytest.mark.parametrize("kind", KINDS)
def test_our_own_parts_keep_their_contracts(kind: Any) -> None:
    registry = Registry()
    assert all(broken(kind, name, registry.resolve(kind, name)) is None for name in registry.names(kind))


WHOLE = {"methods": METHOD, "backbones": BACKBONE, "signals": SIGNAL}


@pytest.mark.parametrize(("kind", "member"), [(kind, member) for kind in WHOLE for member in CONTRACTS[kind].calls])
def test_every_member_is_missed(kind: str, member: str) -> None:
    def made(**other: str | None) -> type:
        space: dict[str, Any] = {}
        head = {"head": WHOLE[kind]["head"].replace("(Method)", "")} if kind == "methods" else {}
        init = {"__init__": "def __init__(self, config): pass"} if kind == "methods" else {}
        exec(HEAD + source(WHOLE[kind], **{**head, **init, **other}), space)
        (part,) = [value for value in space.values() if isinstance(value, type) and value.__module__ == "builtins"]
        if kind == "methods":
            part.Config, part.version = base.Config, 1  # type: ignore[attr-defined]
        return part

    assert broken(kind, "x", made()) is None
    fault = broken(kind, "x", made(**{member: None}))
    assert fault is not None
    assert f"has no {member}(" in fault
    fault = broken(kind, "x", made(**{member: f"def {member}(self, a, b, c, d, e, f): pass"}))
    assert fault is not None
    assert f"its {member} takes (a, b, c, d, e, f), and is called as {member}(" in fault
    assert broken(kind, "x", made(**{member: f"def {member}(self, *given): pass"})) is None
    assert broken(kind, "x", made(**{member: f"{member} = 3"})) is not None


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("methods", {"Config": None}, "its Config must be a class derived"),
        ("methods", {"version": "1.0"}, "its version is '1.0', and must be of type int"),
        ("methods", {"__init__": lambda self: None}, "it must be built as Part(config), and takes ()"),
        ("backbones", {"uses_samples": None}, "Part has no uses_samples"),
        ("backbones", {"effort": lambda self, samples: None}, "its effort takes (samples), and is called as effort("),
        ("signals", {"reads": "train"}, "its reads is 'train', and must be of type tuple"),
        ("signals", {"seeded": 1.5}, "its seeded is 1.5"),
    ],
)
def test_facts_and_constructors_are_looked_at(kind: str, change: dict[str, Any], said: str) -> None:
    space: dict[str, Any] = {}
    exec(HEAD + source(WHOLE[kind]), space)
    parent = next(value for name, value in space.items() if name in ("Kept", "Counts", "Ids"))
    fault = broken(kind, "x", type("Part", (parent,), change))
    assert fault is not None
    assert said in fault


def test_what_is_no_class_or_abstract_or_badly_named_is_no_part() -> None:
    space: dict[str, Any] = {}
    exec(HEAD + "import abc\n" + source(SIGNAL), space)
    assert "must be a class" in str(broken("signals", "x", space["Ids"]()))
    assert "lower-case" in str(broken("signals", "Ids", space["Ids"]))
    abstract = type("Part", (space["Ids"], space["abc"].ABC), {"more": space["abc"].abstractmethod(lambda self: None)})
    assert "leaves more abstract" in str(broken("signals", "x", abstract))


def test_what_fit_gives_may_be_anything_that_can_do_it() -> None:
    able = SimpleNamespace(recommend=lambda histories, depth, runtime: 0, save=print, report=base.FitReport())
    assert broken_fitted(able) is None
    assert "no report" in str(broken_fitted(SimpleNamespace(**{**vars(able), "report": None})))
    less = SimpleNamespace(**{**vars(able), "recommend": lambda histories, k: 0})
    assert "whose recommend takes (histories, k)" in str(broken_fitted(less))
