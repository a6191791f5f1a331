"""Mistakes in the words of a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from counted import COUNTED, install_counted
from mistakes import Mistake

TITLE = "Names, budgets and settings"


def _config(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Writes a configuration file of that name."""

    def given(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return given


def _budget(case: str, budget: str, *said: str) -> Mistake:
    return Mistake(case, ("run", *COUNTED, "--budget", budget), said, given=install_counted)


def _setting(case: str, setting: str, *said: str) -> Mistake:
    return Mistake(case, ("run", "--set", setting), said)


def _file(case: str, name: str, content: str | bytes, *said: str) -> Mistake:
    return Mistake(case, ("run", "--config", name), said, given=_config(name, content))


def _without_gpu() -> mock._patch[mock.MagicMock]:
    return mock.patch.object(torch.cuda, "is_available", return_value=False)


NAMES = [
    Mistake(
        "a method that does not exist",
        ("run", "--method", "randon"),
        ("unknown method 'randon'", "did you mean random", "bench ls methods"),
    ),
    Mistake(
        "a backbone that does not exist", ("run", "--backbone", "bigrek"), ("unknown backbone 'bigrek'", "mean bigrec?")
    ),
    Mistake(
        "a surrogate that does not exist",
        ("run", "--surrogate", "sasreck"),
        ("unknown surrogate 'sasreck'", "mean sasrec?"),
    ),
    Mistake(
        "a data set that does not exist",
        ("run", "--dataset", "minni"),
        ("data set 'minni' is not installed", "did you mean mini?", "bench ls datasets"),
    ),
    Mistake(
        "a known data set that is not installed",
        ("run", "--dataset", "games"),
        ("data set 'games' is known but not installed", "bench datasets"),
    ),
    Mistake(
        "a misspelt data set to inspect",
        ("datasets", "inspect", "minni"),
        ("data set 'minni' is not installed", "did you mean mini?"),
    ),
    Mistake(
        "an unknown method, with a data set that is not installed either: names come before data",
        ("run", "--method", "randon", "--dataset", "nowhere"),
        ("unknown method 'randon'",),
    ),
    Mistake(
        "a preset that does not exist",
        ("run", "--preset", "lama-7b"),
        ("backbone bigrec has no preset 'lama-7b'", "did you mean llama-7b?"),
    ),
    Mistake(
        "an option that does not exist",
        ("run", "--metod", "random", "--json"),
        ("no such option '--metod'", "'--method'", "`bench run --help`"),
    ),
    Mistake("a command that does not exist", ("rum",), ("no such command 'rum'", "'run'", "`bench --help`")),
    Mistake("an option without its value", ("run", "--budget"), ("option '--budget' requires an argument",)),
    Mistake(
        "a value that an option does not take",
        ("run", "--split", "tset"),
        ("invalid value for '--split'", "'valid', 'test'"),
    ),
    Mistake("a word too many", ("run", "random"), ("unexpected extra argument (random)",)),
    Mistake(
        "a GPU that is not there",
        ("run", "--device", "cuda"),
        ("device 'cuda' is not here", "there is cpu"),
        world=_without_gpu,
    ),
    Mistake(
        "a sample id that is no number",
        ("explain", "first", "--run", "0a1b2c"),
        ("invalid value for 'SAMPLE'", "'first' is not a valid integer"),
    ),
    Mistake(
        "a folder of records that is not there",
        ("leaderboard", "show", "--records", "nowhere", "--json"),
        ("'--records'", "'nowhere' does not exist"),
    ),
    Mistake(
        "a folder of records without any",
        ("leaderboard", "show", "--records", "."),
        ("No runs on the test split in .", "bench run"),
        code=0,
    ),
    Mistake(
        "what is evaluated twice: validation users that the backbone has counted",
        ("run", "--backbone", "popular", "--split", "valid"),
        ("has counted the validation targets", "count=train"),
    ),
    Mistake(
        "a method that needs what the backbone lacks",
        ("run", *COUNTED, "--method", "dealrec"),
        ("backbone counted has no effort score", "method.use_effort=false"),
        given=install_counted,
    ),
]

BUDGETS = [
    _budget("a budget above the number of samples", "49", "budget 49 is outside 0 … 48"),
    _budget("a negative budget", "-1", "budget -1 is negative", "0 for zero-shot"),
    _budget("a negative percentage", "-5%", "budget -5% is negative"),
    _budget("a budget in words", "many", "budget 'many' is no number of samples", "e.g. 1024, 2% or full"),
    _budget("a budget in scientific notation", "1e3", "budget '1e3' is no number of samples"),
    _budget("a budget that is not a number", "nan", "budget 'nan' is no number of samples"),
    _budget("a budget without an end", "inf%", "budget 'inf%' is no number of samples"),
    _budget("a percentage of fewer samples than it needs", "0.5%", "budget 0.5% of 48 samples is less than one"),
    _budget("more than all", "200%", "budget 200% is outside 0 … 48"),
    Mistake(
        "a budget for the method that keeps everything",
        ("run", *COUNTED, "--method", "full", "--budget", "3"),
        ("--method full keeps all 48 samples",),
        given=install_counted,
    ),
    Mistake(
        "a bad budget for a data set that is not installed: words come before data",
        ("prune", "--dataset", "nowhere", "--budget", "many"),
        ("budget 'many'",),
    ),
]

SEEDS = [
    Mistake("the same seed twice", ("run", "--seeds", "0,0"), ("--seeds '0,0'", "e.g. 0,1,2")),
    Mistake("seeds without commas", ("run", "--seeds", "0;1"), ("--seeds '0;1'", "e.g. 0,1,2")),
    Mistake("no seed at all", ("run", "--seeds", ""), ("--seeds ''", "e.g. 0,1,2")),
    Mistake("a seed and seeds", ("run", "--seeds", "0,1", "--seed", "2"), ("--seed or --seeds, not both",)),
    Mistake("a negative seed", ("run", "--seed", "-1"), ("invalid value for '--seed': -1",)),
    Mistake(
        "a seed larger than a record can hold",
        ("run", "--seed", "99999999999999999999"),
        ("seed 99999999999999999999 is outside 0 … 9007199254740991",),
    ),
    _setting("a misspelt seed", "seeds.finetun=1", "seeds has no setting 'finetun'", "did you mean finetune?"),
]

SETTINGS = [
    _setting("a setting without a value", "method.lam", "write it as key=value"),
    _setting("a misspelt setting", "grops=3", "no section has the setting 'grops'", "did you mean groups?"),
    _setting(
        "a misspelt setting of a section",
        "backbone.batc=1",
        "backbone bigrec has no setting 'batc'",
        "did you mean batch",
    ),
    _setting(
        "a misspelt setting in a table", "lora.dropuot=0", "has no setting 'lora.dropuot'", "did you mean dropout?"
    ),
    _setting("a misspelt section", "backbon.lr=1", "no section has the setting 'backbon'", "did you mean backbone?"),
    _setting("a setting of two sections", "lr=0.1", "backbone and llm both have 'lr'", "backbone.lr=… or llm.lr=…"),
    _setting("a section in a setting's place", "method=random", "--method NAME chooses one"),
    _setting("a word for a number", "backbone.lr=fast", "backbone bigrec: lr = 'fast'", "valid number"),
    _setting("half an integer", "lora.r=2.5", "backbone bigrec: lora.r = 2.5", "valid integer"),
    _setting("a number out of range", "surrogate.dropout=1.5", "surrogate sasrec: dropout = 1.5", "less than 1"),
    _setting("a setting that is not a number", "backbone.lr=NaN", "backbone bigrec: lr = nan", "finite number"),
    _setting("a number for a table", "backbone.lora=3", "backbone bigrec: lora = 3", "table of settings"),
    Mistake(
        "a plugin's setting that is not a number",
        ("run", *COUNTED, "--set", "backbone.smoothing=Infinity"),
        ("backbone counted: smoothing = inf", "finite number"),
        given=install_counted,
    ),
]

FILES = [
    Mistake("a configuration file that is not there", ("run", "--config", "c.toml"), ("c.toml: No such file",)),
    Mistake("a folder for a configuration file", ("run", "--config", "."), ("file .: Is a directory",)),
    _file("a binary configuration file", "c.toml", b"\x00\xff\xfe", "c.toml is no text in UTF-8"),
    _file("a configuration file that is no TOML", "c.toml", "[run\nmethod = 1", "c.toml is not valid TOML", "line 1"),
    _file("a configuration file that is no JSON", "c.json", "{", "c.json is not valid JSON", "line 1"),
    _file("a configuration file of brackets", "c.json", "[" * 100_000, "c.json is not valid JSON", "recursion"),
    _file(
        "a key twice in JSON", "c.json", '{"run": {"seed": 1, "seed": 2}}', "not valid JSON", "'seed' is there twice"
    ),
    _file(
        "a key twice in TOML",
        "c.toml",
        "[run]\nseed = 1\nseed = 2",
        "not valid TOML",
        "overwrite a value",
    ),
    _file("a list for a configuration", "c.json", "[1]", "c.json holds a list", "tables of settings"),
    _file("an option outside [run]", "c.toml", "budget = 3", "unknown key 'budget'", "budget belongs under [run]"),
    _file(
        "a misspelt option in a file",
        "c.toml",
        "[run]\nmethd = 'random'",
        "unknown key 'methd'",
        "did you mean method?",
    ),
    _file("a misspelt section in a file", "c.json", '{"metod": {}}', "unknown key 'metod'", "did you mean method?"),
    _file("a number for a name in a file", "c.toml", "[run]\nmethod = 3", "[run]", "method = 3", "give a name"),
    _file("a broken budget in a file", "c.json", '{"run": {"budget": 2.5}}', "budget = 2.5", "a number of samples"),
    _file("an unknown split in a file", "c.toml", "[run]\nsplit = 'all'", "split = 'all'", "valid and test"),
    _file("a name for a section in a file", "c.toml", "method = 'random'", "'method' must be a table of settings"),
    _file(
        "a misspelt setting in a file", "c.toml", "[method]\ngrops = 3", "no setting 'grops'", "did you mean groups?"
    ),
    _file(
        "a wrong type in a file", "c.json", '{"backbone": {"lr": null}}', "backbone bigrec: lr = None", "valid number"
    ),
    _file("not a number in a file", "c.toml", "[backbone]\nlr = nan", "backbone bigrec: lr = nan", "finite number"),
]

TORCHRUN = {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
TORCHRUN |= {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
LAUNCHED = [
    Mistake(
        "`torchrun` before a command that is one process's",
        ("survey",),
        ("bench survey is for one process", "start it without torchrun or accelerate launch"),
        environment=TORCHRUN,
    )
]

CASES: list[Mistake] = [*NAMES, *BUDGETS, *SEEDS, *SETTINGS, *FILES, *LAUNCHED]
