"""Records in, tables out: schema, grouping over seeds, costs, the paper's figures, and escaping."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunebench.leaderboard import paper_figures
from prunebench.leaderboard.record import (
    SCHEMA_VERSION,
    DatasetFacts,
    Environment,
    Metrics,
    Protocol,
    Record,
    RecordError,
    Seeds,
    SelectionFacts,
    StageBill,
    differences,
    load_record,
    read_record,
    total,
    write_record,
)
from prunebench.leaderboard.tables import duration, leaderboard_markdown, rows

PRUNING, TUNING, INFERENCE = 100.0, 200.0, 50.0
GAMES = DatasetFacts(name="games", fingerprint=paper_figures.FINGERPRINTS["games"])


def bill(stage: str, phase: Any, wall: float, device: str = "cpu A", rss: float = 512.0) -> StageBill:
    return StageBill(
        stage=stage, hash=f"{stage}{wall}", phase=phase, wall_s=wall, cpu_s=wall, peak_rss_mb=rss, device=device
    )


def record(seed: int = 0, recall: float | None = 0.016, stages: list[StageBill] | None = None, **facts: Any) -> Record:
    stages = stages or [
        bill("llm", "pretraining", 1000.0, rss=9999.0),
        bill("evidence", "pruning", PRUNING),
        bill("fit", "fine-tuning", TUNING, rss=2048.0),
        bill("predictions", "inference", INFERENCE),
    ]
    means = {str(k): recall for k in (5, 10, 20, 50)}
    values: dict[str, Any] = {
        "run": f"run{seed}",
        "finished": "2024-01-01T00:00:00Z",
        "method": "dealrec",
        "backbone": "bigrec",
        "dataset": GAMES,
        "llm": "catalogue",
        "budget": 1024,
        "share": 1024 / 45774,
        "config": {"method": {"lam": 0.3}, "backbone": {}},
        "seeds": Seeds(signal=seed, selection=seed, finetune=seed),
        "environment": Environment(python="3.11", platform="linux"),
        "protocol": Protocol(cutoffs=[5, 10, 20, 50], users_evaluated=8696),
        "selection": SelectionFacts(count=1024),
        "metrics": {"unmasked": Metrics(users=2, targets=3, recall=means, ndcg=means)},
        "bill": stages,
        "totals": total(stages),
    }
    return Record(**{**values, **facts})


def full(**facts: Any) -> Record:
    stages = [bill("fit", "fine-tuning", 3450.0), bill("predictions", "inference", INFERENCE)]
    return record(
        stages=stages, **{"method": "full", "budget": 45774, "share": 1.0, "config": {"backbone": {}}, **facts}
    )


def cells(markdown: str) -> list[dict[str, str]]:
    """Every table row as header → cell."""
    found: list[dict[str, str]] = []
    header: list[str] = []
    for line in markdown.splitlines():
        if not line.startswith("|"):
            header = []
            continue
        parts = [part.strip() for part in line.strip("|").split("|")]
        if not header:
            header = parts
        elif not set(line) <= set("|-: "):
            found.append(dict(zip(header, parts, strict=True)))
    return found


def test_records_survive_json_exactly(tmp_path: Path) -> None:
    one = record(recall=1 / 3)
    (tmp_path / "record.json").write_text(write_record(one))
    assert load_record(tmp_path / "record.json") == one


def test_a_stage_says_of_itself_what_it_likes_and_version_1_said_nothing() -> None:
    solver = {"gradient_norm": 0.5, "iterations": 12, "damping": "1e-3 of the mean", "restarts": None}
    stages = [bill("evidence", "pruning", PRUNING).model_copy(update={"notes": solver})]
    one = record(stages=stages)
    assert read_record(write_record(one)).bill[0].notes == solver
    values = json.loads(write_record(one))
    del values["bill"][0]["notes"]
    old = read_record(json.dumps({**values, "schema_version": 1}))
    assert (old.schema_version, old.bill[0].notes, old.digest) == (1, {}, one.digest)
    for metrics in values["metrics"].values():
        del metrics["coverage"]
    assert read_record(json.dumps({**values, "schema_version": 2})).metrics["unmasked"].coverage == {}
    values["bill"][0]["notes"] = {"residual": float("nan")}
    with pytest.raises(RecordError, match=r"bill\.0\.notes\.residual"):
        read_record(json.dumps(values))


def test_totals_count_each_artefact_once_and_never_add_up_hardware() -> None:
    shared = bill("surrogate", "pruning", 7.0)
    assert total([shared, shared, bill("fit", "fine-tuning", 2.0)]).total_s == 9.0
    mixed = total([shared, bill("fit", "fine-tuning", 2.0, "gpu B")])
    assert (mixed.pruning_s, mixed.fine_tuning_s, mixed.total_s) == (7.0, 2.0, None)
    assert total([bill("fit", "fine-tuning", 2.0, "cpu A | gpu B")]).fine_tuning_s is None
    pretrained = total([bill("llm", "pretraining", 99.0, rss=5.0), bill("fit", "fine-tuning", 2.0, rss=3.0)])
    assert (pretrained.pretraining_s, pretrained.total_s, pretrained.peak_rss_mb) == (99.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, f"newer than the {SCHEMA_VERSION} read here: update"),
        ({"schema_version": None}, "no schema_version"),
        ({"nonsense": 1}, "nonsense: Extra inputs"),
        ({"budget": -1}, "budget: "),
        ({"totals": {**record().totals.model_dump(), "total_s": 1.0}}, "totals do not follow"),
        ({"share": float("nan")}, "share: "),
        ({"command": "half a \ud800 character"}, "cannot be written again"),
    ],
)
def test_bad_records_are_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        read_record(json.dumps({**json.loads(write_record(record())), **change}), "runs/x/record.json")
    assert str(caught.value).startswith("runs/x/record.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_texts_that_are_no_record_are_refused(text: str) -> None:
    with pytest.raises(RecordError):
        read_record(text)


def test_a_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="cannot read the record"):
        load_record(tmp_path / "absent.json")


def test_differences_are_dotted() -> None:
    config = {"method": {"lam": 1.0, "groups": 50, "inner": {"a": 1}}, "plugins": {"x": "1"}}
    defaults = {"method": {"lam": 0.3, "groups": 50, "inner": {"a": 2}}}
    assert differences(config, defaults) == {"method.lam": 1.0, "method.inner.a": 1, "plugins": {"x": "1"}}
    assert differences(defaults, defaults) == {}


def test_seeds_are_one_row_with_mean_and_spread() -> None:
    (row,) = rows([record(0, 0.01), record(1, 0.02), record(2, 0.03)])
    assert row["metrics"]["unmasked"]["R@10"]["mean"] == pytest.approx(0.02)
    assert row["metrics"]["unmasked"]["R@10"]["sd"] == pytest.approx(0.01)
    assert [seed["signal"] for seed in row["seeds"]] == [0, 1, 2]
    shown = cells(leaderboard_markdown([record(0, 0.01), record(1, 0.02), record(2, 0.03)]))[0]
    assert shown["R@10"] == ".0200 ± .0100 (.0181)"
    assert shown["seeds"] == "3"
    assert json.loads(json.dumps(row)) == row


def test_one_seed_has_no_spread_and_a_rerun_is_no_second_seed() -> None:
    old = record(0, 0.01, run="old", finished="2023-01-01T00:00:00Z")
    new = record(0, 0.04, run="new", finished="2024-06-01T00:00:00Z")
    (row,) = rows([new, old])
    assert row["runs"] == ["new"]
    assert row["metrics"]["unmasked"]["R@20"] == {"mean": 0.04, "sd": None}


def test_configurations_are_rows_of_their_own_and_named_by_what_differs() -> None:
    other = record(
        config={"method": {"lam": 1.0}, "backbone": {}}, changes={"method.lam": 1.0, "backbone.beams": 1}, run="b"
    )
    shown = cells(leaderboard_markdown([record(), other]))
    assert [row["method"] for row in shown] == ["dealrec", "dealrec (lam=1)"]
    assert shown[1]["backbone"] == "bigrec (beams=1)"
    assert "(.0181)" in shown[0]["R@10"]
    assert "(" not in shown[1]["R@10"], "the paper's figure is for the paper's configuration"


def test_a_seed_without_the_value_makes_the_cell_missing() -> None:
    shown = cells(leaderboard_markdown([record(0, 0.01, method="x"), record(1, None, method="x")]))[0]
    assert (shown["R@10"], shown["N@20"]) == ("–", "–")
    assert set(cells(leaderboard_markdown([record(0, 0.01, method="x", metrics={})]))[0].values()) >= {"–"}


def test_costs_and_the_share_of_full() -> None:
    dealrec, whole = cells(leaderboard_markdown([record(), full()]))
    assert (dealrec["pruning"], dealrec["fine-tuning"], dealrec["inference"]) == ("1.7 min", "3.3 min", "50.0 s")
    assert (dealrec["total"], dealrec["memory"], dealrec["of full"]) == ("5.8 min", "2.0 GB", "10%")
    assert (whole["method"], whole["of full"], whole["pruning"]) == ("full", "100%", "0.0 s")
    assert whole["R@10"].endswith("(.0169)")


def test_different_hardware_has_no_total_and_no_share_of_full() -> None:
    elsewhere = [bill("fit", "fine-tuning", 9.0, "gpu B"), bill("predictions", "inference", 1.0, "gpu B")]
    (row,) = cells(leaderboard_markdown([record(0), record(1, stages=elsewhere)]))
    assert (row["total"], row["fine-tuning"]) == ("–", "–")
    assert cells(leaderboard_markdown([record(stages=elsewhere), full()]))[0]["of full"] == "–"
    assert cells(leaderboard_markdown([record(), full(llm="other")]))[0]["of full"] == "–"


def test_of_full_compares_runs_that_differ_in_their_pruning_alone() -> None:
    config = {"method": {"lam": 0.3}, "surrogate": {"name": "sasrec"}, "backbone": {"epochs": 2}, "llm": {"layers": 4}}
    plugins = {"method": "m" * 64, "surrogate": "s" * 64}
    whole = full(config={"method": {}, "surrogate": {"name": "other"}, "backbone": {"epochs": 2}, "llm": {"layers": 4}})

    def share(reference: Record = whole, **facts: Any) -> float | None:
        pruned = record(run="pruned", **{"config": config, **facts})
        shares: list[float | None] = [row["of_full"] for row in rows([pruned, reference]) if row["runs"] == ["pruned"]]
        return shares[0]

    assert share() == share(config={**config, "plugins": plugins}) == pytest.approx(350 / 3500)
    assert share(config={**config, "backbone": {"epochs": 9}}) == pytest.approx(350 / 3500), "caps are tuned per budget"
    assert share(config={**config, "llm": {"layers": 8}}) is None
    assert share(config={**config, "plugins": {"backbone": "b" * 64}}) is None
    assert share(protocol=Protocol(split="valid", cutoffs=[10], users_evaluated=9)) is None
    assert share(dataset=DatasetFacts(name="games", fingerprint="other")) is None


def test_of_full_takes_the_full_run_that_differs_least() -> None:
    def run(name: str, method: str, epochs: int, lr: int, seconds: float) -> Record:
        facts: dict[str, Any] = {"method": method, "config": {"backbone": {"epochs": epochs, "lr": lr}}}
        return record(run=name, stages=[bill("fit", "fine-tuning", seconds)], **facts)

    found = rows([run("mine", "dealrec", 2, 2, 10.0), run("near", "full", 2, 1, 100.0), run("far", "full", 9, 1, 1e3)])
    assert [row["of_full"] for row in found if row["runs"] == ["mine"]] == [pytest.approx(0.1)]


def test_pretraining_elsewhere_blanks_no_cost() -> None:
    def stages(device: str) -> list[StageBill]:
        return [bill("llm", "pretraining", 1000.0, device), bill("fit", "fine-tuning", TUNING)]

    there, both = rows([record(stages=stages("gpu B"))])[0], rows([record(0), record(1, stages=stages("gpu B"))])[0]
    assert (there["hardware"], there["cost"]["total_s"], there["cost"]["pretraining_s"]) == (["cpu A"], TUNING, 1000.0)
    assert (both["hardware"], both["cost"]["total_s"], both["cost"]["pretraining_s"]) == (["cpu A"], 275.0, None)
    (pruned, _) = cells(leaderboard_markdown([record(stages=stages("gpu B")), full()]))
    assert (pruned["total"], pruned["of full"]) == ("3.3 min", "5.71%")


def test_rows_of_one_label_are_told_apart_by_the_plugins_code() -> None:
    def run(part: str, sha256: str, **facts: Any) -> Record:
        return record(run=sha256, config={"plugins": {part: sha256 * 8}}, **facts)

    def shown(*runs: Record) -> list[tuple[str, str]]:
        return [(row["method"], row["backbone"]) for row in cells(leaderboard_markdown(runs))]

    assert shown(run("method", "0123456789")) == [("dealrec", "bigrec")]
    assert shown(run("method", "0123456789"), run("method", "9876543210"), record(method="random", config={})) == [
        ("dealrec (plugin=01234567)", "bigrec"),
        ("dealrec (plugin=98765432)", "bigrec"),
        ("random", "bigrec"),
    ]
    assert shown(run("backbone", "0123456789"), run("surrogate", "9876543210")) == [
        ("dealrec", "bigrec (plugin=01234567)"),
        ("dealrec (surrogate.plugin=98765432)", "bigrec"),
    ]


def test_tables_are_per_budget_and_hold_references_and_bounds() -> None:
    runs = [
        record(),
        record(method="random", run="r"),
        record(budget=2048, share=0.04, run="more"),
        record(method="none", budget=0, share=0.0, config={}, run="zero"),
        record(method="none", backbone="popular", llm=None, budget=0, share=0.0, config={}, run="pop"),
        full(),
        full(backbone="sasrec", llm=None, run="sas"),
        record(backbone="tiger", llm=None, run="tiger"),
        record(method="none", backbone="tiger", llm=None, budget=0, share=0.0, config={}, run="random weights"),
        record(dataset=DatasetFacts(name="book", fingerprint="b"), run="book"),
    ]
    markdown = leaderboard_markdown(runs)
    titles = [line for line in markdown.splitlines() if line.startswith("## ")]
    assert titles == [
        "## book · bigrec · catalogue · 1,024 samples (2.24%)",
        "## games · bigrec · catalogue · 1,024 samples (2.24%)",
        "## games · bigrec · catalogue · 2,048 samples (4%)",
        "## games · tiger · 1,024 samples (2.24%)",
    ]
    tables = {title: cells(part) for title, part in zip(titles, markdown.split("\n## "), strict=True)}
    assert [(row["method"], row["backbone"], row["budget"]) for row in tables[titles[1]]] == [
        ("zero-shot", "bigrec", "0"),
        ("dealrec", "bigrec", "1,024"),
        ("random", "bigrec", "1,024"),
        ("full", "bigrec", "45,774"),
        ("–", "popular", "–"),
        ("full", "sasrec", "45,774"),
    ]
    assert [row["backbone"] for row in tables[titles[3]]] == ["tiger", "tiger", "popular", "sasrec"]
    assert [row["method"] for row in tables[titles[3]]] == ["untrained", "dealrec", "–", "full"]
    assert "R@50" in tables[titles[0]][0]
    assert leaderboard_markdown(reversed(runs)) == markdown


@pytest.mark.parametrize("references", [("popular", "sasrec"), ("sasrec",), ()])
def test_every_run_stands_in_a_table(references: tuple[str, ...]) -> None:
    runs = [
        record(),
        full(llm="other", run="bound"),
        *(record(backbone="sasrec", llm=None, budget=budget, share=budget / 45774) for budget in (512, 1024, 2048)),
        full(backbone="sasrec", llm=None),
        record(method="none", backbone="popular", llm=None, budget=0, share=0.0, config={}),
        record(backbone="sasrec", llm=None, dataset=DatasetFacts(name="book", fingerprint="b")),
    ]
    markdown = leaderboard_markdown(runs, references=references)
    listed = {(row["backbone"], row["budget"]) for row in cells(markdown)}
    assert {("bigrec", "1,024"), ("bigrec", "45,774"), ("popular", "–")} <= listed
    assert {("sasrec", budget) for budget in ("512", "1,024", "2,048", "45,774")} <= listed
    heads = {line.rsplit(" (", 1)[0].removeprefix("## ") for line in markdown.splitlines() if line.startswith("## ")}
    assert {"games · sasrec · 512 samples", "games · sasrec · 2,048 samples", "book · sasrec · 1,024 samples"} <= heads
    assert ("games · sasrec · 1,024 samples" in heads) == ("sasrec" not in references)


def test_references_alone_still_make_a_table() -> None:
    runs = [
        record(method="none", backbone="popular", llm=None, budget=0, share=0.0, run="pop"),
        full(backbone="sasrec", llm=None),
    ]
    assert {row["backbone"] for row in cells(leaderboard_markdown(runs))} == {"popular", "sasrec"}
    assert leaderboard_markdown([]) == "No runs yet.\n"


def test_noise_is_shown_where_it_is_known() -> None:
    noisy = record(selection=SelectionFacts(count=4, noise_share=0.25))
    assert cells(leaderboard_markdown([noisy]))[0]["noise kept"] == "25%"
    assert "noise kept" not in leaderboard_markdown([record()])


@given(st.text(min_size=1))
def test_no_name_breaks_out_of_its_cell(name: str) -> None:
    markdown = leaderboard_markdown([record(method=name, dataset=DatasetFacts(name=name, fingerprint=name))])
    assert len(cells(markdown)) == 1
    assert not set("<>") & set(markdown)
    assert len(markdown.splitlines()) == len(leaderboard_markdown([record()]).splitlines())


def test_markup_in_names_is_shown_not_obeyed() -> None:
    markdown = leaderboard_markdown([record(method="a|b\n<script>[x](javascript:1)\x1b[31m`*")])
    assert "a&#124;b &lt;script&gt;&#91;x&#93;(javascript:1) &#91;31m&#96;&#42;" in markdown


def test_columns_line_up_as_plain_text() -> None:
    lines = [line for line in leaderboard_markdown([record(), full()]).splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1


def test_the_papers_figures() -> None:
    def figures(dataset: str = "games", lam: float | None = None, **facts: Any) -> dict[str, float]:
        users, items = {"microlens-50k": (49887, 19217), "mini": (3000, 600)}.get(dataset, (49156, 17332))
        named = DatasetFacts(name=dataset, fingerprint="ours", counts={"users": users, "items": items})
        config = {"method": {} if lam is None else {"lam": lam}}
        return paper_figures.figures(record(**{"dataset": named, "config": config, **facts}))

    assert figures(lam=0.3)["R@10"] == 0.0181
    assert figures(method="full", budget=45774, share=1.0)["N@20"] == 0.0120
    assert figures("microlens-50k", method="el2n") == {"R@50": 0.0045, "N@50": 0.0016}
    assert figures("microlens-50k", 1.0, backbone="tiger", changes={"method.lam": 1.0})["R@20"] == 0.0058
    assert figures("microlens-50k", 0.3, backbone="tiger") == {}
    assert figures(budget=512) == {}
    assert figures(method="full", budget=1024) == {}
    assert figures("mini") == {}
    assert figures(changes={"method.use_effort": False}) == {}


@pytest.mark.parametrize(("method", "recall"), [("dealrec", 0.0211), ("ccs", None)])
def test_the_papers_figures_with_another_surrogate(method: str, recall: float | None) -> None:
    config = {"method": {"lam": 0.3}, "surrogate": {"name": "dcrec"}}
    assert paper_figures.figures(record(method=method, config=config)).get("R@10") == recall


def test_the_papers_figures_are_for_its_test_split_and_its_data() -> None:
    assert paper_figures.figures(record())["R@10"] == 0.0181
    valid = Protocol(split="valid", cutoffs=[10], users_evaluated=9)
    assert paper_figures.figures(record(protocol=valid)) == {}
    for counts in ({}, {"users": 49156}, {"users": 49156, "items": 17331}):
        namesake = DatasetFacts(name="games", fingerprint="other", counts=counts)
        assert paper_figures.figures(record(dataset=namesake)) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1.0 min"), (3596, "59.9 min"), (132732, "36.87 h")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
