"""A study file: the runs it asks for, which of them are the same, what they share, and what is there already."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from counted import install_counted
from mistakes import ask

from prunebench.benchmark import study
from prunebench.benchmark.config import ConfigError, Seeds, build
from prunebench.benchmark.study import Study, Task, tasks

HEAD = 'backbones = ["counted"]\ndatasets = ["tiny"]\nplugins = ["plug.py"]\n'


def asked(**values: Any) -> list[Task]:
    made = build(Study, values, "study")
    assert isinstance(made, Study)
    return tasks(made, "s")


def test_the_example_of_the_docstring(tmp_path: Path) -> None:
    example = [line[4:] for line in (study.__doc__ or "").splitlines() if line.startswith("    ") or not line]
    (tmp_path / "lam.toml").write_text("\n".join(example))
    read = study.read_study(tmp_path / "lam.toml")
    found = tasks(read, "lam")
    assert read.plugins == [str(tmp_path / "mine.py")]
    # dealrec: 2 budgets × 3 λ; random: 2 − 1 excluded; full; all × 2 backbones × 3 seeds; and random without samples
    assert len(found) == (2 * 3 + 1 + 1) * 2 * 3 + 2 * 3
    assert {dict(task.settings)["surrogate.epochs"] for task in found} == {20}
    assert {task.method for task in found if "method.lam" in dict(task.settings)} == {"dealrec"}
    assert not [task for task in found if (task.method, task.budget) in (("random", "64"), ("full", "64"))]


def test_every_combination_once_and_no_other() -> None:
    lists = {"methods": ["a", "b"], "backbones": ["x", "y"], "datasets": ["d", "e"], "budgets": [3, "2%"]}
    found = asked(**lists, seeds={"selection": [0, 1], "finetune": [5, 6, 7]}, vary={"method.k": [1, "two"]})
    expected = set(itertools.product(*lists.values(), (0, 1), (5, 6, 7), ("1", '"two"')))
    values = {task: json.dumps(task.settings[0][1]) for task in found}
    assert {
        (
            t.method,
            t.backbone,
            t.dataset,
            int(t.budget or 0) if t.budget == "3" else t.budget,
            t.selection_seed,
            t.finetune_seed,
            values[t],
        )
        for t in found
    } == expected
    assert len(found) == len(expected)


def test_a_task_is_a_command_and_the_same_seeds() -> None:
    (task,) = asked(
        methods=["m"], seeds={"selection": [1], "finetune": [2]}, settings={"m": {"loss": "ce"}}, llm="small"
    )
    words = task.words("cpu")
    assert task.seeds == Seeds(signal=1, selection=1, finetune=2)
    assert words[:4] == ["bench", "run", "--method", "m"]
    assert ' --llm small --device cpu --set method.loss="ce" --seed 1 --set seeds.finetune=2' in " ".join(words)


def test_settings_of_a_name_are_for_the_part_of_that_name() -> None:
    found = asked(methods=["a", "b"], backbones=["x", "y"], settings={"b.k": 1, "y.r": 2, "backbone.s": 3})
    assert {(t.method, t.backbone): dict(t.settings) for t in found} == {
        ("a", "x"): {"backbone.s": 3},
        ("b", "x"): {"method.k": 1, "backbone.s": 3},
        ("a", "y"): {"backbone.r": 2, "backbone.s": 3},
        ("b", "y"): {"method.k": 1, "backbone.r": 2, "backbone.s": 3},
    }
    with pytest.raises(ConfigError, match=r"sasrec is more than one part.* backbone\.d or surrogate\.d"):
        asked(backbones=["sasrec"], settings={"sasrec.d": 8})


def test_include_replaces_lists_and_exclude_takes_all_that_fits() -> None:
    found = asked(
        methods=["a", "b"],
        budgets=[1, 2],
        vary={"a.k": [1, 2]},
        include=[{"method": ["a", "c"], "budget": 9, "a.k": 5}],
        exclude=[{"a.k": 1, "budget": [1, 7]}, {"method": "b", "budget": 2}],
    )
    assert [(t.method, t.budget, *dict(t.settings).values()) for t in found] == [
        *(("a", "1", 2), ("a", "2", 1), ("a", "2", 2), ("b", "1")),
        *(("a", "9", 5), ("c", "9")),
    ]


def planned(folder: Path, content: str, *words: str) -> dict[str, Any]:
    (folder / "s.toml").write_text(content)
    answer = ask(folder, ("sweep", "s.toml", "--plan", "--json", *words))
    assert answer.code == 0, answer.err
    return json.loads(answer.out)  # type: ignore[no-any-return]


def facts(plan: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(r["method"], r["backbone"], r["budget"], *r["seeds"].values(), r["stands_for"]) for r in plan["runs"]]


def test_what_comes_to_the_same_run_is_done_once(tmp_path: Path) -> None:
    install_counted(tmp_path)
    head = HEAD.replace('["counted"]', '["counted", "popular"]')
    plan = planned(
        tmp_path,
        f'{head}methods = ["random", "newest", "full"]\nbudgets = [0, 5, "48"]\n'
        "seeds = {selection = [0, 1], finetune = [0, 1]}\n",
    )
    crossed = [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1)]
    once = [(0, 0, 0), (0, 0, 1)]
    assert sorted(facts(plan)) == sorted(
        [
            *(("none", "counted", 0, *seeds, 6) for seeds in once),  # of three methods and two selection seeds
            *(
                (name, "counted", size, *seeds, 1)
                for name in ("random", "newest")
                for size in (5, 48)
                for seeds in crossed
            ),
            *(("full", "counted", 48, *seeds, 2) for seeds in once),
            ("none", "popular", 0, 0, 0, 0, 32),
        ]
    )


def test_a_plan_says_what_is_shared_and_builds_nothing(tmp_path: Path) -> None:
    install_counted(tmp_path)
    before = sorted((tmp_path / "home").rglob("*"))
    content = f'{HEAD}methods = ["newest"]\nbudgets = [5, 6]\nseeds = [0, 1]\n'
    plan = planned(tmp_path, content)
    assert sorted((tmp_path / "home").rglob("*")) == before
    assert plan["to_do"] == [1, 2, 3, 4]
    stages = [(piece["stage"], piece["runs"]) for piece in plan["artefacts"]]
    # one evidence for both budgets; what each budget chooses has its own address
    assert [runs for stage, runs in stages if stage == "evidence"] == [[1, 3], [2, 4]]
    assert [runs for stage, runs in stages if stage == "selection"] == [[1], [2], [3], [4]]
    assert [runs for stage, runs in stages if stage == "fit"] == [[1], [2], [3], [4]]
    assert plan["estimate"] == {"seconds": None, "artefacts_unknown": 14}
    answer = ask(tmp_path, ("sweep", "s.toml", "--plan"))
    assert answer.code == 0
    assert "built once for several runs: 2 evidence" in answer.out
    assert "to do: 4 of 4 runs, 14 artefacts to build: time unknown" in answer.out


def test_an_estimate_is_what_the_like_of_it_took_here(tmp_path: Path) -> None:
    install_counted(tmp_path)
    content = f'{HEAD}methods = ["random"]\nbudgets = [5, 6]\nseeds = [0, 1]\n'
    (tmp_path / "one.toml").write_text(content.replace("[5, 6]", "[5]").replace("[0, 1]", "[0]"))
    assert ask(tmp_path, ("sweep", "one.toml")).code == 0
    plan = planned(tmp_path, content)
    assert plan["to_do"] == [2, 3, 4]
    bills = {path.parent.parent.name: path for path in (tmp_path / "home/store").glob("*/*/artefact.json")}
    seconds = {stage: json.loads(path.read_text())["bill"]["wall_s"] for stage, path in bills.items()}
    # budget 5, seed 1: all is alike; budget 6: no selection or fine-tuning of as many samples has been seen
    known = {piece["hash"]: piece for piece in plan["artefacts"] if not piece["there"]}
    for piece in known.values():
        unknown = piece["stage"] in ("selection", "fit") and not {2}.intersection(piece["runs"])
        assert piece["seconds"] == (None if unknown else seconds[piece["stage"]])
    assert plan["estimate"]["artefacts_unknown"] == 4
    assert plan["estimate"]["seconds"] == pytest.approx(sum(piece["seconds"] or 0 for piece in known.values()))


def test_a_record_stands_for_a_store_that_was_emptied_and_a_spoilt_one_for_nothing(tmp_path: Path) -> None:
    install_counted(tmp_path)
    content = f'{HEAD}methods = ["random", "newest"]\nbudgets = [5]\n'
    planned(tmp_path, content)
    assert ask(tmp_path, ("sweep", "s.toml")).code == 0
    assert planned(tmp_path, content)["to_do"] == []
    shutil.rmtree(tmp_path / "home" / "store")
    plan = planned(tmp_path, content)
    assert plan["to_do"] == []
    (tmp_path / "home" / "runs" / plan["runs"][0]["record"] / "per_user.npz").write_bytes(b"no")
    assert planned(tmp_path, content)["to_do"] == [1]


def test_llm_and_preset_are_for_the_backbones_that_take_them() -> None:
    task = Task("random", "popular", "mini", llm="x", preset="y")
    assert "--llm" in task.words()
    assert "--llm" not in replace(task, llm=None).words()
