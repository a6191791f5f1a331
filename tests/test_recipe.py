"""The README's recipe for data of one's own: two CSV files, five lines, a board, run as they are written."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from small_world import SMALL_WORLD

from prunebench.benchmark import cli, config
from prunebench.datasets.library import Library
from prunebench.datasets.released import read_dealrec
from prunebench.datasets.schema import SPLITS, RecDataset
from prunebench.datasets.synthetic import generate

README = Path(__file__).parents[1] / "README.md"
GAMES = Path(__file__).parents[2] / "shared" / "data" / "games"


def recipe() -> list[str]:
    """The five commands below the heading."""
    section = README.read_text().partition("\n## Your own data, in five lines\n")[2]
    blocks = re.findall(r"```\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    return blocks[1].strip().splitlines()


def write_csv(data: RecDataset, folder: Path) -> None:
    """The two files a shop would have: who bought what when, the parts one after the other, and what the things are."""
    with (folder / "ratings.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "timestamp", "rating"])
        for number, split in enumerate(SPLITS):
            for user, items in enumerate(data.split(split)):
                rows.writerows(
                    [f"u{user}", f"i{item}", 1_600_000_000 + 10**6 * number + place, 5]
                    for place, item in enumerate(items)
                )
        rows.writerow(["u0", "i0", 1_600_000_000, 1])
    with (folder / "products.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["item", "title"], *([f"i{item}", title] for item, title in enumerate(data.titles))]
        )


QUICK = """
[shop]
llm = { tokens = 20_000, hidden = 32, layers = 2, feed_forward = 64, vocabulary = 300, sequence = 64 }
[shop.backbones.bigrec]
max_steps = 4
max_new_tokens = 12
"""


def test_the_recipe_leads_from_two_files_to_a_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Trained for seconds, not minutes, by settings kept for that name; the commands are those of the page."""
    (tmp_path / "presets.toml").write_text(config.PRESETS.read_text() + QUICK)
    monkeypatch.setattr(config, "PRESETS", tmp_path / "presets.toml")
    write_csv(generate(SMALL_WORLD, 0), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNEBENCH_HOME", str(tmp_path / "home"))
    lines = recipe()
    assert len(lines) == 5
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
        capfd.readouterr()
        cli.main()
    board = capfd.readouterr().out
    assert re.search(r"^\| dealrec +\| bigrec ", board, re.MULTILINE)
    assert re.search(r"^\| random +\| bigrec ", board, re.MULTILINE)
    installed = Library(tmp_path / "home").load("shop")
    assert installed.meta["item_noun"] == "game"
    assert installed.user_keys is not None
    assert set(installed.user_keys) <= {f"u{user}" for user in range(SMALL_WORLD.users)}


@pytest.mark.real
@pytest.mark.skipif(not GAMES.is_dir(), reason="the real Games data set is not beside the project")
def test_the_protocol_splits_games_as_it_was_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The release lacks the users without a training item. With as many interactions of such users as 8:1:1 asks for,
    one file of interactions in time is split into the released parts, interaction by interaction."""
    released = read_dealrec(GAMES, "games")
    write_csv(released, tmp_path)
    valid, test = (len(part.items) for part in (released.valid, released.test))
    whole = next(n for n in range(10**6) if n * 8 // 10 == len(released.train.items))
    cold = {1: whole * 9 // 10 - whole * 8 // 10 - valid, 2: whole - whole * 9 // 10 - test}
    path = tmp_path / "ratings.csv"
    with path.open("a") as file:
        for part, count in cold.items():
            file.writelines(f"cold{part}-{row},i0,{1_600_000_000 + 10**6 * part},5\n" for row in range(count))
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    monkeypatch.setenv("PRUNEBENCH_HOME", str(tmp_path / "home"))
    files = ["--interactions", str(path), "--items", str(tmp_path / "products.csv")]
    words = ["bench", "datasets", "import", "--format", "table", *files, "--name", "again", "--json"]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
    assert json.loads(capfd.readouterr().out)["interactions"] == 342_329
    again = Library(tmp_path / "home").load("again")
    assert again.meta["cold_users"] == str(sum(cold.values()))
    assert again.user_keys is not None
    assert again.item_keys is not None
    users = np.array([int(key[1:]) for key in again.user_keys])
    items = np.array([int(key[1:]) for key in again.item_keys], np.int32)
    for split in SPLITS:
        expected, found = released.split(split).take(users), again.split(split)
        assert np.array_equal(expected.offsets, found.offsets)
        assert np.array_equal(expected.items, items[found.items])
    assert [released.titles[item] for item in items] == list(again.titles)
