"""Mistakes with `bench reproduce`."""

from __future__ import annotations

from pathlib import Path

from counted import install_counted
from mistakes import Mistake

TITLE = "The paper by name"
SMALL = ("--dataset", "tiny", "--backbone", "counted", "--plugin", "plug.py")


def _in_the_way(folder: Path) -> None:
    install_counted(folder)
    (folder / "out").write_text("mine")


CASES = [
    Mistake("a table that is not reproduced", ("reproduce", "table1"), ("'table1' is not one of 'table2'",)),
    Mistake("a scale there is none of", ("reproduce", "table2", "--scale", "tiny"), ("'tiny' is not one of 'mini'",)),
    Mistake(
        "seeds for a table that are none",
        ("reproduce", "table2", "--seeds", "0,one"),
        ("--seeds", "'0,one'", "give different whole numbers with commas, e.g. 0,1,2"),
    ),
    Mistake("one seed twice for a table", ("reproduce", "table2", "--seeds", "1,1"), ("give different whole numbers",)),
    Mistake(
        "the paper's data where they are not installed",
        ("reproduce", "table2", "--scale", "paper", "--plan"),
        ("games", "not installed"),
    ),
    Mistake(
        "a backbone for a figure that cannot be",
        ("reproduce", "fig4", "--backbone", "bigreck", "--no-run"),
        ("unknown backbone 'bigreck': did you mean bigrec?",),
    ),
    Mistake(
        "an LLM for a backbone that takes none",
        ("reproduce", "table2", "--backbone", "tiger", "--llm", "gpt2", "--no-run"),
        ("llm is set, but no backbone of the study takes one; leave it out",),
    ),
    Mistake(
        "a figure of effort for a backbone without effort",
        ("reproduce", "fig4", *SMALL),
        ("backbone counted has no effort score",),
        given=install_counted,
    ),
    Mistake(
        "a plan of runs that are not to be made",
        ("reproduce", "table2", "--plan", "--no-run"),
        ("--plan shows runs to make, and --no-run and --records make none: give one of them",),
    ),
    Mistake(
        "records to reproduce a table from that are not there",
        ("reproduce", "table2", "--records", "nowhere"),
        ("'nowhere' does not exist",),
    ),
    Mistake(
        "a page to be written where a file is",
        ("reproduce", "table2", "--no-run", "--out", "out"),
        ("'out' is a file",),
        given=_in_the_way,
    ),
]
