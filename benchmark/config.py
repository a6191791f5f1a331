"""A run's configuration: defaults, presets, a file and `--set`, merged in that order; unknown keys refused."""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError

from prunebench.recommenders.base import Config

Section = Literal["method", "backbone", "surrogate", "llm"]
SECTIONS: tuple[Section, ...] = get_args(Section)
NO_METHOD = "none"
"""The method of a run that selects nothing: zero-shot, and references no selection can change."""
PRESETS = Path(__file__).with_name("presets.toml")
LARGEST_SEED = 2**53 - 1
"""Beyond it, programs that read a record's JSON as floating point would take one seed for another."""


class ConfigError(ValueError):
    """A configuration cannot be used; the message says which key, why, and what to do."""


class Seeds(Config):
    """One seed per source of randomness, so that they can be crossed; `--seed` sets all three."""

    signal: int = Field(default=0, ge=0, le=LARGEST_SEED, description="surrogates, influence, effort")
    selection: int = Field(default=0, ge=0, le=LARGEST_SEED, description="the draw of the samples")
    finetune: int = Field(default=0, ge=0, le=LARGEST_SEED, description="the backbone's fine-tuning")

    @classmethod
    def all(cls, seed: int) -> Seeds:
        """Raises ConfigError for a seed that no record could hold."""
        if not 0 <= seed <= LARGEST_SEED:
            raise ConfigError(f"seed {seed} is outside 0 … {LARGEST_SEED}; give a smaller one")
        return cls(signal=seed, selection=seed, finetune=seed)


class RunConfig(Config):
    """Everything a run's result depends on, resolved: no default is left to be filled in later."""

    method: str = "dealrec"
    backbone: str = "bigrec"
    surrogate: str = "sasrec"
    dataset: str = "mini"
    budget: int = Field(ge=0, description="training samples kept; 0 is zero-shot")
    split: Literal["valid", "test"] = "test"
    seeds: Seeds = Seeds()
    method_config: dict[str, Any] = Field({})
    backbone_config: dict[str, Any] = Field({})
    surrogate_config: dict[str, Any] = Field({})
    llm_config: dict[str, Any] = Field({})
    plugins: dict[str, str] = Field(
        {}, description="sha256 of the --plugin file that brings the method, backbone or surrogate"
    )


@dataclass(frozen=True)
class Choices:
    """What was asked for on the command line or in a file, before anything is resolved."""

    method: str = "dealrec"
    backbone: str = "bigrec"
    surrogate: str = "sasrec"
    dataset: str = "mini"
    budget: str | None = None
    split: Literal["valid", "test"] = "test"
    preset: str | None = None
    overrides: Mapping[str, Mapping[str, Any]] | None = None


def one_line(error: ValidationError, what: str) -> str:
    """A pydantic error as one clear line."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    said = first["msg"].removeprefix("Value error, ").replace("valid dictionary or instance of", "table of settings of")
    where = f"{key} = {_brief(first['input'])}: " if key else ""
    return f"{what}: {where}{said[:1].lower()}{said[1:]}"


def build(kind: type[Config], values: Mapping[str, Any], what: str) -> Config:
    """Validate a section. Raises ConfigError in one line, with the nearest key where one is unknown."""
    _check_keys(kind, values, what)
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(one_line(error, what)) from None


def _check_keys(kind: type[BaseModel], values: Mapping[str, Any], what: str, inside: str = "") -> None:
    """Raise ConfigError for a key that a section, or a table in it, does not have."""
    fields = {name: info for field, info in kind.model_fields.items() for name in (field, info.alias) if name}
    for key, value in values.items():
        if key not in fields:
            hint = near(key, fields, f"it has {', '.join(sorted(fields)) or 'none'}")
            raise ConfigError(f"{what} has no setting {inside + key!r}; {hint}")
        nested = fields[key].annotation
        if isinstance(value, Mapping) and isinstance(nested, type) and issubclass(nested, BaseModel):
            _check_keys(nested, value, what, f"{inside}{key}.")


def near(name: str, known: Iterable[str], otherwise: str) -> str:
    """A question naming what was probably meant, or ``otherwise``."""
    close = difflib.get_close_matches(name, list(dict.fromkeys(known)), 3)
    return f"did you mean {' or '.join(close)}?" if close else otherwise


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}…"


def by_field(kind: type[Config], values: Any) -> Any:
    """Settings under their fields' names where an alias was used, so that they merge with those that were not."""
    names = {info.alias: field for field, info in kind.model_fields.items() if info.alias}
    return {names.get(key, key): value for key, value in values.items()} if isinstance(values, dict) else values


def presets(dataset: str, method: str, backbone: str, llm: str) -> dict[str, Any]:
    """The settings kept for a data set, a method, a backbone and a base LLM: ``budget`` and one table per section."""
    table = tomllib.loads(PRESETS.read_text())
    merged: dict[str, Any] = {}
    for name in ("*", dataset):
        entry = table.get(name, {})
        merged = merge(merged, {key: entry[key] for key in ("budget", "surrogate", "llm") if key in entry})
        merged = merge(merged, {"method": entry.get("methods", {}).get(method, {})})
        for which in (backbone, f"{backbone}+{llm}"):
            merged = merge(merged, {"backbone": entry.get("backbones", {}).get(which, {})})
    return merged


def read_file(path: Path) -> dict[str, Any]:
    """A TOML or JSON file: run options at the top, one table per section. Raises ConfigError."""
    layout = "JSON" if path.suffix.lower() == ".json" else "TOML"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the configuration file {path} is no text in UTF-8; give a TOML or JSON file") from None
    try:
        values = json.loads(text, object_pairs_hook=_once) if layout == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the configuration file {path} is not valid {layout}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f'the configuration file {path} holds a {type(values).__name__}; it must hold tables of settings, e.g. {{"run": {{…}}}}'
        )
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, as TOML has it: no key twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is there twice; keep one")
    return table


def parse_settings(settings: Iterable[str], fields: Mapping[str, Iterable[str]]) -> dict[str, dict[str, Any]]:
    """`--set` values. ``section.key=value``, or ``key=value`` where one section alone has the key; dots go deeper.

    Values are JSON where they parse as JSON (numbers, true, null, lists), otherwise text. ``fields`` gives the known keys of each section.
    """
    parsed: dict[str, dict[str, Any]] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set {setting!r}: write it as key=value, e.g. --set method.lam=0.5")
        if keys[0] in fields and len(keys) > 1:
            section = keys.pop(0)
        else:
            homes = [name for name, known in fields.items() if keys[0] in known]
            if not homes and keys[0] in fields:
                named = f"--{keys[0]} NAME chooses one, " if keys[0] != "seeds" else ""
                raise ConfigError(f"--set {setting!r}: {named}{keys[0]}.KEY=VALUE sets one of its settings")
            if not homes:
                # A word before a dot may be a section's name as well as a table's.
                names = [field for known in fields.values() for field in known] if len(keys) == 1 else [*fields]
                hint = near(keys[0], names, "`bench ls settings` lists them")
                raise ConfigError(f"--set {setting!r}: no section has the setting {keys[0]!r}; {hint}")
            if len(homes) > 1:
                choice = " or ".join(f"{home}.{path}=…" for home in homes)
                raise ConfigError(f"--set {setting!r}: {' and '.join(homes)} both have {keys[0]!r}; write {choice}")
            section = homes[0]
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        for key in reversed(keys):
            value = {key: value}
        parsed[section] = merge(parsed.get(section, {}), value)
    return parsed


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, the second over the first: tables are merged, everything else is replaced."""
    both = {
        key: merge(below[key], above[key])
        for key in above
        if isinstance(above[key], dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}


def budget_form(text: str | int) -> tuple[float, bool]:
    """A budget's number, and whether it is a percentage. Raises ConfigError for what no data set could make sense of."""
    share = str(text).endswith("%")
    try:
        number = float(str(text)[:-1]) if share else int(str(text))
    except ValueError:
        number = math.nan
    if number != number or number == math.inf:
        raise ConfigError(f"budget {text!r} is no number of samples; use e.g. 1024, 2% or full")
    if number < 0:
        raise ConfigError(f"budget {text} is negative; use e.g. 1024, 2% or full, or 0 for zero-shot")
    return number, share


def parse_budget(text: str | int | None, n: int) -> int:
    """A number of samples, a percentage of the n there are (``2%``), or ``full``. Raises ConfigError."""
    if text is None or text == "full":
        return n
    number, share = budget_form(text)
    if number > (100 if share else n):
        raise ConfigError(f"budget {text} is outside 0 … {n}, the samples this data set has; use fewer, or full")
    budget = round(number / 100 * n) if share else int(number)
    if budget == 0 and number > 0:
        raise ConfigError(f"budget {text} of {n} samples is less than one; give 0 for zero-shot")
    return budget
