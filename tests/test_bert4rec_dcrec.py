"""What is BERT4Rec's and DCRec's own: masks, sight in both directions; item graphs, conformity, the contrastive term."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from prunebench.datasets.schema import RecDataset, Samples, Sequences
from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates import dcrec_graph, layers
from prunebench.recommenders.surrogates.bert4rec import BERT4Rec, BERT4RecConfig
from prunebench.recommenders.surrogates.dcrec import DCRec, DCRecConfig, contrast
from prunebench.recommenders.surrogates.dcrec_graph import (
    Edges,
    Graph,
    similarity_edges,
    symmetric,
    transition_edges,
)
from prunebench.recommenders.surrogates.layers import Pass
from prunebench.recommenders.surrogates.windows import Batch, Examples

N_ITEMS = 12
MASK = N_ITEMS + 1
RUNTIME = Runtime(3)
TINY = {"d": 4, "max_length": 5, "dropout": 0.0, "batch_size": 8, "epochs": 2, "learning_rate": 0.02}
ROWS = st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=9), min_size=1, max_size=12)


def samples_of(rows: list[list[int]]) -> Samples:
    train = Sequences.from_rows(rows)
    return RecDataset("tiny", tuple(map(str, range(N_ITEMS))), train, *[Sequences.empty(len(train))] * 2).samples()


def random_rows(n: int = 30) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(N_ITEMS, size=rng.integers(2, 9)).tolist() for _ in range(n)]


@cache
def bert(loss: str = "ce") -> BERT4Rec:
    model = BERT4Rec(BERT4RecConfig(**TINY, loss=loss), N_ITEMS)
    model.fit(samples_of(random_rows()), None, RUNTIME)
    return model


@cache
def dcrec(weight: float = 0.1) -> DCRec:
    model = DCRec(DCRecConfig(**TINY, contrast=weight), N_ITEMS)
    model.fit(samples_of(random_rows()), None, RUNTIME)
    return model


def examples_of(model: BERT4Rec | DCRec, samples: Samples, runtime: Runtime = RUNTIME) -> Examples:
    return model.examples(
        model.windows(samples.sequences), samples.ids, lambda what: runtime.derive(type(model).name, what)
    )


def hidden_of(model: BERT4Rec | DCRec, ids: list[int]) -> Tensor:
    """States [l, d] of one row of inputs (items counted from 1)."""
    p = model.prepared({**model.fixed, **model.parameters})
    row = torch.tensor([ids])
    return model.run(p, (layers.look_up(p, row, model.items),), Pass(row))[0][0]


def test_masks_depend_on_seed_id_and_place_only() -> None:
    samples = samples_of(random_rows())
    examples = examples_of(bert(), samples)
    part = samples.take(samples.ids[10:20])
    alone = examples_of(bert(), part)
    span = slice(examples.offsets[10], examples.offsets[20])
    assert (alone.inputs == examples.inputs[span]).all()
    assert (alone.weights == examples.weights[span]).all()
    assert (examples_of(bert("bce"), samples).inputs == examples.inputs).all()
    assert (examples_of(bert(), samples, Runtime(4)).inputs != examples.inputs).any()
    # A place counts from the sequence's start, so a longer window sees the same masks.
    wider = BERT4Rec(BERT4RecConfig(**{**TINY, "max_length": 9}), N_ITEMS)
    whole = examples_of(wider, samples)
    for row in range(len(samples)):
        window = examples.inputs[examples.offsets[row] : examples.offsets[row + 1]]
        assert (whole.inputs[: whole.offsets[row + 1]][-len(window) :] == window).all()


def test_the_last_item_is_masked_always_and_others_at_the_given_rate() -> None:
    samples = samples_of([np.arange(9).tolist()] * 2000)
    model = BERT4Rec(BERT4RecConfig(**{**TINY, "max_length": 9}, mask_share=0.3), N_ITEMS)
    masked = examples_of(model, samples).inputs.reshape(-1, 9) == MASK
    assert masked[:, -1].all()
    assert masked[:, :-1].mean() == pytest.approx(0.3, abs=0.01)
    weights = examples_of(model, samples).weights.reshape(-1, 9)
    assert np.allclose(weights, masked / masked.sum(1, keepdims=True))


@pytest.mark.parametrize("loss", ["bce", "ce"])
def test_the_loss_is_the_mean_over_masked_items(loss: str) -> None:
    model, samples = bert(loss), samples_of(random_rows())
    losses, examples = model.losses(samples, RUNTIME), examples_of(model, samples)
    table = torch.from_numpy(model.item_vectors())
    assert table.shape == (N_ITEMS, 4)
    for row in (0, 7, 29):
        cells = range(*examples.offsets[row : row + 2])
        hidden = hidden_of(model, [int(examples.inputs[cell]) for cell in cells])
        terms = []
        for state, cell in zip(hidden, cells, strict=True):
            if examples.inputs[cell] != MASK:
                assert examples.inputs[cell] == examples.targets[cell]
                continue
            logits, target = table @ state, int(examples.targets[cell]) - 1
            if examples.negatives is None:
                terms.append(float(F.cross_entropy(logits[None], torch.tensor([target]))))
            else:
                negative = logits[int(examples.negatives[cell]) - 1]
                terms.append(-float(F.logsigmoid(logits[target]) + F.logsigmoid(-negative)))
        assert losses[row] == pytest.approx(np.mean(terms), rel=1e-4)


def test_bert4rec_looks_both_ways_and_never_at_what_it_predicts() -> None:
    one, other = hidden_of(bert(), [3, MASK, 5]), hidden_of(bert(), [3, MASK, 6])
    assert not torch.allclose(one[0], other[0])
    assert not torch.allclose(one[1], other[1])
    rows = random_rows()
    changed = samples_of([[*row[:-1], (row[-1] + 1) % N_ITEMS] for row in rows])
    assert (examples_of(bert(), changed).inputs == examples_of(bert(), samples_of(rows)).inputs).all()


def test_a_history_is_scored_by_a_mask_at_its_end() -> None:
    vectors = bert().user_vectors(Sequences.from_rows([[1, 2], [9, 8, 7, 1, 2, 3, 4], []]), RUNTIME)
    expected = [hidden_of(bert(), [2, 3, MASK])[-1], hidden_of(bert(), [2, 3, 4, 5, MASK])[-1], torch.zeros(4)]
    assert np.allclose(vectors, torch.stack(expected), atol=1e-6)


def dense(edges: Edges, n_items: int) -> NDArray[np.float64]:
    matrix = np.zeros((n_items, n_items))
    np.add.at(matrix, (edges.rows, edges.columns), edges.weights)
    assert len(edges) == (matrix > 0).sum()
    return matrix


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_transitions_are_counted(rows: list[list[int]]) -> None:
    counts = np.zeros((8, 8))
    for row in rows:
        for before, after in pairwise(row):
            if before != after:
                counts[before, after] += 1
                counts[after, before] += 1
    edges = transition_edges(Sequences.from_rows(rows), 8)
    assert (dense(edges, 8) == counts).all()
    normal, root = symmetric(edges, 8)
    degrees = counts.sum(0)
    expected = counts / np.sqrt(np.maximum(np.outer(degrees, degrees), 1))
    assert np.allclose(dense(normal, 8), expected)
    assert np.allclose(root, np.where(degrees > 0, np.maximum(degrees, 1) ** -0.5, 0))


@given(ROWS, st.integers(1, 4), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_similar_items_are_the_nearest_by_cosine(rows: list[list[int]], neighbours: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dcrec_graph, "BLOCK_PAIRS", block)
        patch.setattr(dcrec_graph, "TIES", 2)
        ours = dense(similarity_edges(Sequences.from_rows(rows), 8, neighbours), 8)
    users = np.array([[item in row for item in range(8)] for row in rows], float)
    sizes = np.maximum(np.linalg.norm(users, axis=0), 1)
    cosine = np.round((users / sizes).T @ (users / sizes), 9)
    np.fill_diagonal(cosine, 0)
    for item in range(8):
        candidates = np.sort(cosine[item][cosine[item] > 0])[::-1]
        kept = np.zeros(8)
        if len(candidates):
            edge = candidates[min(neighbours, len(candidates)) - 1]
            whole = cosine[item] * (cosine[item] >= edge)
            kept = whole if (whole > 0).sum() <= 2 * neighbours else cosine[item] * (cosine[item] > edge)
        assert np.allclose(ours[item], kept / max(kept.sum(), 1e-12), atol=1e-6)


def test_item_numbers_are_labels_to_the_graphs() -> None:
    rows = random_rows()
    order = np.random.default_rng(1).permutation(N_ITEMS)
    renamed = Sequences.from_rows([order[row].tolist() for row in rows])
    for made in (transition_edges, lambda s, n: similarity_edges(s, n, 2)):
        before, after = (dense(made(sequences, N_ITEMS), N_ITEMS) for sequences in (Sequences.from_rows(rows), renamed))
        assert np.allclose(before, after[np.ix_(order, order)])


def test_propagation_has_the_dense_products_derivatives() -> None:
    edges = similarity_edges(Sequences.from_rows(random_rows()), N_ITEMS, 2)
    make = torch.Generator().manual_seed(0)
    x, tangent = (torch.randn(N_ITEMS + 1, 3, dtype=torch.float64, generator=make) for _ in range(2))
    graph, matrix = Graph.of(edges, x), torch.zeros(N_ITEMS + 1, N_ITEMS + 1, dtype=torch.float64)
    matrix[1:, 1:] = torch.from_numpy(dense(edges, N_ITEMS))

    def sparse(x: Tensor) -> Tensor:
        return graph.propagate(graph.propagate(x).sin()).square().sum(1)

    def plain(x: Tensor) -> Tensor:
        return (matrix @ (matrix @ x).sin()).square().sum(1)

    for ours, theirs in (
        (torch.func.jvp(sparse, (x,), (tangent,)), torch.func.jvp(plain, (x,), (tangent,))),
        (torch.func.jacrev(sparse)(x), torch.func.jacrev(plain)(x)),
        (torch.func.hessian(lambda x: sparse(x).sum())(x), torch.func.hessian(lambda x: plain(x).sum())(x)),
    ):
        torch.testing.assert_close(ours, theirs)


def test_graphs_are_of_the_training_sequences_alone_and_propagated_as_written() -> None:
    model, samples = dcrec(), samples_of(random_rows())
    one = Sequences.from_rows([[1, 2]] * len(samples))
    elsewhere = RecDataset("other", samples.dataset.titles, samples.dataset.train, one, one).samples()
    there = model.observe(elsewhere, RUNTIME)
    assert all(torch.equal(model.fixed[name], there[name]) for name in model.fixed_names)
    items = model.parameters[model.items].double().numpy()
    p = model.prepared({**model.fixed, **model.parameters})
    transitions = dense(symmetric(transition_edges(samples.sequences, N_ITEMS), N_ITEMS)[0], N_ITEMS)
    similarities = dense(similarity_edges(samples.sequences, N_ITEMS, 4), N_ITEMS)
    for name, matrix in (("transitions", transitions), ("similarities", similarities)):
        once = matrix @ items[1:]
        expected = items[1:] + (items[1:] + once + matrix @ once) / 3
        assert np.allclose(p[name][1:], expected, atol=1e-6)


def test_dcrec_does_not_see_the_future() -> None:
    one, other = hidden_of(dcrec(), [3, 4, 5]), hidden_of(dcrec(), [3, 4, 11])
    assert torch.equal(one[:2], other[:2])
    assert not torch.allclose(one[2], other[2])


def batch_of(model: DCRec, samples: Samples, rows: NDArray[np.int64] | None = None) -> Batch:
    return examples_of(model, samples).batch(np.arange(len(samples)) if rows is None else rows, torch.device("cpu"))


def test_conformity_weights_are_in_range_and_have_their_mean() -> None:
    model, samples = dcrec(), samples_of(random_rows())
    p = model.prepared({**model.fixed, **model.parameters})
    weights = model.conformity_weights(p, batch_of(model, samples))
    assert weights.shape == (30,)
    assert float(weights.min()) == 0
    assert float(weights.max()) <= 1
    assert 0 < float(weights.mean()) <= 0.5 + 1e-6
    alone = model.conformity_weights(p, batch_of(model, samples, np.array([4])))
    assert alone.tolist() == [model.config.conformity]


def test_who_does_as_others_do_conforms_more() -> None:
    """Item 1 is always between 0 and 2, but for one user, who is the only one to go from 5 to 1 and on to 6."""
    samples = samples_of([[0, 1, 2]] * 20 + [[5, 1, 6]] + [[5, 7, 8], [6, 9, 8]] * 5)
    model = DCRec(DCRecConfig(**{**TINY, "d": 32, "epochs": 0}), N_ITEMS)
    model.fit(samples, None, RUNTIME)
    weights = model.conformity_weights(model.prepared({**model.fixed, **model.parameters}), batch_of(model, samples))
    assert float(weights[20]) < float(weights[:20].min())


def test_the_contrastive_term_falls_as_views_agree() -> None:
    make = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 9, 6, generator=make).unbind()
    values = [float(contrast(one, one + scale * other, 0.5).mean()) for scale in (0.0, 0.5, 1.0, 4.0)]
    assert values == sorted(values)
    cosines = F.cosine_similarity(one[:, None], other[None], dim=2) / 0.5
    torch.testing.assert_close(contrast(one, other, 0.5), F.cross_entropy(cosines, torch.arange(9), reduction="none"))
    assert contrast(one[:1], other[:1], 0.5).tolist() == pytest.approx([0], abs=1e-6)


def test_the_contrastive_term_trains_and_is_no_samples_loss() -> None:
    samples = samples_of(random_rows())
    assert not torch.equal(*(dcrec(weight).parameters["item_embeddings.weight"] for weight in (0.1, 0.0)))
    same = DCRec(DCRecConfig(**TINY, contrast=5), N_ITEMS)
    same.load_released({**dcrec().fixed, **dcrec().parameters})
    assert (same.losses(samples, RUNTIME) == dcrec().losses(samples, RUNTIME)).all()
    batch = batch_of(same, samples)
    with_term = same.training_loss({**same.fixed, **same.parameters}, batch, layers.no_dropout)
    without = dcrec(0.0).training_loss({**same.fixed, **same.parameters}, batch, layers.no_dropout)
    assert float(with_term) > float(without)
    assert float(without) == pytest.approx(dcrec().losses(samples, RUNTIME).mean(), rel=1e-5)


def test_graphs_of_other_items_are_refused() -> None:
    state = {**dcrec().fixed, **dcrec().parameters}
    with pytest.raises(RecommenderError, match="graphs do not fit 12 items"):
        dcrec().__class__(dcrec().config, N_ITEMS).load_released(
            {**state, "transitions.pairs": state["transitions.pairs"] + 1}
        )
