"""SASRec: windows, negatives, losses against naive formulas, invariances, early stopping, save and load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prunebench.datasets.schema import Queries, RecDataset, Samples, Sequences
from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.runtime import Cancelled, Runtime
from prunebench.recommenders.surrogates import layers
from prunebench.recommenders.surrogates import losses as surrogate_losses
from prunebench.recommenders.surrogates.attention import layer_name
from prunebench.recommenders.surrogates.base import WEIGHTS
from prunebench.recommenders.surrogates.config import SASRecConfig
from prunebench.recommenders.surrogates.layers import Pass, make_dropout, no_dropout
from prunebench.recommenders.surrogates.sasrec import SASRec
from prunebench.recommenders.surrogates.training import validation_loss
from prunebench.recommenders.surrogates.windows import Examples, Windows

N_ITEMS = 40
SMALL = SASRecConfig(d=8, max_length=6, dropout=0.0, batch_size=16, epochs=3)


def make_dataset(users: int = 60, seed: int = 0) -> RecDataset:
    """Users walk over items in steps of one, with noise, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    rows = [(rng.integers(N_ITEMS) + np.arange(rng.integers(1, 12))) % N_ITEMS for _ in range(users)]
    ahead = [[int(row[-1] + 1) % N_ITEMS] for row in rows]
    titles = tuple(f"item {i}" for i in range(N_ITEMS))
    as_rows = [row.tolist() for row in rows]
    return RecDataset(
        "walk", titles, Sequences.from_rows(as_rows), Sequences.from_rows(ahead), Sequences.from_rows(ahead)
    )


def trained(config: SASRecConfig = SMALL, seed: int = 0) -> tuple[SASRec, Samples, Queries]:
    data = make_dataset()
    model = SASRec(config, N_ITEMS)
    model.fit(data.samples(), data.queries("valid"), Runtime(seed))
    return model, data.samples(), data.queries("valid")


def test_windows_are_the_last_pairs_of_each_sequence() -> None:
    windows = Windows.of(Sequences.from_rows([[1, 2, 3, 4, 5], [6], [7, 8]]), 3, 10)
    assert [row.tolist() for row in windows.inputs] == [[2, 3, 4], [], [7]]
    assert windows.targets.tolist() == [3, 4, 5, 8]
    assert windows.places.tolist() == [2, 3, 4, 1]


def test_negatives_depend_on_seed_id_and_place_only() -> None:
    samples = make_dataset().samples()
    windows = Windows.of(samples.sequences, 6, N_ITEMS)
    drawn = windows.negatives(samples.ids, 7)
    part = samples.take(samples.ids[10:20])
    there = Windows.of(part.sequences, 6, N_ITEMS).negatives(part.ids, 7)
    assert (drawn[windows.inputs.offsets[10] : windows.inputs.offsets[20]] == there).all()
    assert (drawn != windows.negatives(samples.ids, 8)).mean() > 0.8
    for row, sequence in enumerate(samples.sequences):
        assert not np.isin(drawn[windows.inputs.offsets[row] : windows.inputs.offsets[row + 1]], sequence).any()


def test_negatives_are_uniform() -> None:
    rows = Sequences.from_flat(np.zeros(40_000, np.int32), np.full(10_000, 4))
    drawn = Windows.of(rows, 6, 11).negatives(np.arange(10_000), 3)
    counts = np.bincount(drawn, minlength=11)[1:]
    expected = counts.sum() / 10
    assert ((counts - expected) ** 2 / expected).sum() < 27.9  # χ², 9 degrees of freedom, p = .001


def test_a_row_that_has_everything_still_gets_negatives() -> None:
    windows = Windows.of(Sequences.from_rows([[0, 1, 2]]), 6, 3)
    assert set(windows.negatives(np.array([5]), 0).tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_losses_equal_the_naive_formula(loss: str) -> None:
    model, samples, _ = trained(SMALL.model_copy(update={"loss": loss}))
    losses = model.losses(samples, Runtime(3))
    windows = Windows.of(samples.sequences, 6, N_ITEMS)
    negatives = windows.negatives(samples.ids, Runtime(3).derive("sasrec", "negatives"))
    items = torch.from_numpy(model.item_vectors())
    for row in (0, 1, 17, len(samples) - 1):
        start, stop = windows.inputs.offsets[row : row + 2]
        terms = []
        for place in range(start, stop):
            prefix = windows.inputs.items[start : place + 1]
            # A prefix keeps the position embeddings it has inside the whole window.
            hidden = _hidden(model, prefix, shift=stop - 1 - place)
            logits = items @ hidden
            if loss == "ce":
                terms.append(float(F.cross_entropy(logits[None], torch.tensor([int(windows.targets[place])]))))
            else:
                positive, negative = logits[windows.targets[place]], logits[negatives[place]]
                terms.append(-float(torch.log(positive.sigmoid() + 1e-24) + torch.log(1 - negative.sigmoid() + 1e-24)))
        assert losses[row] == pytest.approx(np.mean(terms), rel=1e-4)


def _hidden(model: SASRec, prefix: np.ndarray, shift: int) -> torch.Tensor:
    """Last output of a prefix by an attention written out per head, at positions ``shift`` left of the window's end."""
    p, c = model.parameters, model.config
    length = len(prefix)
    position = p["position_embeddings.weight"][c.max_length - length - shift : c.max_length - shift]
    x = layers.layer_norm(
        p, p["item_embeddings.weight"][torch.from_numpy(prefix.astype(np.int64)) + 1] + position, "LayerNorm"
    )
    for number in range(c.layers):
        layer = layer_name(number)
        query, key, value = (
            F.linear(x, p[f"{layer}.attention.{n}.weight"], p[f"{layer}.attention.{n}.bias"])
            for n in ("query", "key", "value")
        )
        width = c.d // c.heads
        parts = []
        for head in range(c.heads):
            span = slice(head * width, (head + 1) * width)
            scores = query[:, span] @ key[:, span].T / width**0.5
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
            parts.append(scores.softmax(1) @ value[:, span])
        finish = model.steps[2 + 2 * number]
        (x,) = finish(p, (torch.cat(parts, 1), x), Pass(torch.ones(1, length, dtype=torch.bool)))
    return x[-1]


def test_padding_and_batch_composition_change_nothing() -> None:
    model, samples, queries = trained()
    together = model.user_vectors(queries.histories, Runtime())
    alone = np.concatenate(
        [model.user_vectors(queries.histories.take([row]), Runtime()) for row in range(len(queries))]
    )
    assert np.allclose(together, alone, rtol=1e-4, atol=1e-6)
    windows = Windows.of(samples.sequences, 6, N_ITEMS)
    examples, rows, cpu = Examples.of(windows, windows.negatives(samples.ids, 0)), np.arange(10), torch.device("cpu")
    narrow = model.training_loss(model.parameters, examples.batch(rows, cpu), no_dropout)
    wide = model.training_loss(model.parameters, examples.batch(rows, cpu, width=6), no_dropout)
    assert float(narrow) == pytest.approx(float(wide), rel=1e-5)


def test_the_future_is_not_seen() -> None:
    model, _, _ = trained()
    items = model.parameters["item_embeddings.weight"]
    given = Pass(torch.ones(1, 3, dtype=torch.bool))
    inputs = [items[torch.tensor([ids])] for ids in ([2, 3, 4], [2, 3, 10])]
    first, second = (model.run(model.parameters, (x,), given)[0] for x in inputs)
    assert torch.equal(first[:, :2], second[:, :2])
    assert not torch.allclose(first[:, 2], second[:, 2])


def test_chunked_cross_entropy_has_the_plain_ones_value_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate_losses._SummedCrossEntropy, "CELLS", 200)
    make = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 8, generator=make, dtype=torch.float64, requires_grad=True)
    items = torch.randn(21, 8, generator=make, dtype=torch.float64, requires_grad=True)
    target, weight = torch.randint(1, 21, (37,), generator=make), torch.rand(37, generator=make, dtype=torch.float64)
    plain = (F.cross_entropy(hidden @ items[1:].T, target - 1, reduction="none") * weight).sum()
    chunked = surrogate_losses.summed_cross_entropy(hidden, items, target, weight)
    assert plain.item() == pytest.approx(chunked.item(), rel=1e-12)
    for a, b in zip(
        torch.autograd.grad(3 * plain, [hidden, items]), torch.autograd.grad(3 * chunked, [hidden, items]), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-10)


def test_dropout_has_the_right_rate_and_mean_and_its_own_generator() -> None:
    state = torch.random.get_rng_state()
    dropped = make_dropout(0.25, torch.Generator().manual_seed(1))(torch.ones(100_003))
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert torch.equal(state, torch.random.get_rng_state())
    assert make_dropout(0, torch.Generator()) is no_dropout


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_training_learns_the_walk(loss: str) -> None:
    config = SMALL.model_copy(update={"d": 16, "loss": loss, "epochs": 60, "learning_rate": 1e-2, "patience": 60})
    model, _, queries = trained(config)
    best = model.scores(queries.histories, Runtime()).argsort(1)[:, ::-1][:, :3]
    hits = [target in row for target, row in zip(queries.targets.items, best, strict=True)]
    assert np.mean(hits) > 0.6  # by chance: 3 of 40
    assert model.report.samples == len(make_dataset().samples())


@pytest.mark.parametrize("stop_on", ["rank", "ndcg", "loss"])
def test_early_stopping_restores_the_best_epoch(stop_on: str) -> None:
    config = SMALL.model_copy(update={"epochs": 40, "learning_rate": 0.05, "patience": 3, "stop_on": stop_on})
    model, _, queries = trained(config)
    losses = np.array(model.report.valid_losses)
    assert len(losses) < 40
    assert len(losses) - 1 - losses.argmin() == 3
    restored = validation_loss(
        model.user_vectors(queries.histories, Runtime()),
        model.item_vectors(),
        queries,
        config,
        Runtime().derive("sasrec", "validation negatives"),
    )
    assert restored == pytest.approx(losses.min(), rel=1e-5)
    per_epoch = model.report.steps // len(losses)
    assert model.report.best_step == per_epoch * (losses.argmin() + 1)


def test_validation_rank_is_the_plain_one() -> None:
    model, _, queries = trained()
    scores = model.scores(queries.histories, Runtime())
    ranks = [(scores[row] >= scores[row, target]).sum() for row, target in enumerate(queries.targets.items)]
    value = validation_loss(model.user_vectors(queries.histories, Runtime()), model.item_vectors(), queries, SMALL, 0)
    assert value == pytest.approx(np.log(ranks).mean(), rel=1e-3)


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    written = []
    for number, seed in enumerate((0, 0, 1)):
        trained(SMALL.model_copy(update={"dropout": 0.5}), seed)[0].save(tmp_path / str(number))
        written.append((tmp_path / str(number) / WEIGHTS).read_bytes())
    assert written[0] == written[1] != written[2]


def test_item_numbers_are_labels_only() -> None:
    """The same sequences seen through permuted item ids and permuted weights give permuted scores."""
    model, _, queries = trained()
    order = np.random.default_rng(0).permutation(N_ITEMS)
    moved = SASRec(SMALL, N_ITEMS)
    weights = dict(model.parameters)
    items = weights["item_embeddings.weight"].clone()
    items[torch.from_numpy(order) + 1] = weights["item_embeddings.weight"][1:]
    moved.load_released({**weights, "item_embeddings.weight": items})
    renamed = Sequences(order[queries.histories.items].astype(np.int32), queries.histories.offsets)
    assert np.allclose(
        moved.scores(renamed, Runtime())[:, order], model.scores(queries.histories, Runtime()), rtol=1e-4, atol=1e-6
    )


def test_save_and_load(tmp_path: Path) -> None:
    model, _, queries = trained()
    model.save(tmp_path)
    again = SASRec.load(tmp_path, Runtime())
    assert again.config == model.config
    assert again.report == model.report
    assert (again.scores(queries.histories, Runtime()) == model.scores(queries.histories, Runtime())).all()
    (tmp_path / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(RecommenderError, match="no saved SASRec"):
        SASRec.load(tmp_path, Runtime())


def test_bad_input_is_named() -> None:
    data = make_dataset()
    model = SASRec(SMALL, N_ITEMS)
    with pytest.raises(RecommenderError, match="no weights yet"):
        model.scope("all")
    with pytest.raises(RecommenderError, match="no samples"):
        model.fit(data.samples().take(np.empty(0, np.int64)), data.queries("valid"), Runtime())
    with pytest.raises(RecommenderError, match="do not fit"):
        model.load_released({"item_embeddings.weight": torch.zeros(2, 8)})
    with pytest.raises(RecommenderError, match="block, last_layer or all"):
        trained()[0].scope("blok")
    with pytest.raises(ValueError, match="multiple of heads"):
        SASRecConfig(d=7)
    with pytest.raises(Cancelled):
        model.fit(data.samples(), data.queries("valid"), replace(Runtime(), cancelled=lambda: True))


def test_without_validation_users_every_epoch_is_trained_and_a_warning_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data, brief = make_dataset(), SMALL.model_copy(update={"epochs": 2})
    one, other = SASRec(brief, N_ITEMS), SASRec(brief, N_ITEMS)
    report = one.fit(data.samples(), data.queries("valid").take(np.empty(0, np.int64)), Runtime())
    assert report == other.fit(data.samples(), None, Runtime())
    assert np.array_equal(one.item_vectors(), other.item_vectors())
    assert "trained for all 2 epochs" in caplog.text


def test_an_empty_history_prefers_nothing() -> None:
    model, _, _ = trained()
    assert not model.scores(Sequences.from_rows([[], [1]]), Runtime())[0].any()
