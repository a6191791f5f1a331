"""Mistakes: plugins that fail, clash, were written for other versions, or give back what they should not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foreign_parts import BACKBONE, METHOD, install, plugin, shelf, source
from mistakes import Mistake

TITLE = "Plugins"
FILE = ("--plugin", "plug.py")
PRUNE = ("prune", "--method", "kept", "--dataset", "tiny", "--budget", "9", *FILE)
RUN = ("run", "--method", "kept", "--backbone", "counts", "--dataset", "tiny", "--budget", "9", *FILE)
ENTRY = "[prunebench.methods]\n"


def file(text: str) -> Callable[[Path], None]:
    def given(folder: Path) -> None:
        (folder / "plug.py").write_text(text)
        shelf(folder)

    return given


def installed(**distributions: str) -> Callable[[Path], None]:
    """Distributions by name, each with a method of a module that has its name."""

    def given(folder: Path) -> None:
        for name, text in distributions.items():
            point, _, module = text.partition("\n")
            install(folder / "site", name.replace("_", "-"), f"{ENTRY}{point} = {name}:Kept\n", **{name: module})
        shelf(folder)

    return given


def method(**other: str | None) -> Callable[[Path], None]:
    return file(plugin(method=source(METHOD, **other)))


def backbone(**other: str | None) -> Callable[[Path], None]:
    return file(plugin(backbone=source(BACKBONE, **other)))


BROKEN = "kept\n'''Keeps what it likes.'''\nimport no_such_module\n"
CASES: list[Mistake] = [
    Mistake("a plugin file that is not there", PRUNE, ("plug.py: No such file",), given=shelf),
    Mistake(
        "a plugin file with a slip of the pen",
        PRUNE,
        ("plug.py:2: SyntaxError",),
        given=file("x = 1\ny = = 2\n"),
    ),
    Mistake(
        "a plugin file that leaves Python while it is imported",
        PRUNE,
        ("plug.py:1: SystemExit: bye",),
        given=file("raise SystemExit('bye')\n"),
    ),
    Mistake(
        "a plugin file whose only class is no part",
        PRUNE,
        ("no class that can be used", "Kept has no prepare"),
        given=file("class Kept:\n    class Config: ...\n    def select(self): ...\n"),
    ),
    Mistake(
        "an installed plugin that fails to import, by name",
        ("prune", "--method", "kept", "--dataset", "tiny", "--budget", "9"),
        ("method 'kept' of sad-one fails to import: ModuleNotFoundError: No module named 'no_such_module'",),
        given=installed(sad_one=BROKEN),
    ),
    Mistake(
        "an installed plugin whose module is gone, in a list",
        ("ls", "methods"),
        ("method 'kept' of gone-away has no module gone_away",),
        code=0,
        given=lambda folder: install(folder / "site", "gone-away", ENTRY + "kept = gone_away:Kept\n"),
    ),
    Mistake(
        "two distributions that claim one name, in a list",
        ("ls", "methods"),
        ("method 'kept' is claimed by", "first-one (first_one:Kept)", "second-one (second_one:Kept)", "uninstall"),
        code=0,
        given=installed(first_one="kept\n", second_one="kept\n"),
    ),
    Mistake(
        "an installed plugin that takes a name of ours",
        ("prune", "--method", "random", "--dataset", "tiny", "--budget", "9"),
        ("method 'random' is claimed by", "prunebench", "third-one", "uninstall"),
        given=installed(third_one="random\n"),
    ),
    Mistake(
        "a plugin file that takes a name of ours",
        PRUNE,
        ("plug.py: method 'random' is already taken by prunebench", "another `name`"),
        given=method(head="class Kept(Method):\n    name = 'random'\n"),
    ),
    Mistake(
        "a method for an older contract: select takes less",
        PRUNE,
        ("its select takes (samples, evidence, budget), and is called as select(samples, evidence, budget, runtime)",),
        given=method(select="def select(self, samples, evidence, budget): return samples.ids[:budget]"),
    ),
    Mistake(
        "a method for a newer contract: prepare takes more",
        PRUNE,
        ("its prepare takes (samples, signals, runtime, cluster), and is called as prepare(samples,",),
        given=method(prepare="def prepare(self, samples, signals, runtime, cluster): return {}"),
    ),
    Mistake(
        "a method without a member of the contract",
        PRUNE,
        ("Kept has no evidence_key()", "prunebench.methods.base.PruningMethod"),
        given=method(
            head="class Kept:\n    name, version, Config = 'kept', 1, Config\n    def __init__(self, config): pass\n",
            evidence_key=None,
        ),
    ),
    Mistake(
        "a backbone without a member of the contract",
        RUN,
        ("Counts has no needs(stage)", "prunebench.recommenders.base.Backbone"),
        given=backbone(needs=None),
    ),
    Mistake(
        "settings of another make",
        PRUNE,
        ("its Config must be a class derived from prunebench.recommenders.base.Config",),
        given=method(head="class Kept(Method):\n    name = 'kept'\n    class Config: ...\n"),
    ),
    Mistake(
        "a method that raises",
        PRUNE,
        ("method kept: select failed with ZeroDivisionError: division by zero", "check_method"),
        given=method(select="def select(self, samples, evidence, budget, runtime): return 1 / 0"),
    ),
    Mistake(
        "a method whose own pipe breaks",
        PRUNE,
        ("method kept: prepare failed with BrokenPipeError",),
        given=method(prepare="def prepare(self, samples, signals, runtime): raise BrokenPipeError(32, 'Broken pipe')"),
    ),
    Mistake(
        "a method that leaves Python",
        PRUNE,
        ("method kept: prepare failed with SystemExit: 0",),
        given=method(prepare="def prepare(self, samples, signals, runtime): sys.exit(0)"),
    ),
    Mistake(
        "a method that writes into what it was given",
        PRUNE,
        ("method kept: prepare failed with ValueError", "read only: work on a copy"),
        given=method(prepare="def prepare(self, samples, signals, runtime): samples.ids[::-1].sort(); return {}"),
    ),
    Mistake(
        "scores that are NaN",
        PRUNE,
        ("method kept: evidence 'score' is nan for sample 3 (and 1 more)", "`partial`"),
        given=method(
            prepare="def prepare(self, samples, signals, runtime):\n"
            "        return {'score': np.where(np.isin(samples.ids, [3, 8]), np.nan, samples.ids)}"
        ),
    ),
    Mistake(
        "scores as a list",
        PRUNE,
        ("method kept: prepare gave list; give named arrays",),
        given=method(prepare="def prepare(self, samples, signals, runtime): return [1.0] * len(samples)"),
    ),
    Mistake(
        "too few scores",
        PRUNE,
        ("method kept: evidence 'score' has 5 rows for 60 samples",),
        given=method(prepare="def prepare(self, samples, signals, runtime): return {'score': np.zeros(5)}"),
    ),
    Mistake(
        "a sample chosen twice",
        PRUNE,
        ("method kept chose 1 samples more than once",),
        given=method(
            select="def select(self, samples, evidence, budget, runtime):\n"
            "        return Selection(samples.ids[[0, *range(budget - 1)]])"
        ),
    ),
    Mistake(
        "too few samples chosen",
        PRUNE,
        ("method kept chose 8 samples for a budget of 9",),
        given=method(
            select="def select(self, samples, evidence, budget, runtime): return Selection(samples.ids[1:budget])"
        ),
    ),
    Mistake(
        "samples chosen that do not exist",
        PRUNE,
        ("method kept chose [1000, 1001, 1002], which are no sample ids of tiny",),
        given=method(
            select="def select(self, samples, evidence, budget, runtime): return Selection(np.arange(budget) + 1000)"
        ),
    ),
    Mistake(
        "ids that are no whole numbers",
        PRUNE,
        ("method kept: select must give a Selection with an array of sample ids",),
        given=method(
            select="def select(self, samples, evidence, budget, runtime): return Selection(samples.ids[:budget] / 1)"
        ),
    ),
    Mistake(
        "a novel in the notes",
        PRUNE,
        ("method kept: note 'why' is longer than 1,000 characters",),
        given=method(
            select="def select(self, samples, evidence, budget, runtime):\n"
            "        return Selection(samples.ids[:budget], {'why': 'so ' * 10**6})"
        ),
    ),
    Mistake(
        "a signal that nobody knows",
        PRUNE,
        ("unknown signal 'surprise'",),
        given=method(requests="def requests(self): return {'it': Request('surprise')}"),
    ),
    Mistake(
        "a backbone that raises while it learns",
        RUN,
        ("backbone counts: fit failed with KeyError: 'loss'",),
        given=backbone(fit="def fit(self, samples, stop, runtime, folder): return {}['loss']"),
    ),
    Mistake(
        "a backbone whose fit gives nothing",
        RUN,
        ("backbone counts: fit gave NoneType, which has no recommend(histories, depth, runtime)",),
        given=backbone(fit="def fit(self, samples, stop, runtime, folder): pass"),
    ),
    Mistake(
        "a backbone that saves nothing and then finds nothing",
        RUN,
        ("backbone counts: load failed with FileNotFoundError", "counts.npy"),
        given=backbone(save="def save(self, folder): pass"),
    ),
    Mistake(
        "rankings with scores that are NaN",
        RUN,
        ("backbone counts:", "NaN"),
        given=backbone(
            recommend="def recommend(self, histories, depth, runtime):\n"
            "        n, k = len(histories), len(self.counts)\n"
            "        return Rankings(np.tile(np.arange(k, dtype=np.int32), n), np.full(n * k, np.nan, np.float32),\n"
            "            np.arange(n + 1) * k)"
        ),
    ),
    Mistake(
        "rankings for half of the users",
        RUN,
        ("backbone counts ranked", "every user must be ranked"),
        given=backbone(
            recommend="def recommend(self, histories, depth, runtime):\n"
            "        n = len(histories) // 2\n"
            "        return Rankings.from_scores(np.zeros((n, len(self.counts)), np.float32), depth[:n])"
        ),
    ),
    Mistake(
        "rankings as a plain array",
        RUN,
        ("backbone counts: recommend gave ndarray, not Rankings",),
        given=backbone(
            recommend="def recommend(self, histories, depth, runtime): return np.zeros((len(histories), 10))"
        ),
    ),
]
