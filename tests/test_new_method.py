"""`bench new-method`: what it writes works at once, and it never writes half or over anything."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prunebench.benchmark import cli

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    monkeypatch.setenv("PRUNEBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *words])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_what_is_written_passes_its_test_and_prunes_mini(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "my methods"
    code, out, err = bench("new-method", "nearest_mean", "--out", str(folder))
    assert code == 0, err
    method, test = folder / "nearest_mean.py", folder / "test_nearest_mean.py"
    assert sorted(path.name for path in folder.iterdir()) == [method.name, test.name]
    assert f"bench prune --plugin '{method}' --method nearest_mean" in out
    assert f"pytest '{test}'" in out
    assert '[project.entry-points."prunebench.methods"]\n  nearest_mean = "nearest_mean:NearestMean"' in out
    assert len(test.read_text().splitlines()) <= 12
    passed = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test.name],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert passed.returncode == 0, passed.stdout
    assert "1 passed" in passed.stdout
    chosen = {}
    for share in ("0", "0.5"):
        words = ("prune", "--plugin", str(method), "--method", "nearest_mean", "--dataset", "mini", "--budget", "30")
        quick = ("--set", "surrogate.epochs=1", "--set", f"method.random_share={share}")
        code, out, err = bench(*words, *quick, "--json")
        assert code == 0, err
        pruned = json.loads(out)
        chosen[share] = set(pruned["sample_ids"])
        assert len(chosen[share]) == 30
        assert pruned["notes"] == {"typical": 30 if share == "0" else 15}
        assert {stage["stage"] for stage in pruned["bill"]} == {"surrogate", "user_vectors", "evidence", "selection"}
    assert 15 <= len(chosen["0"] & chosen["0.5"]) < 30


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("2fast", "cannot name a method"),
        ("two words", "cannot name a method"),
        ("Mine", "lower-case letters"),
        ("../mine", "cannot name a method"),
        ("class", "Python's own"),
        ("ccs", "method 'ccs' is already taken by prunebench; choose another name, e.g. my_ccs"),
        ("json", "json.py would hide the Python module 'json'"),
        ("numpy", "would hide the Python module 'numpy'"),
        ("none", "'none' means something else to bench"),
        ("llm", "means something else to bench"),
        ("test_mine", "means something else to bench, pytest"),
    ],
)
def test_a_name_that_cannot_be_is_refused(bench: Bench, tmp_path: Path, name: str, said: str) -> None:
    code, out, err = bench("new-method", name)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["mine.py", "test_mine.py"])
def test_nothing_is_overwritten_nor_half_written(bench: Bench, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    code, _, err = bench("new-method", "mine")
    assert code == 2
    assert f"{there} is there already" in err
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"
    code, _, err = bench("new-method", "mine", "--out", there)
    assert (code, "is a file; give a folder" in err) == (2, True)


def test_a_disk_that_fails_half_way_leaves_nothing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def full(self: Path, *args: object, **options: object) -> object:
        if self.name == "test_mine.py":
            raise OSError(28, "No space left on device", str(self))
        return real(self, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    code, _, err = bench("new-method", "mine")
    assert (code, "No space left" in err) == (1, True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["request", "np", "config", "a__b1", "samples", "true"])
def test_the_class_hides_nothing_that_the_file_imports(bench: Bench, tmp_path: Path, name: str) -> None:
    made = json.loads(bench("new-method", name, "--json")[1])
    source = (tmp_path / f"{name}.py").read_text()
    tree = ast.parse(source)
    imported = {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert made["class"] not in imported
    assert "@" not in source
    assert f"class {made['class']}(Method)" in source
    assert made["files"] == [f"{name}.py", f"test_{name}.py"]


def test_it_starts_without_the_heavy_libraries(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['bench', 'new-method', 'fine_name', '--out', sys.argv[1]]\n"
        "from prunebench.benchmark import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["set()"]
    assert (tmp_path / "fine_name.py").exists()
