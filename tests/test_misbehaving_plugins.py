"""Plugins that fail, print, clash or meddle: the answer stays clean, the blame is theirs, and the rest goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from foreign_parts import BACKBONE, HEAD, METHOD, SIGNAL, install, plugin, shelf, source
from mistakes import Answer, ask

from prunebench.benchmark import survey
from prunebench.benchmark.plugins import PluginError, Registry

FILE = ("--plugin", "plug.py")
WHAT = ("--method", "kept", "--dataset", "tiny", "--budget", "9", *FILE)
PRUNE = ("prune", *WHAT)
RUN = ("run", "--backbone", "counts", *WHAT)
RANDOM = ("prune", "--method", "random", "--dataset", "tiny", "--budget", "9")
BROKEN = "'''Keeps what it likes.'''\nimport sys\nsys.was_imported = True\nraise RuntimeError('no luck')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shelf(tmp_path)
    (tmp_path / "plug.py").write_text(plugin())
    return tmp_path


def refused(answer: Answer, *said: str) -> None:
    assert answer.code == 2, answer.err
    assert answer.out == ""
    assert "Traceback" not in answer.err
    for words in said:
        assert words in answer.line


# -- one that cannot be used stops nobody else -------------------------------------------------------------------------


def test_a_plugin_that_fails_to_import_is_not_imported_for_others(folder: Path) -> None:
    install(folder / "site", "sad-three", "[prunebench.methods]\nsad = sad_three:Sad\n", sad_three=BROKEN)
    listed = ask(folder, ("ls", "methods", "--json"))
    rows = {row["name"]: row for row in json.loads(listed.out)["methods"]}
    assert rows["sad"] == {"name": "sad", "summary": "Keeps what it likes.", "from": "sad-three"}
    pruned = ask(folder, RANDOM)
    assert (pruned.code, pruned.err.strip()) == (0, "")
    assert not hasattr(sys, "was_imported")
    settings = ask(folder, ("ls", "settings"))
    assert settings.code == 0
    assert "backbone.lr" in settings.out
    assert settings.err.strip() == "bench: WARNING: method 'sad' of sad-three fails to import: RuntimeError: no luck"
    refused(ask(folder, ("prune", "--method", "sad", *RANDOM[3:])), "method 'sad' of sad-three fails to import")
    del sys.was_imported  # type: ignore[attr-defined]


def test_a_clash_stops_nobody_else(folder: Path) -> None:
    for name in ("clash-one", "clash-two"):
        install(folder / "site", name, "[prunebench.methods]\nboth = none:None\nrandom = none:None\n")
    listed = ask(folder, ("ls", "methods"))
    assert listed.code == 0
    assert [line.split()[1:] for line in listed.out.splitlines() if line.split()[0] in ("both", "random")] == [
        ["cannot", "be", "used"]
    ] * 2
    assert listed.err.count("is claimed by") == 2
    assert ask(folder, ("prune", "--method", "full", "--dataset", "tiny")).code == 0
    refused(ask(folder, RANDOM), "method 'random' is claimed by clash-one (none:None) and clash-two", "uninstall")


def test_a_file_that_clashes_with_an_installed_plugin(folder: Path) -> None:
    install(folder / "site", "first-come", "[prunebench.methods]\nkept = none:None\n")
    refused(ask(folder, PRUNE), "plug.py: method 'kept' is already taken by first-come")


def test_a_survey_goes_on_without_what_cannot_be_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = HEAD + source(METHOD, select="def select(self, samples, evidence, budget): return samples.ids[:budget]")
    points = "[prunebench.methods]\nold = old_one:Kept\nsad = sad_four:Sad\n"
    install(folder / "site", "a-mix", points, old_one=old, sad_four="1 / 0\n")
    monkeypatch.syspath_prepend(str(folder / "site"))
    chosen = survey._chosen(SimpleNamespace(registry=Registry()), None)  # type: ignore[arg-type]
    assert "dealrec" in chosen
    assert not {"old", "sad"} & set(chosen)


@pytest.mark.parametrize(
    ("code", "said"),
    [("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"), ("raise GeneratorExit", "GeneratorExit")],
)
def test_what_is_no_exception_is_a_fault_of_the_plugin_too(folder: Path, code: str, said: str) -> None:
    (folder / "plug.py").write_text(code)
    refused(ask(folder, PRUNE), "plug.py:", said)
    install(folder / "site", "odd", "[prunebench.methods]\nodd = odd_one:Odd\n", odd_one=code)
    refused(ask(folder, ("prune", "--method", "odd", *RANDOM[3:])), "method 'odd' of odd fails to import", said)


def test_an_interrupt_while_a_plugin_is_imported_is_an_interrupt(folder: Path) -> None:
    (folder / "plug.py").write_text("raise KeyboardInterrupt\n")
    assert ask(folder, PRUNE).code == 130


# -- standard output ---------------------------------------------------------------------------------------------------

NOISE = """
def noise():
    import subprocess
    print("noise")
    os.write(1, b"noise\\n")
    subprocess.run([sys.executable, "-S", "-c", "print('noise')"])
    sys.__stdout__.write("noise\\n")
    sys.__stdout__.flush()
    sys.stdout.close()
    sys.stdout = open(os.devnull, "w")
noise()

class Loud(Config):
    @classmethod
    def model_validate(cls, *given, **named):
        print("noise")
        return super().model_validate(*given, **named)

class Noisy:
    def load(self):
        noise()
        from foreign_parts import tiny
        return tiny()

"""


def noisy() -> str:
    parts = []
    for part in (METHOD, BACKBONE):
        loud = {
            name: code.replace("): ", "):\n        print('noise'); ") for name, code in part.items() if "): " in code
        }
        parts.append(source(part, **loud))
    return plugin(*parts).replace("class Kept", NOISE + "class Kept")


@pytest.mark.parametrize(
    "words",
    [
        RUN,
        PRUNE,
        ("survey", "--methods", "kept", "--backbone", "counts", "--dataset", "tiny", "--budget", "9", *FILE),
        ("datasets", "inspect", "loud"),
        ("ls",),
        ("leaderboard", "show"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_a_plugin_prints_is_not_in_the_answer(folder: Path, words: tuple[str, ...]) -> None:
    (folder / "plug.py").write_text(noisy())
    install(folder / "site", "noisy", "[prunebench.datasets]\nloud = noisy_one:Noisy\n", noisy_one=noisy())
    stdout = sys.stdout
    answer = ask(folder, (*words, "--json"))
    assert answer.code == 0, answer.err
    json.loads(answer.out)
    assert ("noise" in answer.err) == (words[0] not in ("ls", "leaderboard"))
    assert sys.stdout is stdout
    sys.modules.pop("noisy_one", None)


# -- what is not theirs ------------------------------------------------------------------------------------------------


def meddling(code: str) -> str:
    method = (
        f"def prepare(self, samples, signals, runtime):\n        {code}\n        return {{'score': samples.ids / 1}}"
    )
    return plugin(source(METHOD, prepare=method))


@pytest.mark.parametrize(
    "code",
    [
        "os.makedirs('away'); os.chdir('away')",
        "os.makedirs('gone'); os.chdir('gone'); os.rmdir('../gone')",
        "import torch; torch.set_num_threads(3); torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)",
        "np.random.seed(0); samples.dataset.meta.clear()",
        "os.fork()",
        "os.fork() or os._exit(0)",
    ],
)
def test_what_a_plugin_changes_for_all_is_put_back(folder: Path, code: str) -> None:
    (folder / "plug.py").write_text(meddling(code))
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    answer = ask(folder, (*PRUNE, "--out", "ids.txt"))
    assert answer.code == 0, answer.err
    assert len((folder / "ids.txt").read_text().split()) == 9
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == before


@pytest.mark.parametrize(
    "code",
    [
        "samples.ids[0] = 7",
        "samples.targets.sort()",
        "samples.histories.items.fill(0)",
        "samples.histories.offsets += 1",
        "samples.dataset.train.items.fill(0)",
    ],
)
def test_what_a_plugin_is_given_is_not_its_own(folder: Path, code: str) -> None:
    (folder / "plug.py").write_text(meddling(code))
    refused(ask(folder, PRUNE), "method kept: prepare failed with ValueError")


def test_a_signal_is_given_to_all_and_changed_by_none(folder: Path) -> None:
    method = source(
        METHOD,
        requests="def requests(self): return {'ids': Request('ids')}",
        prepare="def prepare(self, samples, signals, runtime): signals['ids'].fill(0); return {}",
    )
    (folder / "plug.py").write_text(plugin(method, more=source(SIGNAL)))
    refused(ask(folder, PRUNE), "method kept: prepare failed with ValueError", "work on a copy")


# -- what they give back -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "member", "code", "said"),
    [
        (METHOD, "requests", "def requests(self): return ['ids']", "method kept: requests must give a dictionary"),
        (METHOD, "evidence_key", "def evidence_key(self): return {1, 2}", "evidence_key must give plain JSON"),
        (METHOD, "prepare", "def prepare(self, samples, signals, runtime): return {'v': [1]}", "'v' must be an array"),
        (METHOD, "prepare", "def prepare(self, samples, signals, runtime): return {3: samples.ids}", "named 3"),
        (METHOD, "prepare", "def prepare(self, samples, signals, runtime): open('absent')", "FileNotFoundError"),
        (METHOD, "select", "def select(self, samples, evidence, budget, runtime): pass", "must give a Selection"),
        (
            METHOD,
            "select",
            "def select(self, samples, evidence, budget, runtime): return Selection([[1], [2, 3]])",
            "must give a Selection",
        ),
        (
            METHOD,
            "select",
            "def select(self, samples, evidence, budget, runtime): return Selection(samples.ids[:budget], 'why')",
            "notes as str",
        ),
        (
            METHOD,
            "head",
            METHOD["head"] + "    def __init__(self, config): 1 / 0\n",
            "its constructor failed with Zero",
        ),
        (BACKBONE, "__init__", "def __init__(self, config, resources): 1 / 0", "its constructor failed with ZeroDiv"),
        (BACKBONE, "needs", "def needs(self, stage): return [1]", "backbone counts: needs must give a dictionary"),
        (BACKBONE, "key", "def key(self, stage): return {'x': {1}}", "backbone counts: key must give plain JSON"),
        (BACKBONE, "key", "def key(self, stage): sys.exit(0)", "backbone counts: key failed with SystemExit: 0"),
        (BACKBONE, "save", "def save(self, folder): raise SystemExit", "backbone counts: save failed with SystemExit"),
        (BACKBONE, "load", "def load(self, folder, runtime): return 3", "backbone counts: load gave int"),
        (
            BACKBONE,
            "recommend",
            "def recommend(self, histories, depth, runtime):\n        depth[:] = 1\n"
            "        return Rankings.from_scores(np.zeros((len(histories), 30)) - np.arange(30), depth)",
            "holds 1 items where",
        ),
        (
            BACKBONE,
            "recommend",
            "def recommend(self, histories, depth, runtime):\n        n = len(histories)\n"
            "        return Rankings(np.zeros(30 * n, int), np.zeros(30 * n), np.arange(n + 1) * 30)",
            "row 0 of the rankings lists an item twice",
        ),
        (
            BACKBONE,
            "recommend",
            "def recommend(self, histories, depth, runtime):\n        n = len(histories)\n"
            "        return Rankings(np.zeros(3), np.zeros(3), np.arange(n + 1))",
            "recommend gave Rankings, not Rankings of whole-number items",
        ),
        (
            BACKBONE,
            "recommend",
            "def recommend(self, histories, depth, runtime):\n        n = len(histories)\n"
            "        return Rankings(np.zeros(3, int), np.zeros(3), np.arange(n + 1))",
            "the offsets of its rankings",
        ),
        (
            BACKBONE,
            "diagnose",
            "def diagnose(self, users, histories, runtime): return {'x': [1]}",
            "backbone counts: note 'x' is [1]",
        ),
        (
            BACKBONE,
            "fit",
            "def fit(self, samples, stop, runtime, folder):\n        self.counts = np.zeros(30)\n"
            "        self.report = FitReport(valid_losses=(1.0, float('nan')))\n        return self",
            "backbone counts: its validation loss became nan",
        ),
        (
            BACKBONE,
            "fit",
            "def fit(self, samples, stop, runtime, folder):\n        self.counts = np.zeros(30)\n"
            "        self.report = FitReport(steps='many')\n        return self",
            "its report does not hold numbers",
        ),
    ],
)
def test_what_cannot_be_used_is_named(folder: Path, part: dict[str, str], member: str, code: str, said: str) -> None:
    parts = {id(one): source(one, **({member: code} if one is part else {})) for one in (METHOD, BACKBONE)}
    (folder / "plug.py").write_text(plugin(*parts.values()))
    refused(ask(folder, RUN), said)
    assert not list(folder.glob("home/runs/*"))
    (folder / "plug.py").write_text(plugin())
    assert ask(folder, RUN).code == 0, "nothing of it is left in the way"


def test_evidence_may_be_nan_where_the_method_says_so(folder: Path) -> None:
    prepare = (
        "def prepare(self, samples, signals, runtime): return {'score': np.where(samples.ids % 2, %s, samples.ids)}"
    )
    for value, code in (("np.nan", 0), ("np.inf", 2)):
        head = METHOD["head"] + "    partial = frozenset({'score'})\n"
        (folder / "plug.py").write_text(plugin(source(METHOD, head=head, prepare=prepare.replace("%s", value))))
        assert ask(folder, PRUNE).code == code


def test_ids_of_any_whole_number_type_and_order_will_do(folder: Path) -> None:
    select = "def select(self, samples, evidence, budget, runtime): return Selection(samples.ids[::-1][:budget].astype(np.uint8))"
    (folder / "plug.py").write_text(plugin(source(METHOD, select=select)))
    answer = ask(folder, PRUNE)
    assert answer.code == 0
    assert answer.out.split() == sorted(answer.out.split(), key=int)


def test_a_signal_or_surrogate_that_fails_is_named(folder: Path) -> None:
    asks = source(METHOD, requests="def requests(self): return {'ids': Request('ids')}")
    for member, code in (
        ("build", "def build(self, config, context, work): 1 / 0"),
        ("load", "def load(self, config, context, artefact): 1 / 0"),
        ("needs", "def needs(self, config, context): 1 / 0"),
        ("key", "def key(self, config, context): 1 / 0"),
    ):
        (folder / "plug.py").write_text(plugin(asks, more=source(SIGNAL, **{member: code})))
        refused(ask(folder, PRUNE), "signal ids failed with ZeroDivisionError")
    asks = source(METHOD, requests="def requests(self): return {'it': Request('surrogate')}")
    surrogate = (
        "from prunebench.recommenders.surrogates.sasrec import SASRec\n"
        "class Bad(SASRec):\n    name = 'bad'\n    def fit(self, samples, valid, runtime, after_epoch=None): 1 / 0\n"
    )
    (folder / "plug.py").write_text(plugin(asks, more=surrogate))
    refused(ask(folder, (*PRUNE, "--surrogate", "bad")), "signal surrogate with surrogate bad failed with ZeroDivision")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1 / 0", "data set 'bad' of bad-data failed with ZeroDivisionError"),
        ("sys.exit(3)", "data set 'bad' of bad-data failed with SystemExit: 3"),
        ("return np.zeros(3)", "data set 'bad' of bad-data: load gave ndarray; give a RecDataset"),
    ],
)
def test_a_data_set_that_is_none(folder: Path, code: str, said: str) -> None:
    text = HEAD + f"class Bad:\n    def load(self): {code}\n"
    install(folder / "site", "bad-data", "[prunebench.datasets]\nbad = bad_data:Bad\n", bad_data=text)
    for words in (("datasets", "inspect", "bad"), (*RANDOM[:4], "bad")):
        refused(ask(folder, words), said)
    sys.modules.pop("bad_data")


def test_an_unexpected_error_of_ours_is_not_blamed_on_the_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunebench.methods.random import Random

    monkeypatch.setattr(Random, "select", lambda *given: {}["x"])
    answer = ask(folder, RANDOM)
    assert (answer.code, answer.out) == (1, "")
    assert answer.line.startswith("unexpected KeyError: 'x'; run `bench --debug")


def test_a_registry_knows_what_is_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    registry.load_file(folder / "plug.py")
    assert registry.built_in("methods", "random")
    assert not registry.built_in("methods", "kept")
    with pytest.raises(PluginError):
        registry.built_in("methods", "absent")
