"""Users by how hard they are: losses against one target at a time, groups of equal size, figures within each."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import board_world
import numpy as np
import pytest
import torch
from counted import PLUGIN, install_counted
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console
from scipy import stats
from tiny_llm import TITLES, TinyResources, make_dataset, make_llm
from tiny_tiger import DATASET as WALKS
from tiny_tiger import backbone as tiger
from tiny_tiger import fit as fit_tiger
from tiny_tiger import random_ids

from prunebench.benchmark import user_losses as losses_module
from prunebench.benchmark.config import Choices, Seeds
from prunebench.benchmark.harness import Harness
from prunebench.benchmark.progress import ConsoleReporter
from prunebench.benchmark.store import Artefact
from prunebench.benchmark.user_losses import user_losses
from prunebench.benchmark.workbench import Workbench
from prunebench.datasets.schema import Queries, Sequences
from prunebench.leaderboard import group_plots
from prunebench.leaderboard.board import Run
from prunebench.leaderboard.group_layouts import by_group
from prunebench.leaderboard.per_user import PerUser
from prunebench.leaderboard.pictures import BITMAP, DARK, LIGHT
from prunebench.leaderboard.record import RecordError
from prunebench.leaderboard.reproduction_page import Panel
from prunebench.leaderboard.statistics import holm
from prunebench.leaderboard.user_groups import (
    GROUPS,
    UserGroups,
    UserLosses,
    mean_losses,
    thirds,
    user_groups,
)
from prunebench.recommenders.base import HasTargetLosses, RecommenderError
from prunebench.recommenders.bigrec.backbone import BIGRec, FittedBIGRec
from prunebench.recommenders.bigrec.config import BIGRecConfig, LoRA
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.backbone import FittedTIGER
from prunebench.recommenders.tiger.model import hashed

RUNTIME = Runtime(seed=3)


def pairs(queries: Queries, longest: int | None = None) -> tuple[np.ndarray, Sequences, np.ndarray]:
    """Users, histories and targets, a row for each target; also an empty history, and a long one."""
    rows = queries.targets.rows_of_items()
    histories = [list(queries.histories[row]) for row in rows]
    histories[0] = []
    histories[1] = [number % queries.dataset.n_items for number in range(12)]
    return queries.users[rows], Sequences.from_rows(histories), queries.targets.items.copy()


# -- what a model says -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bigrec(tmp_path_factory: pytest.TempPathFactory) -> FittedBIGRec:
    torch.set_num_threads(1)
    config = BIGRecConfig(
        template="compact", lr=1e-2, batch=8, micro_batch=4, max_steps=6, eval_every=3, lora=LoRA(r=4),
        cutoff=24, max_new_tokens=9, batch_tokens=100, loss_on="all",
    )  # fmt: skip
    dataset = make_dataset()
    made = BIGRec(config, TinyResources(dataset, make_llm(tmp_path_factory.mktemp("llm"))))
    return made.fit(dataset.samples(), dataset.queries("valid"), RUNTIME, tmp_path_factory.mktemp("fit"))


@torch.inference_mode()
def bigrec_loss(fitted: FittedBIGRec, history: np.ndarray, target: int) -> float:
    """Of one target, token by token, after the tokens inference would go on from."""
    tokenizer, config = fitted.backbone.tokenizer, fitted.backbone.config
    prompt = fitted.builder.without_answers(Sequences.from_rows([history.tolist()]), config.max_new_tokens).tokens(0)
    answer = [*tokenizer(TITLES[target], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    written, loss = prompt.tolist(), 0.0
    for token in answer:
        said = fitted.model(input_ids=torch.tensor([written])).logits[0, -1]
        loss -= float(said.double().log_softmax(-1)[token])
        written.append(token)
    return loss


def test_bigrecs_losses_are_those_of_one_target_at_a_time(bigrec: FittedBIGRec) -> None:
    users, histories, targets = pairs(bigrec.backbone.resources.dataset.queries("test"))
    assert isinstance(bigrec, HasTargetLosses)
    said = bigrec.target_losses(users, histories, targets, RUNTIME)
    slow = [bigrec_loss(bigrec, history, target) for history, target in zip(histories, targets, strict=True)]
    assert said.dtype == np.float32
    np.testing.assert_allclose(said, slow, rtol=1e-5, atol=1e-5)
    shuffled = np.random.default_rng(0).permutation(len(users))
    again = bigrec.target_losses(users[shuffled], histories.take(shuffled), targets[shuffled], RUNTIME)
    np.testing.assert_allclose(again, said[shuffled], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def tiger_loss(fitted: FittedTIGER, user: int, history: np.ndarray, target: int) -> float:
    """Of one target, code by code, by the decoder fed what came before."""
    made, ids = fitted.backbone, fitted.backbone.ids
    recent = history[-made.config.max_history :].tolist()
    codes = ids.spell(Sequences.from_rows([recent])).items.tolist()
    if made.config.user_tokens:
        known = made.ids.vocabulary + int(hashed(np.array([user]), made.config.user_tokens)[0])
        codes = [known, *codes]
    written, loss = [0], 0.0
    for code in ids.tokens[target].tolist():
        said = fitted.model(input_ids=torch.tensor([codes or [0]]), decoder_input_ids=torch.tensor([written])).logits[
            0, -1
        ]
        loss -= float(said.double().log_softmax(-1)[code])
        written.append(code)
    return loss


@pytest.mark.parametrize("user_tokens", [0, 7])
def test_tigers_losses_are_those_of_one_target_at_a_time(user_tokens: int, tmp_path: Path) -> None:
    fitted = fit_tiger(tiger(random_ids(), user_tokens=user_tokens, max_steps=8, batch_tokens=20), tmp_path)
    users, histories, targets = pairs(WALKS.queries("test"))
    assert isinstance(fitted, HasTargetLosses)
    said = fitted.target_losses(users, histories, targets, RUNTIME)
    slow = [
        tiger_loss(fitted, user, history, target)
        for user, history, target in zip(users, histories, targets, strict=True)
    ]
    np.testing.assert_allclose(said, slow, rtol=1e-5, atol=1e-5)
    shuffled = np.random.default_rng(0).permutation(len(users))
    again = fitted.target_losses(users[shuffled], histories.take(shuffled), targets[shuffled], RUNTIME)
    np.testing.assert_allclose(again, said[shuffled], rtol=1e-5, atol=1e-5)


# -- an artefact of the store ------------------------------------------------------------------------------------------

SAYS_LOSSES = """

class Telling(Counted):
    '''Says a loss that follows from the user, the history and the target, and how many it was asked for.'''

    name = "telling"

    patience, asked = 100, []

    def effort(self, samples, runtime):
        return samples.ids.astype(np.float32)

    class Config(Counted.Config):
        wrong: str = ""

    def target_losses(self, users, histories, targets, runtime):
        if len(self.asked) >= self.patience:
            raise KeyboardInterrupt
        self.asked.append(len(users))
        losses = (users * 0.5 + histories.lengths * 10 + targets * 100).astype(np.float32)
        given = {"": losses, "few": losses[1:], "nan": losses * np.nan, "list": losses.tolist()}
        return given[self.config.wrong]
"""
TELLING = PLUGIN + SAYS_LOSSES


def prepared(folder: Path, backbone: str = "telling", **settings: str) -> tuple[Harness, Artefact]:
    if not (folder / "home").exists():
        install_counted(folder)
        (folder / "plug.py").write_text(TELLING)
    bench = Workbench(folder / "home", ConsoleReporter(Console(quiet=True), quiet=True), device="cpu")
    bench.load_plugin(folder / "plug.py")
    choices = Choices(method="random", backbone=backbone, dataset="tiny", budget="10")
    asked = tuple(f"backbone.{name}={value}" for name, value in settings.items())
    run, dataset, _ = bench.resolve(choices, asked, {}, Seeds())
    harness = bench.harness(run, dataset)
    return harness, harness.fit(harness.prune().selection.ids)


def test_a_users_loss_is_the_mean_over_its_targets(tmp_path: Path) -> None:
    harness, fitted = prepared(tmp_path)
    made = user_losses(harness, fitted)
    data = harness.dataset
    tested = [user for user in range(data.n_users) if len(data.test[user])]
    slow = [
        np.mean([user * 0.5 + 10 * (len(data.train[user]) + len(data.valid[user])) + 100 * t for t in data.test[user]])
        for user in tested
    ]
    assert made.users.tolist() == tested
    assert any(len(data.test[user]) > 1 for user in tested)
    np.testing.assert_allclose(made.losses, slow, rtol=1e-6)
    assert not made.artefact.hit
    assert user_losses(harness, fitted).artefact.hit
    assert made.artefact.upstream[0] == fitted.hash
    assert made.artefact.hash != harness.predict(fitted).hash


def test_losses_go_on_where_a_kill_left_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses_module, "CHUNK", 8)
    harness, fitted = prepared(tmp_path)
    kind = type(harness.backbone)
    monkeypatch.setattr(kind, "patience", 3)
    with pytest.raises(KeyboardInterrupt):
        user_losses(harness, fitted)
    assert kind.asked == [8, 8, 8]
    monkeypatch.setattr(kind, "patience", 100)
    made = user_losses(harness, fitted)
    assert sum(kind.asked) == len(harness.queries().targets.items)
    undisturbed = user_losses(*prepared(tmp_path / "other"))
    assert made.losses.tolist() == undisturbed.losses.tolist()


@pytest.mark.parametrize(
    ("backbone", "wrong", "said"),
    [
        ("counted", "", "backbone counted cannot say its losses"),
        ("telling", "few", r"target_losses gave float32 \[\d+\]; give float32 \[\d+\]"),
        ("telling", "list", "target_losses gave list"),
        ("telling", "nan", "loss of a user's target is nan"),
    ],
)
def test_what_is_no_loss_is_refused_in_one_line(tmp_path: Path, backbone: str, wrong: str, said: str) -> None:
    harness, fitted = prepared(tmp_path, backbone, **({"wrong": wrong} if wrong else {}))
    with pytest.raises(RecommenderError, match=said) as error:
        user_losses(harness, fitted)
    assert "\n" not in str(error.value)


# -- groups ------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(-3, 3)), max_size=40, unique_by=lambda one: one[0]),
    st.randoms(),
)
def test_groups_are_thirds_by_loss_and_then_by_id(given_users: list[tuple[int, int]], random: Any) -> None:
    users, losses = (np.array(column) for column in zip(*given_users, strict=True)) if given_users else ([], [])
    users, losses = np.asarray(users, np.int64), np.asarray(losses, np.float64)
    group = thirds(users, losses)
    sizes = np.bincount(group, minlength=3)
    assert len(sizes) == 3
    assert sizes.max() - sizes.min() <= 1
    in_order = [(loss, user) for loss, user in sorted(zip(losses.tolist(), users.tolist(), strict=True))]
    assert [group[users == user][0] for _, user in in_order] == sorted(group.tolist())
    shuffled = np.array(random.sample(range(len(users)), len(users)), np.int64)
    assert thirds(users[shuffled], losses[shuffled]).tolist() == group[shuffled].tolist()


def test_losses_are_means_over_runs_in_any_order() -> None:
    users = np.array([5, 1, 3])
    said = {"b": (users, np.array([3.0, 1.0, 2.0])), "a": (users[::-1], np.array([4.0, 0.5, 1.0000004]))}
    said["c"] = said["b"]
    made = mean_losses(said)
    assert made == mean_losses(dict(reversed(said.items())))
    assert (made.runs, made.users) == (["a", "b", "c"], [1, 3, 5])
    assert made.losses == [0.833333, 2.66667, 2.33333]
    with pytest.raises(RecordError, match="run b has losses of other users than run a"):
        mean_losses({"a": (users, np.zeros(3)), "b": (users + 1, np.zeros(3))})
    with pytest.raises(RecordError, match="2 users cannot be split"):
        mean_losses({"a": (users[:2], np.zeros(2))})
    with pytest.raises(RecordError, match="no run on random samples"):
        mean_losses({})
    for wrong in ({"users": [1, 3]}, {"users": [3, 1, 5]}, {"runs": []}):
        with pytest.raises(ValidationError):
            UserLosses.model_validate({**made.model_dump(), **wrong})


def world(methods: Iterable[str] = ("random", "dealrec"), seeds: int = 3) -> tuple[list[Run], UserLosses]:
    """Runs with a hit or none for each user by chance, more for dealrec; their users in an order of their own."""
    rng = np.random.default_rng(4)
    made = []
    for method, seed in itertools.product(methods, range(seeds)):
        run = board_world.run(method, 0.5, seed)
        users = rng.permutation(board_world.USERS)
        hits = {f"{letter}@{k}": rng.random(len(users)) for letter in "RN" for k in board_world.CUTOFFS}
        if method == "dealrec":
            hits = {name: values + 0.5 * (users >= 50) for name, values in hits.items()}
        made.append(replace(run, per_user=PerUser(users, dict.fromkeys(board_world.PROTOCOLS, hits))))
    losses = rng.permutation(board_world.USERS) / 7
    names = [run.record.run for run in made if run.record.method == "random"]
    return made, mean_losses({name: (np.arange(board_world.USERS), losses) for name in names})


def words(*groups: UserGroups) -> str:
    panel = {"dataset": "a", "theirs": "games", "same": False, "llms": [], "metrics": [], "lines": []}
    return "\n".join(by_group(Panel(**panel, groups=list(groups))))


def test_figures_are_those_of_each_groups_users() -> None:
    runs, losses = world()
    made = user_groups(runs, losses, resamples=200)
    in_order = sorted(range(board_world.USERS), key=lambda user: (losses.losses[user], user))
    members = [in_order[:34], in_order[34:67], in_order[67:]]
    assert [one.users for one in made.groups] == [34, 33, 33]
    assert [one.name for one in made.groups] == list(GROUPS)
    tested: dict[str, list[tuple[float, float]]] = {metric: [] for metric in made.metrics}
    for at, group in enumerate(members):
        own = [losses.losses[user] for user in group]
        assert (made.groups[at].low, made.groups[at].high) == (min(own), max(own))
        assert made.groups[at].mean == pytest.approx(np.mean(own), rel=1e-5)
        assert [made.group_of_user[user] for user in group] == [at] * len(group)
        for metric in made.metrics:
            by_method = {}
            for method in ("random", "dealrec"):
                by_seed = [
                    np.mean([run.per_user.values["unmasked"][metric][run.per_user.users == user] for user in group])
                    for run in runs
                    if run.record.method == method
                ]
                row = next(row for row in made.rows if row.method == method)
                figure = row.figures[at][metric]
                assert figure.mean == pytest.approx(np.mean(by_seed))
                assert figure.sd == pytest.approx(np.std(by_seed, ddof=1))
                by_method[method] = by_seed, figure
            gain = np.subtract(by_method["dealrec"][0], by_method["random"][0])
            against = by_method["dealrec"][1].to_random
            assert against is not None
            assert against.difference == pytest.approx(gain.mean())
            half = stats.t.ppf(0.975, 2) * gain.std(ddof=1) / np.sqrt(3)
            assert against.interval == pytest.approx((gain.mean() - half, gain.mean() + half))
            assert by_method["random"][1].to_random is None
            assert against.p is not None
            assert against.holm is not None
            tested[metric].append((against.p, against.holm))
    for found in tested.values():
        assert [adjusted for _, adjusted in found] == pytest.approx(holm([p for p, _ in found]))


def test_groups_can_be_made_again_from_what_is_published() -> None:
    runs, losses = world()
    made = user_groups(runs, losses, resamples=200)
    read = UserGroups.model_validate(json.loads(made.model_dump_json()))
    assert read == made
    assert user_groups(runs[::-1], read.losses, resamples=200) == made


def test_a_row_that_lacks_a_seed_says_so() -> None:
    runs, losses = world()
    made = user_groups([run for run in runs if run.record.method == "random" or run.record.seeds.finetune], losses, 200)
    row = next(row for row in made.rows if row.method == "dealrec")
    assert (row.seeds, row.lacks) == (2, 1)
    assert "| 2 of 3 |" in words(made)


def test_one_seed_has_figures_and_no_spread() -> None:
    runs, losses = world(seeds=1)
    made = user_groups(runs, losses, resamples=200)
    row = next(row for row in made.rows if row.method == "dealrec")
    assert all(one["R@10"].sd is None and one["R@10"].to_random is not None for one in row.figures)
    assert "the loss of one model" in words(made)


def test_the_wrong_losses_are_refused() -> None:
    runs, losses = world()
    with pytest.raises(RecordError, match="no record of run"):
        user_groups([run for run in runs if run.record.run != losses.runs[0]], losses)
    fewer = UserLosses(runs=losses.runs, users=losses.users[1:], losses=losses.losses[1:])
    with pytest.raises(RecordError, match="evaluated on other users than there are losses of"):
        user_groups(runs, fewer)


def test_markdown_has_a_table_per_metric_and_no_markup_of_others() -> None:
    runs, losses = world(("random", "dealrec", "<script>|*x*"))
    made = user_groups(runs, losses, resamples=200)
    text = words(made)
    assert "<script>" not in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2 + len(made.metrics) == 6
    for table in tables[2:]:
        lines = table.strip().splitlines()
        assert len(lines) == 2 + 3
        assert len({line.count(" | ") for line in lines}) == 1
    figure = next(row for row in made.rows if row.method == "dealrec").figures[2]["R@10"]
    assert f"{figure.mean:.4f} ± {figure.sd:.4f}".replace("0.", ".") in text
    assert text.count("\\*") == sum(
        one[metric].to_random is not None and one[metric].to_random.certain
        for row in made.rows for one in row.figures for metric in made.metrics
    )  # fmt: skip
    assert "No groups yet" in words()


def test_the_picture_is_always_the_same_and_names_every_row() -> None:
    runs, losses = world(("random", "dealrec", "<script>"))
    made = user_groups(runs, losses, resamples=200)
    again = user_groups(runs[::-1], losses, resamples=200)
    drawn = {ending: group_plots.draw(made, ending) for ending in (LIGHT, DARK, BITMAP)}
    assert drawn == {ending: group_plots.draw(again, ending) for ending in drawn}
    assert len(set(drawn.values())) == 3
    assert b"<script>" not in drawn[LIGHT] + drawn[DARK]
    figure = next(row for row in made.rows if row.method == "dealrec").figures[2]["R@10"]
    assert "DEALRec: " in group_plots.alt(made)
    assert f"{figure.mean:.4f}".removeprefix("0") in group_plots.alt(made)
