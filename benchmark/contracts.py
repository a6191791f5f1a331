"""What a part must have, by name and by arguments: asked when its name is resolved, before hours of work.

Written out here, and not read from the protocols, so that nothing is imported for it; a test lays them over each other.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from types import MappingProxyType
from typing import Any

STAGE_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
"""What a signal may be called: it names a stage of the store."""


@dataclass(frozen=True)
class Contract:
    """``document``: where it is written in words; ``built``: the constructor's arguments; ``calls`` and ``optional``:
    methods with theirs; ``facts``: attributes, with the type of those the class itself must hold."""

    document: str
    built: tuple[str, ...]
    calls: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, type | tuple[type, ...]] = field(default_factory=lambda: MappingProxyType({}))
    configured: bool = True
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))


_SCORED = ("samples", "runtime")
CONTRACTS: dict[str, Contract] = {
    "methods": Contract(
        "prunebench.methods.base.PruningMethod",
        ("config",),
        {
            "requests": (),
            "evidence_key": (),
            "prepare": ("samples", "signals", "runtime"),
            "select": ("samples", "evidence", "budget", "runtime"),
        },
        {"version": int},
    ),
    "backbones": Contract(
        "prunebench.recommenders.base.Backbone",
        ("config", "resources"),
        {
            "needs": ("stage",),
            "key": ("stage",),
            "fit": ("samples", "stop", "runtime", "folder"),
            "load": ("folder", "runtime"),
        },
        {"version": int, "uses_samples": bool},
        optional={
            "effort": _SCORED,
            "user_vectors": ("histories", "runtime"),
            "token_errors": _SCORED,
            "alignment": ("samples", "validation", "settings", "runtime", "folder"),
        },
    ),
    "surrogates": Contract(
        "prunebench.recommenders.base.Surrogate",
        ("config", "n_items"),
        {
            "fit": ("samples", "valid", "runtime", "after_epoch"),
            "gradient_norms": ("samples", "scope", "runtime"),
            "losses": _SCORED,
            "objective": ("samples", "scope", "runtime"),
            "user_vectors": ("histories", "runtime"),
            "item_vectors": (),
            "save": ("folder",),
            "load": ("folder", "runtime"),
        },
        {"version": int},
    ),
    "signals": Contract(
        "prunebench.benchmark.signals.Signal",
        (),
        {
            "needs": ("config", "context"),
            "key": ("config", "context"),
            "build": ("config", "context", "work"),
            "load": ("config", "context", "artefact"),
        },
        {"version": int, "phase": str, "seeded": bool, "reads": (tuple, list)},
        optional={"reads_with": ("config",)},
    ),
    "datasets": Contract("prunebench.datasets.synthetic.Mini", (), {"load": ()}, configured=False),
}
FITTED = Contract(
    "prunebench.recommenders.base.Fitted",
    (),
    {"recommend": ("histories", "depth", "runtime"), "save": ("folder",)},
    configured=False,
    optional={
        "recommend_users": ("users", "histories", "depth", "runtime"),
        "diagnose": ("users", "histories", "runtime"),
        "target_losses": ("users", "histories", "targets", "runtime"),
    },
)
REPORTED = ("steps", "tokens", "samples", "best_step", "valid_losses")


def broken(kind: str, name: str, part: Any) -> str | None:
    """What keeps ``part`` from being one of a kind, in words and with what to do; None if it keeps the contract."""
    contract = CONTRACTS[kind]
    fault = next(_faults(contract, kind, name, part), None)
    if fault is None:
        return None
    return f"{fault}; the contract of prunebench {metadata.version('prunebench')} is {contract.document}"


def broken_fitted(fitted: Any) -> str | None:
    """The same of what a backbone's ``fit`` or ``load`` gives, which is known by what it can do."""
    for called, arguments in {**FITTED.calls, **FITTED.optional}.items():
        held = getattr(fitted, called, None)
        if held is None and called in FITTED.optional:
            continue
        if not callable(held):
            return f"gave {type(fitted).__name__}, which has no {called}({', '.join(arguments)}); see {FITTED.document}"
        if not _takes(held, arguments):
            return f"gave {type(fitted).__name__}, whose {called} takes {_shown(held)}, and is called as {called}({', '.join(arguments)}); see {FITTED.document}"
    if not all(hasattr(getattr(fitted, "report", None), fact) for fact in REPORTED):
        return f"gave {type(fitted).__name__}, which has no report of type prunebench.recommenders.base.FitReport"
    return None


def _faults(contract: Contract, kind: str, name: str, part: Any) -> Iterator[str]:
    if not isinstance(part, type):
        yield f"it is {part!r:.60}, and must be a class"
        return
    if kind == "signals" and not STAGE_NAME.fullmatch(name):
        yield "a signal's name has lower-case letters, digits, '_', '-' and '.'"
    if inspect.isabstract(part):
        yield f"{part.__name__} leaves {', '.join(sorted(getattr(part, '__abstractmethods__', ())))} abstract"
    if contract.configured:
        config = getattr(part, "Config", None)
        if not (isinstance(config, type) and hasattr(config, "model_validate")):
            yield "its Config must be a class derived from prunebench.recommenders.base.Config"
        elif kind == "surrogates" and "epochs" not in getattr(config, "model_fields", ()):
            yield "its Config has no field epochs"
    yield from _calls(contract, part)
    for fact, kind_of in contract.facts.items():
        held = inspect.getattr_static(part, fact, None)
        if held is None:
            yield f"{part.__name__} has no {fact}"
        elif not (isinstance(held, kind_of) or hasattr(held, "__get__")):  # a property says it of each instance
            wanted = kind_of if isinstance(kind_of, type) else kind_of[0]
            yield f"its {fact} is {held!r:.60}, and must be of type {wanted.__name__}"
    if not _takes(part, contract.built):
        yield f"it must be built as {part.__name__}({', '.join(contract.built)}), and takes {_shown(part)}"


def _calls(contract: Contract, part: type) -> Iterator[str]:
    for called, arguments in {**contract.calls, **contract.optional}.items():
        held = inspect.getattr_static(part, called, None)
        if held is None and called in contract.optional:
            continue
        if held is None:
            yield f"{part.__name__} has no {called}({', '.join(arguments)})"
            continue
        bound = isinstance(held, (classmethod, staticmethod))
        callee = getattr(part, called)
        if not callable(callee):
            yield f"its {called} must be a method, not {callee!r:.60}"
        elif not _takes(callee, arguments if bound else ("self", *arguments)):
            yield f"its {called} takes {_shown(callee)}, and is called as {called}({', '.join(arguments)})"


def _takes(callee: Callable[..., Any], arguments: tuple[str, ...]) -> bool:
    """Whether so many arguments by position fit; yes where nobody can tell."""
    try:
        inspect.signature(callee).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def _shown(callee: Callable[..., Any]) -> str:
    names = [name for name in inspect.signature(callee).parameters if name != "self"]
    return f"({', '.join(names)})"
