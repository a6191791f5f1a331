"""The command line as a user meets it: one clear line for mistakes, clean JSON, the same record twice."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted import install_counted, tiny

from prunebench.benchmark import cli
from prunebench.benchmark.config import ConfigError, merge, parse_settings

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    """Calls the command in this process: ``(exit code, stdout, stderr)``, with `tiny` installed and the plugin at hand."""
    monkeypatch.setenv("PRUNEBENCH_HOME", str(tmp_path / "home"))
    install_counted(tmp_path)

    def call(*words: str, plugin: bool = False) -> tuple[int, str, str]:
        extra = ["--plugin", str(tmp_path / "plug.py")] if plugin else []
        monkeypatch.setattr(sys, "argv", ["bench", *words, *extra])
        capfd.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call


RUN = ("run", "--dataset", "tiny", "--backbone", "counted", "--method", "random", "--budget", "20")


def test_run_prints_one_json_record_and_nothing_else(bench: Bench) -> None:
    code, out, err = bench(*RUN, "--json", plugin=True)
    assert code == 0, err
    record = json.loads(out)
    assert "fitting, on standard output" in err
    assert (record["method"], record["backbone"], record["budget"]) == ("random", "counted", 20)
    assert record["selection"]["count"] == 20
    assert record["protocol"]["users_evaluated"] == record["dataset"]["counts"]["test_users"]
    assert {stage["stage"] for stage in record["bill"]} == {"evidence", "selection", "fit", "predictions"}
    assert record["totals"]["total_s"] == pytest.approx(sum(stage["wall_s"] for stage in record["bill"]))
    assert set(record["metrics"]) == {"unmasked", "masked"}


def test_second_run_builds_nothing_and_yields_the_same_record(bench: Bench, tmp_path: Path) -> None:
    first = bench(*RUN, "--json", plugin=True)[1]
    made = sorted(path.stat().st_mtime_ns for path in (tmp_path / "home" / "store").rglob("artefact.json"))
    second = bench(*RUN, "--json", plugin=True)[1]
    assert json.loads(first) == json.loads(second)
    assert made == sorted(path.stat().st_mtime_ns for path in (tmp_path / "home" / "store").rglob("artefact.json"))
    assert len((tmp_path / "home" / "test_evaluations.jsonl").read_text().splitlines()) == 1


def test_metrics_equal_a_plain_loop(bench: Bench, tmp_path: Path) -> None:
    code, out, err = bench(*RUN, "--json", plugin=True)
    assert code == 0, err
    record = json.loads(out)
    data = tiny()
    folder = tmp_path / "home" / "runs" / record["run"]
    kept = [int(line) for line in (folder / "selection.txt").read_text().split()]
    counts = np.bincount([data.train[user][-1] for user in kept], minlength=30)
    recalls = []
    for user in range(60):
        targets = set(data.test[user].tolist())
        if not targets:
            continue
        hits = 0.0
        for item in targets:
            above, equal = int((counts > counts[item]).sum()), int((counts == counts[item]).sum())
            hits += min(max((10 - above) / equal, 0.0), 1.0)
        recalls.append(hits / len(targets))
    assert record["metrics"]["unmasked"]["recall"]["10"] == pytest.approx(np.mean(recalls))
    assert record["protocol"]["users_evaluated"] == len(recalls)
    per_user = np.load(folder / "per_user.npz")
    assert per_user["unmasked_recall"][:, 1] == pytest.approx(recalls)


def test_masked_metrics_leave_the_history_out(bench: Bench, tmp_path: Path) -> None:
    record = json.loads(bench(*RUN, "--json", plugin=True)[1])
    data = tiny()
    kept = [int(line) for line in (tmp_path / "home" / "runs" / record["run"] / "selection.txt").read_text().split()]
    counts = np.bincount([data.train[user][-1] for user in kept], minlength=30).astype(float)
    recalls = []
    for user in range(60):
        targets = set(data.test[user].tolist())
        seen = set(data.train[user].tolist()) | set(data.valid[user].tolist())
        if not targets:
            continue
        hits = 0.0
        for item in targets - seen:
            rivals = np.array([counts[other] for other in range(30) if other not in seen])
            above, equal = int((rivals > counts[item]).sum()), int((rivals == counts[item]).sum())
            hits += min(max((5 - above) / equal, 0.0), 1.0)
        recalls.append(hits / len(targets))
    assert record["metrics"]["masked"]["recall"]["5"] == pytest.approx(np.mean(recalls))


def test_seeds_give_several_runs_and_differ(bench: Bench) -> None:
    code, out, err = bench(*RUN, "--json", "--seeds", "0,1,2", plugin=True)
    assert code == 0, err
    runs = json.loads(out)["runs"]
    assert [run["seeds"]["selection"] for run in runs] == [0, 1, 2]
    assert len({run["selection"]["sha256"] for run in runs}) == 3
    assert len({run["run"] for run in runs}) == 3


def test_prune_only_selects(bench: Bench, tmp_path: Path) -> None:
    words = ("prune", "--dataset", "tiny", "--backbone", "counted", "--method", "newest", "--budget", "5")
    code, out, err = bench(*words, "--json", plugin=True)
    assert code == 0, err
    result = json.loads(out)
    samples = tiny().samples().ids
    assert result["sample_ids"] == sorted(samples.tolist())[-5:]
    assert {stage["phase"] for stage in result["bill"]} == {"pruning"}
    assert not (tmp_path / "home" / "store" / "fit").exists()
    plain = bench(*words, plugin=True)[1]
    assert [int(line) for line in plain.split()] == result["sample_ids"]


def test_full_keeps_every_sample_and_budget_zero_needs_no_pruning(bench: Bench) -> None:
    full = json.loads(
        bench("run", "--dataset", "tiny", "--backbone", "counted", "--method", "full", "--json", plugin=True)[1]
    )
    assert full["budget"] == full["selection"]["count"] == len(tiny().samples())
    zero = json.loads(bench(*RUN[:-1], "0", "--json", plugin=True)[1])
    assert (zero["method"], zero["budget"]) == ("none", 0)
    assert "pruning" not in {stage["phase"] for stage in zero["bill"]}


def test_leaderboard_and_listing_show_the_run(bench: Bench) -> None:
    record = json.loads(bench(*RUN, "--json", plugin=True)[1])
    code, out, err = bench("leaderboard", "show")
    assert code == 0, err
    assert "random" in out
    assert f"{record['metrics']['unmasked']['recall']['10']:.4f}".lstrip("0") in out
    listed = json.loads(bench("ls", "runs", "--json")[1])["runs"]
    assert [row["name"] for row in listed] == [record["run"]]
    names = {row["name"]: row["status"] for row in json.loads(bench("ls", "datasets", "--json")[1])["datasets"]}
    assert names["tiny"] == "installed"
    assert names["games"] == "known, `bench datasets download games` installs it"


def test_config_file_and_set_override_in_order(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        '[run]\nmethod = "random"\nbackbone = "counted"\ndataset = "tiny"\nbudget = 7\n[backbone]\nsmoothing = 0.25\n'
    )
    file = ("run", "--config", str(tmp_path / "run.toml"), "--json")
    record = json.loads(bench(*file, plugin=True)[1])
    assert (record["budget"], record["config"]["backbone"]["smoothing"]) == (7, 0.25)
    record = json.loads(bench(*file, "--budget", "9", "--set", "backbone.smoothing=0.5", plugin=True)[1])
    assert (record["budget"], record["config"]["backbone"]["smoothing"]) == (9, 0.5)
    assert record["changes"] == {"backbone.smoothing": 0.5}


def test_settings_reach_into_tables_and_merge() -> None:
    fields = {"method": ["lam"], "backbone": ["lora", "lr"], "llm": ["lr"]}
    asked = parse_settings(["lora.r=4", "backbone.lora.targets=all-linear", "llm.lr=1e-3", "lam=2"], fields)
    assert asked == {"backbone": {"lora": {"r": 4, "targets": "all-linear"}}, "llm": {"lr": 1e-3}, "method": {"lam": 2}}
    assert merge({"lora": {"r": 8, "alpha": 16}, "lr": 1}, {"lora": {"r": 4}}) == {
        "lora": {"r": 4, "alpha": 16},
        "lr": 1,
    }
    with pytest.raises(ConfigError, match=r"backbone\.lr=… or llm\.lr=…"):
        parse_settings(["lr=1"], fields)


@pytest.mark.parametrize(("broken", "said"), [("few", "newest"), ("twice", "once"), ("foreign", "1000000000")])
def test_a_methods_broken_selection_is_one_line_and_exit_code_2(bench: Bench, broken: str, said: str) -> None:
    words = ("prune", *RUN[1:5], "--method", "newest", "--budget", "5", "--set", f"broken={broken}")
    code, out, err = bench(*words, plugin=True)
    assert (code, out) == (2, "")
    assert said in err.strip().splitlines()[-1]


def test_the_split_of_a_configuration_file_counts(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        '[run]\nmethod = "random"\nbackbone = "counted"\ndataset = "tiny"\nbudget = 7\nsplit = "valid"\n'
    )
    record = json.loads(bench("run", "--config", str(tmp_path / "run.toml"), "--json", plugin=True)[1])
    assert record["protocol"]["split"] == "valid"
    assert not (tmp_path / "home" / "test_evaluations.jsonl").exists()
    (tmp_path / "run.toml").write_text('[run]\nsplit = "all"\n')
    code, _, err = bench("run", "--config", str(tmp_path / "run.toml"))
    assert (code, "split = 'all'" in err) == (2, True)


def test_seeds_can_be_crossed(bench: Bench) -> None:
    record = json.loads(bench(*RUN, "--seed", "1", "--set", "seeds.finetune=5", "--json", plugin=True)[1])
    assert record["seeds"] == {"signal": 1, "selection": 1, "finetune": 5}


def test_a_spoilt_record_is_written_again_and_does_not_take_the_board_down(bench: Bench, tmp_path: Path) -> None:
    record = json.loads(bench(*RUN, "--json", plugin=True)[1])
    bench(*RUN, "--seed", "1", "--json", plugin=True)
    path = tmp_path / "home" / "runs" / record["run"] / "record.json"
    path.write_text(path.read_text()[:100])
    code, out, err = bench("leaderboard", "show")
    assert (code, "left out" in err) == (0, True)
    assert "random" in out
    assert any(row.get("damaged") for row in json.loads(bench("ls", "runs", "--json")[1])["runs"])
    again = json.loads(bench(*RUN, "--json", plugin=True)[1])
    assert {**again, "finished": ""} == {**record, "finished": ""}
    assert len((tmp_path / "home" / "test_evaluations.jsonl").read_text().splitlines()) == 2


def test_a_signal_from_a_file_follows_its_code(bench: Bench, tmp_path: Path) -> None:
    source = (
        '"""A signal and the method that asks for it."""\n'
        "import numpy as np\nfrom prunebench.methods.base import Method, Selection\n"
        "from prunebench.recommenders.base import Config, Request\n"
        "class Slope:\n    name, version, phase, seeded, reads, Config = 'slope', 1, 'pruning', False, ('train',), Config\n"
        "    def needs(self, config, context): return {}\n"
        "    def key(self, config, context): return {}\n"
        "    def build(self, config, context, work): np.save(work.folder / 'x.npy', FACTOR * context.samples.ids)\n"
        "    def load(self, config, context, artefact): return np.load(artefact.folder / 'x.npy')\n"
        "class Steepest(Method):\n    name = 'steepest'\n"
        "    def requests(self): return {'slope': Request('slope')}\n"
        "    def prepare(self, samples, signals, runtime): return {'score': signals['slope'].astype(np.float32)}\n"
        "    def select(self, samples, evidence, budget, runtime):\n"
        "        return Selection(np.sort(samples.ids[np.argsort(evidence['score'])[-budget:]]))\n"
    )
    chosen = []
    for factor in ("1", "-1"):
        (tmp_path / "slope.py").write_text(source.replace("FACTOR", factor))
        words = ("prune", "--dataset", "tiny", "--backbone", "popular", "--method", "steepest", "--budget", "4")
        code, out, err = bench(*words, "--plugin", str(tmp_path / "slope.py"))
        assert code == 0, err
        chosen.append([int(line) for line in out.split()])
    ids = sorted(tiny().samples().ids.tolist())
    assert chosen == [ids[-4:], ids[:4]]


def test_help_and_listing_start_without_the_heavy_libraries(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['bench', *sys.argv[1:]]\n"
        "from prunebench.benchmark import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print({'torch', 'transformers', 'numpy', 'pydantic', 'rich'} & set(sys.modules), file=sys.stderr)"
    )
    for words in (["--help"], ["ls"], ["ls", "methods", "--json"]):
        environment = {**os.environ, "PRUNEBENCH_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, env=environment, check=True
        )
        assert done.stderr.strip().splitlines()[-1] == "set()", done.stderr
        assert "dealrec" in done.stdout or words == ["--help"]


def test_interrupt_exits_130_and_says_how_to_go_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from prunebench.benchmark import commands

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run", stop)
    code, _, err = bench(*RUN)
    assert code == 130
    assert "continues" in err


def test_a_closed_standard_output_is_told(tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -c 'from prunebench.benchmark.cli import main; main()' ls methods >&-"
    environment = {**os.environ, "PRUNEBENCH_HOME": str(tmp_path)}
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, env=environment)
    assert (done.returncode, done.stderr) == (1, "bench: standard output is closed; send it somewhere, e.g. > FILE\n")
