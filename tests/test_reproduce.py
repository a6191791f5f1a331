"""`bench reproduce`: the declared studies, runs that are shared and gone on with, pages that are what the records say."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from counted import install_counted
from mistakes import Answer, ask
from rich.console import Console

from prunebench.benchmark import checks, reproduce
from prunebench.benchmark.cli_reproduce import NAMES, SCALES
from prunebench.benchmark.plan import fitting
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.benchmark.study import read_study
from prunebench.benchmark.workbench import Workbench
from prunebench.leaderboard.record import RecordError
from prunebench.leaderboard.reproductions import Wanted

PUBLISHED = Path(__file__).parent.parent / "leaderboard" / "published"
SIZES = {"mini": 3000, "games": 45774, "microlens-50k": 45000, "book": 88000}
TABLE_2 = (
    'methods = ["newest", "random"]\nbackbones = ["counted"]\ndatasets = ["tiny"]\nbudgets = [5]\nseeds = [0, 1]\n'
)
FIGURE_5 = TABLE_2.replace("[5]", "[5, 10]").replace("[0, 1]", "[0]") + '\n[[include]]\nmethod = "full"\n'
RUN = ("reproduce", "table2", "--plugin", "plug.py")
FIGURE = ("reproduce", "fig5", "--plugin", "plug.py")


def rows_of(name: str, scale: str, home: Path) -> list[Wanted]:
    """The rows that a declared study asks for, without any data set."""
    bench = Workbench(home, ConsoleReporter(Console(quiet=True)), "cpu")
    study = read_study(reproduce.STUDIES / f"{name}-{scale}.toml")
    rows = reproduce.rows_of(bench, study, name)
    assert {task.method for task in fitting(bench, study, name)} == {task.method for task in rows}
    return [reproduce._wanted(bench, task, seeds, lambda data: (data, SIZES[data])) for task, seeds in rows.items()]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_a_study_is_declared_for_every_name_and_scale(name: str, scale: str, tmp_path: Path) -> None:
    rows = rows_of(name, scale, tmp_path)
    assert all(len(row.seeds) == (6 if scale == "mini" else 3) for row in rows)
    assert {row.dataset for row in rows} <= {"mini"} if scale == "mini" else {row.dataset for row in rows} <= {*SIZES}
    llms = {row.llm for row in rows if row.backbone == "bigrec"}
    assert llms == ({"huggyllama/llama-7b"} if scale == "paper" else {"catalogue"})
    # everything is read against a row of its own data and backbone
    against = reproduce.NAMED[name].against
    assert {(row.dataset, row.backbone) for row in rows if row.method == against} == {
        (row.dataset, row.backbone) for row in rows
    }


def test_the_studies_ask_for_what_the_paper_shows(tmp_path: Path) -> None:
    def kept(name: str, scale: str = "mini") -> list[tuple[Any, ...]]:
        return [(row.backbone, row.method, row.budget) for row in rows_of(name, scale, tmp_path)]

    order = ["tf_dcon", "recranker", "ccs", "grand", "el2n", "random", "dealrec"]
    assert kept("table2") == [(backbone, method, 256) for backbone in ("bigrec", "tiger") for method in order]
    assert kept("table3") == [("bigrec", "dealrec", 256), ("bigrec", "full", 3000)]
    assert [row.surrogate for row in rows_of("table4", "mini", tmp_path)] == ["sasrec", "bert4rec", "dcrec", "sasrec"]
    assert [row.asked for row in rows_of("fig4", "mini", tmp_path)] == [
        {},
        {},
        {"method.use_influence": False},
        {"method.use_effort": False},
        {"method.selection": "greedy"},
        {},
    ]
    assert [budget for _, method, budget in kept("fig5") if method == "dealrec"] == [6, 15, 30, 60, 120, 256]
    assert [budget for _, method, budget in kept("fig5", "paper") if method == "random"] == [92, 229, 458, 1024, 1831]
    assert [row.asked.get("method.lam") for row in rows_of("fig7", "mini", tmp_path)] == [0.1, 0.3, 0.5, 1, 2, None]
    weights = {
        row.dataset: row.config["method"]["lam"]
        for row in rows_of("table3", "paper", tmp_path)
        if row.method == "dealrec"
    }
    assert weights == {"games": 0.3, "microlens-50k": 1.0, "book": 1.0}
    (full,) = (row for row in rows_of("table3", "small", tmp_path) if row.method == "full")
    assert (full.config["backbone"]["max_steps"], full.config["backbone"]["eval_every"]) == (358, 40)


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `tiny` installed and quick studies in place of the declared ones."""
    studies = tmp_path / "declared"
    studies.mkdir()
    (studies / "table2-mini.toml").write_text(TABLE_2)
    (studies / "fig5-mini.toml").write_text(FIGURE_5)
    monkeypatch.setattr(reproduce, "STUDIES", studies)
    install_counted(tmp_path)
    return tmp_path


def pages(folder: Path, words: tuple[str, ...]) -> tuple[Answer, dict[str, bytes]]:
    answer = ask(folder, (*words, "--out", "out"))
    return answer, {path.name: path.read_bytes() for path in (folder / "out").glob("*")}


def test_it_runs_what_is_missing_and_goes_on(given: Path) -> None:
    plan = ask(given, (*RUN, "--plan"))
    assert plan.code == 0
    assert "4 runs" in plan.out
    assert "to do: 4 of 4 runs" in plan.out
    nothing = ask(given, (*RUN, "--no-run"))
    assert "0 of 4 runs are there" in nothing.out
    assert not (given / "home" / "runs").exists()

    one = ask(given, (*RUN, "--seeds", "1"))
    assert one.code == 0, one.err
    assert "Made by `bench reproduce table2 --scale mini --seeds 1 --plugin plug.py`. All 2 runs are there." in one.out
    part = ask(given, (*RUN, "--no-run"))
    assert "2 of 4 runs are there; a dash stands for what is missing." in part.out
    assert "| counted | newest | 1 of 2 |" in part.out

    whole = ask(given, RUN)
    assert whole.code == 0
    assert "All 4 runs are there." in whole.out
    assert "to do: 2 of 4 runs" in whole.err
    # another figure makes use of what this one recorded
    assert "to do: 3 of 5 runs" in ask(given, (*FIGURE, "--plan")).out


def test_a_plan_says_what_was_measured_of_the_study_as_it_is(given: Path) -> None:
    said = (
        "measured on one core where nothing was there: 18 minutes; table2, fig4, fig5 share runs and take 50 together"
    )
    study = reproduce.STUDIES / "fig5-mini.toml"
    study.write_text(f'plugins = ["{given / "plug.py"}"]\n{FIGURE_5}')
    assert said in ask(given, ("reproduce", "fig5", "--plan")).out
    assert "measured" not in ask(given, ("reproduce", "fig5", "--plan", "--seeds", "3")).out


def test_the_study_that_it_runs_is_one_for_a_sweep(given: Path) -> None:
    ask(given, (*RUN, "--seeds", "1"))
    (study,) = (given / "home" / "studies").iterdir()
    again = ask(given, ("sweep", str(study), "--json"))
    assert [row["state"] for row in json.loads(again.out)["runs"]] == ["there", "there"]


def test_pages_come_from_any_folder_of_records_and_are_the_same_bytes(given: Path) -> None:
    answer, first = pages(given, FIGURE)
    assert answer.code == 0, answer.err
    assert sorted(first) == ["fig5-dark.svg", "fig5.json", "fig5.md", "fig5.png", "fig5.svg"]
    (given / "home" / "runs").rename(given / "kept")
    again, second = pages(given, (*FIGURE, "--records", "kept", "--json"))
    assert second == first
    assert again.out.encode() == first["fig5.json"]
    assert not (given / "home" / "runs").exists()
    text = first["fig5.md"].decode()
    assert text.count("<img ") == 1
    assert "![" not in text


def test_a_folder_in_the_way_of_a_file_leaves_all_as_it_was(given: Path) -> None:
    (given / "out" / "table2.md").mkdir(parents=True)
    answer = ask(given, (*RUN, "--no-run", "--out", "out"))
    assert answer.code == 2
    assert "out/table2.md is a folder" in answer.err
    assert answer.out.startswith("# Table 2")
    assert [path.name for path in (given / "out").iterdir()] == ["table2.md"]


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_runs(given: Path) -> None:
    (given / "file").write_text("")
    answer = ask(given, (*RUN, "--out", "file/out"))
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == "bench: file/out: Not a directory\n"


def test_a_run_that_fails_leaves_a_page_with_a_gap(given: Path) -> None:
    study = reproduce.STUDIES / "table2-mini.toml"
    study.write_text(TABLE_2.replace("[0, 1]", "[0]") + '[vary]\n"newest.broken" = ["few", ""]\n')
    answer = ask(given, RUN)
    assert answer.code == 2
    assert "2 of 3 runs are there" in answer.out
    assert "| counted | newest | 0 of 1 |" in answer.out
    assert "1 of 3 runs failed" in answer.err


@pytest.fixture(scope="module", name="paged")
def fixture_paged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with published records of table 3 and figure 6, and their pages in a folder of its own."""
    folder = tmp_path_factory.mktemp("paged")
    for path in (PUBLISHED / "records").iterdir():
        record = json.loads((path / "record.json").read_text())
        if record["dataset"]["name"] == "mini" and record["method"] in ("full", "dealrec", "random"):
            shutil.copytree(path, folder / "board" / "records" / path.name)
    for name in ("table3", "fig6"):
        for path in (PUBLISHED / "reproduced").glob(f"{name}*"):
            (folder / "board" / "pages").mkdir(exist_ok=True)
            shutil.copy(path, folder / "board" / "pages")
    answer = ask(folder, ("leaderboard", "build", "--records", "board/records", "--out", "board", "--no-plots"))
    assert answer.code == 0, answer.err
    return folder


def _spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a digit": (
        lambda pages: _spoil(pages / "table3.md", "| ours | Full | 6 | _.", "| ours | Full | 6 | _.9"),
        "table3.md, line 9 (| ours | Full | 6 | _.",
    ),
    "a digit of the JSON": (
        lambda pages: _spoil(pages / "table3.json", '"ours": 0.', '"ours": 0.9'),
        "table3.json, line",
    ),
    "no markdown": (
        lambda pages: (pages / "table3.md").unlink(),
        "table3.md is missing; write it with: bench reproduce",
    ),
    "no JSON": (lambda pages: (pages / "table3.json").unlink(), "table3.json is missing or no file"),
    "a pipe": (lambda pages: os.mkfifo(pages / "fig5.json"), "fig5.json is missing or no file"),
    "no picture": (lambda pages: (pages / "fig6-dark.svg").unlink(), "fig6-dark.svg is missing; make it anew"),
    "another name": (lambda pages: (pages / "table3.json").rename(pages / "fig4.json"), "makes no page of that name"),
    "another command": (
        lambda pages: _spoil(pages / "table3.json", "reproduce table3 --scale mini", "reproduce --help"),
        "'bench reproduce --help' makes no page of that name",
    ),
    "help": (
        lambda pages: _spoil(pages / "table3.json", "--scale mini", "--scale mini --help"),
        "makes no page of that name",
    ),
    "an option that writes": (
        lambda pages: _spoil(pages / "table3.json", "--scale mini", "--scale mini --out elsewhere"),
        "makes no page of that name",
    ),
    "no such backbone": (
        lambda pages: _spoil(pages / "table3.json", "--scale mini", "--scale mini --backbone nope"),
        "table3.json: unknown backbone 'nope'",
    ),
    "users past counting": (
        lambda pages: _spoil(pages / "fig6.json", '"users": [', f'"users": [{2**63},'),
        "fig6.json is no page of `bench reproduce`: panels.0.groups.0.losses.users.0",
    ),
    "no page": (lambda pages: (pages / "fig5.json").write_text("[]"), "fig5.json is no page of `bench reproduce`"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_check_names_the_page_that_does_not_follow_from_the_records(
    paged: Path, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(paged / "board" / "pages", tmp_path / "pages")
    spoil, said = SPOILT[how]
    spoil(tmp_path / "pages")
    with pytest.raises(RecordError) as error:
        checks.pages(tmp_path, paged / "board" / "records", tmp_path / "pages")
    assert said in str(error.value)
    assert capsys.readouterr().out == ""


def test_pages_among_the_records_are_held_to_them(paged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (paged / "board" / "records").iterdir():
        (tmp_path / path.name).symlink_to(path)
    shutil.copytree(paged / "board" / "pages", tmp_path / "pages")
    monkeypatch.chdir(tmp_path)
    held, left_out = checks.pages(tmp_path / "home", Path("."), Path("pages"))
    assert (held, left_out) == ([Path("pages/fig6.md"), Path("pages/table3.md")], {})
    (tmp_path / "pages" / "table3.md").unlink()
    with pytest.raises(RecordError, match=r"table3\.md is missing"):
        checks.pages(tmp_path / "home", Path("."), Path("pages"))


def test_a_damaged_run_is_named_and_not_left_out_of_a_page(paged: Path, tmp_path: Path) -> None:
    shutil.copytree(paged / "board" / "records", tmp_path / "records")
    damaged = next((tmp_path / "records").iterdir()) / "selection.txt"
    damaged.write_text(damaged.read_text() + "1")
    with pytest.raises(RecordError, match=rf"table3.json: .*{damaged.parent.name}|fig6.json: .*{damaged.parent.name}"):
        checks.pages(tmp_path, tmp_path / "records", paged / "board" / "pages")


def test_check_runs_no_code_that_a_page_names(paged: Path) -> None:
    page = paged / "board" / "pages" / "table3.json"
    whole = page.read_text()
    (paged / "plug.py").write_text("open('loaded', 'w')\n")
    answer = ask(paged, ("leaderboard", "check", "--published", "board"))
    assert (answer.code, answer.out.count("pages/")) == (0, 2), answer.err
    page.write_text(whole.replace("--scale mini", "--scale mini --plugin plug.py"))
    answer = ask(paged, ("leaderboard", "check", "--published", "board"))
    page.write_text(whole)
    assert (answer.code, answer.out.count("pages/")) == (0, 1)
    assert "bench: not checked: board/pages/table3.json was made with a plugin" in answer.err
    assert not (paged / "loaded").exists()
