"""Tables and figures of the paper from hand-made records: which runs belong, ours beside theirs, and the pages' exact text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from board_world import run, runs
from reproduction_world import PAIRS, everything, page, tables, wanted

from prunebench.leaderboard.board import Run, make_board
from prunebench.leaderboard.record import DatasetFacts, Seeds, StageBill, total
from prunebench.leaderboard.reproduction_layouts import fig4, fig5, fig7, markdown, table2, table3, table4
from prunebench.leaderboard.reproduction_page import Reproduction
from prunebench.leaderboard.reproduction_pictures import ENDINGS, pictures_of
from prunebench.leaderboard.reproductions import Wanted, find, fits
from prunebench.leaderboard.statistics import holm

GAMES = DatasetFacts(name="games", fingerprint="g", counts={"users": 49156, "items": 17332})

# -- which runs belong -------------------------------------------------------------------------------------------------

CONFIG = {"method": {"lam": 0.3, "groups": 50}, "backbone": {"lora": {"r": 8, "alpha": 16.0}}}
OURS = wanted("dealrec", config={**CONFIG, "surrogate": {"name": "sasrec", "d": 64}})


def test_a_run_belongs_where_nothing_that_both_name_differs() -> None:
    assert fits(OURS, run("dealrec", 0.5, config=CONFIG).record)
    # an older record lacks a setting, and one that needed no surrogate has no section for it
    assert fits(OURS, run("dealrec", 0.5, config={"method": {"lam": 0.3}}).record)
    assert fits(OURS, run("dealrec", 0.5, config={**CONFIG, "surrogate": {"name": "sasrec", "d": 64}}).record)


@pytest.mark.parametrize(
    "facts",
    [
        {"method": "random"},
        {"backbone": "tiger"},
        {"llm": None},
        {"budget": 11},
        {"dataset": DatasetFacts(name="b", fingerprint="1")},
        {"seed": 3},
        {"seeds": Seeds(signal=9, selection=0, finetune=0)},
        {"config": {"method": {"lam": 1.0}}},
        {"config": {"backbone": {"lora": {"r": 16}}}},
        {"config": {"backbone": {"lora": 8}}},
        {"config": {"surrogate": {"name": "bert4rec"}}},
        {"config": {"plugins": {"method": "beef"}}},
    ],
)
def test_any_other_run_does_not(facts: dict[str, Any]) -> None:
    assert not fits(OURS, run(facts.pop("method", "dealrec"), 0.5, **facts).record)


def test_of_equal_seeds_the_last_counts_and_of_configurations_the_one_with_most_of_them() -> None:
    old = [
        run("random", 0.1, seed, config={"backbone": {"old": 1}}, finished=when) for seed, when in ((0, "0"), (1, "3"))
    ]
    new = [run("random", 0.2, seed, config={"backbone": {"new": 1}}, finished="1") for seed in (0, 1, 2)]
    again = run("random", 0.9, 2, config={"backbone": {"new": 1}}, finished="2", run="again")
    found = find([wanted("random")], [again, *old, *new], resamples=200)
    assert found.rows[0].runs == {(0, 0): new[0], (1, 1): new[1], (2, 2): again}
    assert (found.there, found.wanted) == (3, 3)


def test_runs_on_other_content_of_a_data_set_are_left_out() -> None:
    other = DatasetFacts(name="a", fingerprint="2")
    mixed = [*runs("random", [0.3, 0.3]), *runs("dealrec", [0.4, 0.4]), run("random", 0.6, 2, dataset=other)]
    mixed += [run("dealrec", 0.9, 2, dataset=other, finished="9")]
    found = find([wanted("random"), wanted("dealrec")], mixed, resamples=200)
    assert [row.record.dataset.fingerprint for one in found.rows for row in one.runs.values()] == ["1"] * 4


def test_figures_are_those_of_a_board_of_the_same_runs() -> None:
    made = [*runs("random", [0.4, 0.45, 0.42]), *runs("dealrec", [0.6, 0.68, 0.7]), *runs("ccs", [0.5, 0.4, 0.6])]
    made += everything([0.8, 0.82, 0.84])
    rows = [wanted(name) for name in ("random", "dealrec", "ccs")] + [
        wanted("full", budget=100, share=1.0, usual=False)
    ]
    found = find(rows, made, resamples=200)
    (table,) = make_board(made, resamples=200).tables
    by_method = {row.method: row for row in table.rows}
    for row in found.rows:
        theirs = by_method[row.wanted.method]
        assert row.cost["total_s"] == theirs.costs.total_s == 9.5
        for metric, figure in row.figures.items():
            board = theirs.metrics["unmasked"][metric]
            assert (figure.mean, figure.sd) == (board.mean, board.sd)
            assert (figure.to_random is None) == (board.to_random is None)
            if figure.to_random and board.to_random:
                assert figure.to_random.interval == board.to_random.interval
                assert figure.to_random.holm == board.to_random.holm
                assert figure.to_random.certain == board.to_random.certain


# -- pages -------------------------------------------------------------------------------------------------------------


def test_table_2_on_the_papers_data() -> None:
    made = [*runs("random", [0.4, 0.41, 0.42], dataset=GAMES), *runs("dealrec", [0.8, 0.81, 0.82], dataset=GAMES)]
    made += [run("random", 0.5, 0, backbone="tiger", dataset=GAMES, llm=None)]
    on = {"dataset": "games"}
    rows = [wanted("random", **on), wanted("dealrec", **on), wanted("ccs", backbone="tiger", llm=None, **on)]
    rows += [wanted("random", backbone="tiger", llm=None, **on)]
    text = markdown(page("table2", rows, made), table2)
    assert text.startswith(
        "# A title\n\nMade by `bench reproduce table2`. 7 of 12 runs are there; a dash stands for what is missing.\n\n"
        "## Games · catalogue · 10 samples\n\n"
    )
    assert tables(text) == (
        "| backbone | method | seeds | R@10 | paper | difference | R@20 | paper | difference | N@10 | paper | difference | N@20 | paper | difference |\n"
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n"
        "| BIGRec | Random | 3 | .4100 ± .0100 | .0163 | +.3937 | .4100 ± .0100 | .0241 | +.3859 | .4100 ± .0100 | .0100 | +.4000 | .4100 ± .0100 | .0122 | +.3978 |\n"
        "| BIGRec | DEALRec | 3 | **.8100 ± .0100**\\* | **.0181** | +.7919 | **.8100 ± .0100**\\* | **.0276** | +.7824 | **.8100 ± .0100**\\* | **.0115** | +.7985 | **.8100 ± .0100**\\* | **.0142** | +.7958 |\n"
        "| TIGER | CCS | 0 of 3 | – | .0050 | – | – | .0084 | – | – | .0031 | – | – | .0041 | – |\n"
        "| TIGER | Random | 1 of 3 | .5000 | **.0062** | +.4938 | .5000 | **.0102** | +.4898 | .5000 | **.0039** | +.4961 | .5000 | **.0051** | +.4949 |\n"
        "\nHigher than Random by, in percent of it:\n\n"
        "| backbone | method | R@10 | paper | R@20 | paper | N@10 | paper | N@20 | paper |\n"
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n"
        "| BIGRec | DEALRec | +97.6%\\* | +11.0% | +97.6%\\* | +14.5% | +97.6%\\* | +15.0% | +97.6%\\* | +16.4% |\n"
        "| TIGER | CCS | – | −19.4% | – | −17.6% | – | −20.5% | – | −19.6% |\n"
    )
    assert "is not the paper's" not in text


def test_elsewhere_games_stands_beside_and_nothing_is_subtracted() -> None:
    made = page("table2", [wanted("random"), wanted("dealrec")], [*runs("random", [0.5]), *runs("dealrec", [0.4])])
    text = markdown(made, table2)
    assert "| Random | 1 of 3 | .5000 | .0163 | .5000 |" in text
    assert "| DEALRec | −20.0% | +11.0% |" in text
    assert "a is not the paper's: beside it stand its figures for Games." in text
    assert "difference |" not in text
    assert all(score.difference is None for line in made.panels[0].lines for score in line.scores.values())


def test_a_data_set_of_the_papers_name_is_not_yet_its() -> None:
    other = DatasetFacts(name="games", fingerprint="g", counts={"users": 9, "items": 9})
    text = markdown(page("table2", [wanted("random", dataset="games")], runs("random", [0.5], dataset=other)), table2)
    assert "games is not the paper's: beside it stand its figures for Games." in text
    assert "difference |" not in text


def test_p_values_are_adjusted_for_all_budgets_of_the_page() -> None:
    means = {10: ([0.30, 0.33, 0.31], [0.36, 0.41, 0.44]), 20: ([0.32, 0.31, 0.36], [0.52, 0.51, 0.58])}
    rows, made = [], []
    for budget, both in means.items():
        size: dict[str, Any] = {"budget": budget, "share": budget / 100}
        for method, own in zip(("random", "dealrec"), both, strict=True):
            rows.append(wanted(method, **size, usual=budget == 10))
            made += runs(method, own, **size)
    found = [row.figures["R@10"].to_random for row in find(rows, made, resamples=200).rows]
    tested = [(one.p, one.holm) for one in found if one is not None]
    assert len(tested) == 2
    assert [adjusted for _, adjusted in tested] == pytest.approx(holm([p or 0.0 for p, _ in tested]))
    assert any(adjusted != p for p, adjusted in tested)


def test_a_gain_is_over_the_seeds_that_both_have() -> None:
    made = [*runs("random", [0.2, 0.4, 0.8]), run("dealrec", 0.6, 1)]
    score = page("table2", [wanted("random"), wanted("dealrec")], made).panels[0].lines[1].scores["R@10"]
    assert score.gain == pytest.approx(0.6 / 0.4 - 1)


def test_the_best_is_told_only_where_no_run_is_missing() -> None:
    rows = [wanted("random"), wanted("dealrec"), wanted("full", budget=100, share=1.0, usual=False)]
    whole = page("table2", rows, [*runs("random", [0.5] * 3), *runs("dealrec", [0.4] * 3), *everything([0.9] * 3)])
    assert [line.scores["R@10"].best for line in whole.panels[0].lines] == [True, False, False]
    assert "_.5000 ± .0000_" in markdown(whole, table2)
    part = page("table2", rows, [*runs("random", [0.5] * 3), *runs("dealrec", [0.4] * 2), *everything([0.9] * 3)])
    assert [line.scores["R@10"].best for line in part.panels[0].lines] == [None, None, False]


def test_what_the_paper_has_not_is_not_beside() -> None:
    rows = [
        wanted("dealrec"),
        wanted("dealrec", budget=5, usual=False),
        wanted("dealrec", asked={"method.use_effort": False}),
        wanted("dealrec", asked={"method.lam": 0.3}, config={"method": {"lam": 0.3}}),
        wanted("dealrec", asked={"method.lam": 1}, config={"method": {"lam": 1.0}}),
        wanted("full", budget=100, share=1.0, usual=False, asked={"backbone.max_steps": 9}),
        wanted("dealrec", surrogate="gru4rec"),
        wanted("goracs"),
    ]
    found = [line.scores["R@10"].theirs for line in page("fig5", rows, []).panels[0].lines]
    assert found == [0.0181, None, None, 0.0181, None, 0.0169, None, None]


def stage(name: str, seconds: float, phase: Any = "pruning", device: str = "cpu A, 2 cores") -> StageBill:
    return StageBill(stage=name, hash=name, phase=phase, wall_s=seconds, cpu_s=1, peak_rss_mb=1, device=device)


def test_table_3_has_hours_and_the_improvement_in_both() -> None:
    bill = [stage("fit", 100.0, "fine-tuning")]
    made = [*everything([0.5, 0.5, 0.5], bill=bill, totals=total(bill)), *runs("dealrec", [0.6, 0.6, 0.6])]
    rows = [wanted("dealrec"), wanted("full", budget=100, share=1.0, usual=False)]
    text = tables(markdown(page("table3", rows, made, "full"), table3))
    assert (
        text
        == (
            "|  | method | seeds | R@10 | R@20 | N@10 | N@20 | time |\n"
            "| --- | --- | --: | --: | --: | --: | --: | --: |\n"
            "| ours | Full | 3 | .5000 ± .0000 | .5000 ± .0000 | .5000 ± .0000 | .5000 ± .0000 | 1.7 min |\n"
            "| ours | DEALRec | 3 | **.6000 ± .0000**\\* | **.6000 ± .0000**\\* | **.6000 ± .0000**\\* | **.6000 ± .0000**\\* | 9.5 s |\n"
            "| ours | % improvement |  | +20.0%\\* | +20.0%\\* | +20.0%\\* | +20.0%\\* | −90.5% |\n"
            "| paper | Full | – | .0169 | .0233 | .0102 | .0120 | 36.87 h |\n"
            "| paper | DEALRec | – | **.0181** | **.0276** | **.0115** | **.0142** | 1.67 h |\n"
            "| paper | % improvement |  | +7.1% | +18.5% | +12.7% | +18.3% | −95.5% |\n"
        ).rstrip("\n")
        + "\n"
    )


def test_times_of_different_hardware_are_not_compared() -> None:
    bill = [stage("fit", 100.0, "fine-tuning", "gpu B")]
    made = [*everything([0.5], bill=bill, totals=total(bill)), *runs("dealrec", [0.6])]
    rows = [wanted("dealrec"), wanted("full", budget=100, share=1.0, usual=False)]
    text = markdown(page("table3", rows, made, "full"), table3)
    assert "| ours | % improvement |  | +20.0% | +20.0% | +20.0% | +20.0% | – |" in text


def with_surrogate(name: str, seconds: float) -> list[Run]:
    bill = [stage("surrogate", seconds), stage("fit", 5.0, "fine-tuning")]
    return runs("dealrec", [0.5] * 3, config={"surrogate": {"name": name}}, bill=bill, totals=total(bill))


def test_a_surrogate_that_one_run_did_not_pay_for_has_no_mean_time() -> None:
    row = wanted("dealrec", surrogate="sasrec", config={"surrogate": {"name": "sasrec"}})
    made = with_surrogate("sasrec", 90.0)
    bill = [stage("fit", 5.0, "fine-tuning")]
    made[1] = run("dealrec", 0.5, 1, config={"surrogate": {"name": "sasrec"}}, bill=bill, totals=total(bill))
    (line,) = page("table4", [row], made, "full").panels[0].lines
    assert line.surrogate_s is None


def test_a_mean_is_of_runs_that_all_have_the_metric() -> None:
    (row,) = find([wanted("random")], runs("random", [0.4, 0.5, 0.5]), resamples=200).rows
    assert row.mean("R@10", PAIRS[:2]) == pytest.approx(0.45)
    assert row.mean("R@50", PAIRS) is None
    metrics = dict(row.runs[1, 1].record.metrics)
    short = metrics["unmasked"].model_copy(update={"recall": {"20": 0.5}})
    other = replace(
        row.runs[1, 1], record=row.runs[1, 1].record.model_copy(update={"metrics": metrics | {"unmasked": short}})
    )
    lacking = replace(row, runs={**row.runs, (1, 1): other})
    assert lacking.mean("R@10", PAIRS) is None
    assert lacking.mean("R@10", [PAIRS[0], PAIRS[2]]) == pytest.approx(0.45)


def test_table_4_has_the_surrogates_in_order_and_what_they_took() -> None:
    rows = [
        wanted("dealrec", surrogate=name, config={"surrogate": {"name": name}})
        for name in ("dcrec", "sasrec", "bert4rec")
    ]
    rows.append(wanted("full", budget=100, share=1.0, usual=False))
    made = [*with_surrogate("sasrec", 90.0), *with_surrogate("bert4rec", 30.0), *everything([0.4] * 3)]
    lines = tables(markdown(page("table4", rows, made, "full"), table4)).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:6]]
    assert [(one[0], one[1], one[3], one[-2], one[-1]) for one in cells] == [
        ("none: full fine-tuning", "3", ".0169", "–", "–"),
        ("BERT4Rec", "3", ".0175", "30.0 s", "0.76 h"),
        ("SASRec", "3", ".0181", "1.5 min", "0.45 h"),
        ("DCRec", "0 of 3", "**.0211**", "–", "0.61 h"),
    ]


ABLATIONS = [{"method.selection": "greedy"}, {}, {"method.use_effort": False}, {"method.use_influence": False}]


def ablations(names: list[dict[str, Any]]) -> tuple[list[Wanted], list[Run]]:
    def settings(asked: dict[str, Any]) -> dict[str, Any]:
        base = {"selection": "coverage", "use_effort": True, "use_influence": True}
        return {"method": base | {key.removeprefix("method."): value for key, value in asked.items()}}

    rows = [wanted("full", budget=100, share=1.0, usual=False), wanted("random")]
    rows += [wanted("dealrec", asked=asked, config=settings(asked)) for asked in names]
    made = [run_ for asked in names for run_ in runs("dealrec", [0.5, 0.6, 0.7], config=settings(asked))]
    return rows, [*made, *runs("random", [0.4, 0.5, 0.5]), *everything([0.9, 0.8, 0.8])]


def test_figure_4_has_the_parts_in_the_papers_order_and_bars() -> None:
    made = page("fig4", *ablations(ABLATIONS))
    lines = tables(markdown(made, fig4)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:8]] == [
        "DEALRec",
        "w/o influence",
        "w/o effort",
        "greedy",
        "Random",
        "Full",
    ]
    (picture,) = pictures_of(made)
    assert picture.name == "fig4"
    assert picture.alt.startswith(
        "Bars. R@10: DEALRec .6000, w/o influence .6000, w/o effort .6000, greedy .6000, Random"
    )
    first = {ending: picture.draw(ending) for ending in ENDINGS}
    assert first == {ending: picture.draw(ending) for ending in ENDINGS}
    assert first[".svg"] != first["-dark.svg"]
    assert first[".png"].startswith(b"\x89PNG")


def test_figure_5_goes_by_samples_and_all_the_data_is_a_level() -> None:
    rows = [wanted("dealrec", budget=budget, share=budget / 100, usual=budget == 10) for budget in (10, 2, 5)]
    rows += [wanted("random", budget=budget, share=budget / 100, usual=budget == 10) for budget in (10, 2, 5)]
    rows.append(wanted("full", budget=100, share=1.0, usual=False))
    made = [
        one
        for row in rows[:6]
        if row.budget != 5
        for one in runs(row.method, [0.1 * row.budget / 2] * 3, budget=row.budget)
    ]
    made += everything([0.9] * 3)
    drawn = page("fig5", rows, made)
    lines = tables(markdown(drawn, fig5)).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines[2:9]]
    assert cells == [
        ["2 (2%)", "DEALRec", "3"],
        ["2 (2%)", "Random", "3"],
        ["5 (5%)", "DEALRec", "0 of 3"],
        ["5 (5%)", "Random", "0 of 3"],
        ["10 (10%)", "DEALRec", "3"],
        ["10 (10%)", "Random", "3"],
        ["100 (100%)", "Full", "3"],
    ]
    (picture,) = pictures_of(drawn)
    assert picture.alt == (
        "R@10. DEALRec: .1000 with 2, .5000 with 10; Random: .1000 with 2, .5000 with 10; Full: .9000."
    )
    assert picture.draw(".svg") == picture.draw(".svg")
    # all the data are read against random at the usual budget: .9 is 80% above .5
    assert "| 100 (100%) | Full | +80.0%" in markdown(drawn, fig5)


def test_figure_7_goes_by_lambda() -> None:
    weights = [0.1, 0.3, 2]
    rows = [wanted("dealrec", asked={"method.lam": lam}, config={"method": {"lam": lam}}) for lam in weights]
    made = [one for lam in weights[1:] for one in runs("dealrec", [lam / 4] * 3, config={"method": {"lam": lam}})]
    drawn = page("fig7", [*rows, wanted("random")], [*made, *runs("random", [0.3] * 3)])
    lines = tables(markdown(drawn, fig7)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:6]] == ["0.1", "0.3", "2", "Random"]
    (picture,) = pictures_of(drawn)
    assert picture.alt == "R@10: .0800 at λ = 0.3, .5000 at λ = 2; N@10: .0800 at λ = 0.3, .5000 at λ = 2."
    assert picture.draw(".png") == picture.draw(".png")


@pytest.mark.parametrize("name", ["fig4", "fig5", "fig6", "fig7", "table2"])
def test_nothing_is_drawn_of_nothing(name: str) -> None:
    assert pictures_of(page(name, [wanted("dealrec"), wanted("random")], [])) == []


def test_a_picture_per_backbone_where_there_are_several() -> None:
    rows, made = ablations([{}])
    tigers = [row.model_copy(update={"backbone": "tiger"}) for row in rows]
    made += runs("dealrec", [0.2], backbone="tiger", config={"method": {"use_effort": True}})
    names = [picture.name for picture in pictures_of(page("fig4", [*rows, *tigers], made))]
    assert names == ["fig4-a-bigrec", "fig4-a-tiger"]


def test_names_from_records_are_plain_text() -> None:
    rows = [wanted("<b>|x", llm="a|b"), wanted("random", llm="a|b")]
    made = [*runs("<b>|x", [0.5] * 3, llm="a|b"), *runs("random", [0.5] * 3, llm="a|b")]
    text = markdown(page("fig4", rows, made), fig4)
    assert "&lt;b&gt;&#124;x" in text
    assert "a&#124;b" in text
    assert "<b>" not in text


def test_users_that_differ_are_refused() -> None:
    other = run("dealrec", 0.5, 0, users=np.arange(100) + 7)
    with pytest.raises(Exception, match="has other users"):
        find([wanted("random"), wanted("dealrec")], [*runs("random", [0.5]), other], resamples=200)


def test_a_page_is_read_back() -> None:
    made = page("fig4", *ablations([{}]))
    assert Reproduction.model_validate_json(made.model_dump_json()) == made
