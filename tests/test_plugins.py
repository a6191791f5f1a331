"""The plugin registry: entry points of any distribution, single files, clashes, broken parts, and no heavy imports."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from prunebench.benchmark.plugins import KINDS, PluginError, Registry

METHOD = '''"""Keeps the first samples; a test's method."""

from prunebench.methods.base import Method

class First(Method):
    def select(self, samples, evidence, budget, runtime): ...
'''


def install(site: Path, distribution: str, entry_points: str, **modules: str) -> None:
    """A distribution as pip leaves it, made by hand."""
    info = site / f"{distribution.replace('-', '_')}-1.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, source in modules.items():
        path = site / (name.replace("__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_third_party_method_is_found_summarised_and_imported_in_that_order(site: Path) -> None:
    # The parent package explodes: reading a summary must not import it.
    install(
        site,
        "acme-pruning",
        "[prunebench.methods]\nfirst = acme_pkg.first:First\n",
        acme_pkg____init__="import sys\nsys.acme_imported = True\n",
        acme_pkg__first="# licence\n" + METHOD,
    )
    registry = Registry()
    assert {"first", "dealrec", "random", "full"} <= set(registry.names("methods"))
    assert registry.names("methods") == sorted(registry.names("methods"))
    assert registry.summary("methods", "first") == "Keeps the first samples; a test's method."
    assert "acme_pkg" not in sys.modules
    assert registry.resolve("methods", "first").__name__ == "First"
    assert "acme_pkg" in sys.modules
    origin = registry.origin("methods", "first")
    assert (origin.source, origin.version, origin.sha256) == ("acme-pruning", "1.5", None)


def test_our_own_parts_are_entry_points_like_anyones() -> None:
    registry = Registry()
    for name in ("dealrec", "random", "full"):
        assert registry.origin("methods", name).source == "prunebench"
        assert registry.summary("methods", name)


def test_unknown_names_get_the_nearest_ones() -> None:
    with pytest.raises(PluginError) as error:
        Registry().resolve("methods", "dealrek")
    assert str(error.value) == "unknown method 'dealrek': did you mean dealrec? `bench ls methods` lists all"
    with pytest.raises(PluginError, match="unknown data set 'zzzz': `bench ls datasets` lists all"):
        Registry().resolve("datasets", "zzzz")
    with pytest.raises(PluginError, match="choose one of methods"):
        Registry().resolve("models", "x")  # type: ignore[arg-type]


def test_two_distributions_claiming_one_name_is_an_error_naming_both(site: Path) -> None:
    install(site, "one", "[prunebench.methods]\nshared = a_module:A\n")
    install(
        site,
        "two",
        "[prunebench.methods]\nshared = b_module:B\nfine = b_module:B\n",
        b_module=METHOD.replace("First", "B"),
    )
    registry = Registry()
    assert registry.names("methods").count("shared") == 1
    for ask in (registry.resolve, registry.summary, registry.origin):
        with pytest.raises(PluginError) as error:
            ask("methods", "shared")
        assert "one (a_module:A)" in str(error.value)
        assert "two (b_module:B)" in str(error.value)
    assert registry.resolve("methods", "fine").__name__ == "B"


def test_a_stale_duplicate_of_one_distribution_is_no_clash(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name in ((site / "new", "acme-x"), (site / "old", "Acme_X")):
        install(
            folder, name, "[prunebench.methods]\ntwice = twice_module:T\n", twice_module=METHOD.replace("First", "T")
        )
        monkeypatch.syspath_prepend(str(folder))
    assert Registry().resolve("methods", "twice").__name__ == "T"


def test_broken_parts_do_not_stop_the_others(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(
        site,
        "sad-plugin",
        "[prunebench.datasets]\nboom = boom_module:B\ngone = gone_module:G\nlacks = fine_module:Nothing\n"
        "fine = fine_module:F\n",
        boom_module='"""Explodes."""\nraise RuntimeError("no\\nluck")\n',
        fine_module='"""Works."""\nclass F:\n    def load(self): ...\n',
    )
    registry = Registry()
    with caplog.at_level(logging.WARNING):
        parts = registry.resolve_all("datasets")
        registry.resolve_all("datasets")
    assert parts["fine"].__name__ == "F"
    assert not {"boom", "gone", "lacks"} & set(parts)
    assert len([message for message in caplog.messages if "sad-plugin" in message]) == 3
    with pytest.raises(PluginError) as error:
        registry.resolve("datasets", "boom")
    assert str(error.value) == "data set 'boom' of sad-plugin fails to import: RuntimeError: no luck"
    assert registry.summary("datasets", "boom") == "Explodes."


def test_a_summary_of_a_missing_module_is_empty_with_one_warning(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    install(site, "sad-plugin", "[prunebench.methods]\ngone = gone_module:G\n")
    registry = Registry()
    with caplog.at_level(logging.WARNING):
        assert [registry.summary("methods", "gone") for _ in range(2)] == ["", ""]
    assert caplog.messages == ["method 'gone' of sad-plugin has no module gone_module"]


@pytest.mark.parametrize(
    ("source", "summary"),
    [
        ('"""One line."""', "One line."),
        ('# -*- coding: latin-1 -*-\n\n"""\nSecond é line.\n\nMore.\n"""\n', "Second é line."),
        ("r'''Raw \\d line.'''\n", "Raw \\d line."),
        ("x = 1\n'not a docstring'\n", ""),
        ("b'bytes'\n", ""),
        ("", ""),
        ('"""Never closed', ""),
    ],
)
def test_a_summary_is_the_first_line_of_the_docstring(site: Path, source: str, summary: str) -> None:
    install(site, "acme", "[prunebench.methods]\nmine = headed:M\n")
    (site / "headed.py").write_text(source, encoding="latin-1" if "latin" in source else "utf-8")
    assert Registry().summary("methods", "mine") == summary


def test_a_single_file_needs_no_packaging(tmp_path: Path) -> None:
    path = tmp_path / "my-method.py"
    path.write_text(METHOD)
    registry = Registry()
    plugin = registry.load_file(path)
    assert plugin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(plugin.parts) == [("methods", "my-method")]
    assert "my-method" in registry.names("methods")
    assert registry.resolve("methods", "my-method").__name__ == "First"
    assert registry.summary("methods", "my-method") == "Keeps the first samples; a test's method."
    assert registry.origin("methods", "my-method").sha256 == plugin.sha256
    assert registry.load_file(path) is plugin
    assert "my-method" not in Registry().names("methods")


def test_a_changed_file_replaces_what_it_brought(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(METHOD)
    registry = Registry()
    before = registry.load_file(path)
    path.write_text(METHOD.replace("class First(Method):", "class Second(Method):\n    name = 'other'"))
    after = registry.load_file(path)
    assert before.sha256 != after.sha256
    assert "mine" not in registry.names("methods")
    assert registry.resolve("methods", "other").__name__ == "Second"


def test_a_file_may_bring_all_kinds_under_names_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "zoo.py"
    path.write_text(
        "from collections import OrderedDict\n"
        "class _Hidden:\n    Config = prepare = select = None\n"
        "class M(_Hidden): name = 'm'\n"
        "class B:\n    Config = fit = load = None\n    name = 'b'\n"
        "class S:\n    Config = fit = load = losses = objective = None\n    name = 's'\n"
        "class G:\n    Config = needs = build = load = None\n    name = 'g'\n"
    )
    parts = Registry().load_file(path).parts
    assert set(parts) == {("methods", "m"), ("backbones", "b"), ("surrogates", "s"), ("signals", "g")}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"absent\.py: No such file.*give the path"),
        ("x = 1\ny = = 2\n", r"absent\.py:2: SyntaxError"),
        ("x = 1\n\nimport no_such_module\n", r"absent\.py:3: ModuleNotFoundError: No module named 'no_such_module'"),
        ("class A: ...\n", r"absent\.py defines no class that can be used"),
        (METHOD + METHOD.replace("First", "Again"), r"First and Again are both called 'absent'"),
        (
            METHOD.replace("class First(Method):", "class First(Method):\n    name = 'random'"),
            r"'random' is already taken by prunebench",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, source: str | None, message: str) -> None:
    path = tmp_path / "absent.py"
    if source is not None:
        path.write_text(source)
    with pytest.raises(PluginError, match=message) as error:
        Registry().load_file(path)
    assert "\n" not in str(error.value)


def test_two_files_claiming_one_name(tmp_path: Path) -> None:
    registry = Registry()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(METHOD)
    registry.load_file(tmp_path / "one" / "same.py")
    with pytest.raises(PluginError, match=r"two.same\.py: method 'same' is already taken by .*one.same\.py"):
        registry.load_file(tmp_path / "two" / "same.py")


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from prunebench.benchmark.plugins import KINDS, Registry\n"
        "registry = Registry()\n"
        "lines = [registry.summary(kind, name) for kind in KINDS for name in registry.names(kind)]\n"
        "assert any(lines)\n"
        "print([name for name in ('torch', 'numpy', 'pydantic', 'transformers', 'scipy') if name in sys.modules])\n"
        "print(sorted(name[21:] for name in sys.modules if name.startswith('prunebench.') and name.count('.') == 2))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['contracts', 'plugins', 'undisturbed']"]


def test_kinds_are_the_documented_groups() -> None:
    assert KINDS == ("methods", "backbones", "surrogates", "signals", "datasets")
