"""DCRec: a sequence encoder beside two item graphs, trained with a debiased contrastive term (Yang et al., WWW 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from prunebench.datasets.schema import Samples
from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.gradients import Use
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates import attention, layers
from prunebench.recommenders.surrogates.base import SequenceSurrogate
from prunebench.recommenders.surrogates.config import AttentionConfig
from prunebench.recommenders.surrogates.dcrec_graph import (
    Edges,
    Graph,
    similarity_edges,
    symmetric,
    transition_edges,
)
from prunebench.recommenders.surrogates.layers import Parameters, Pass
from prunebench.recommenders.surrogates.network import State, Step
from prunebench.recommenders.surrogates.windows import Batch

GRAPHS = ("transitions", "similarities")
SEQUENCE, FUSION = "sequence", "fusion.weight"


class DCRecConfig(AttentionConfig):
    """Two layers of each kind, four similar items and mean conformity 0.5 as released for Amazon; BCE, for its cost."""

    graph_layers: int = Field(default=2, ge=1, description="steps of propagation over a graph")
    neighbours: int = Field(default=4, ge=1, description="similar items each item is linked to")
    contrast: float = Field(default=0.1, ge=0, allow_inf_nan=False, description="weight of the contrastive term")
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False, description="of the contrastive term's softmax")
    conformity: float = Field(
        default=0.5, gt=0, lt=1, allow_inf_nan=False, description="mean of the conformity weights in a batch"
    )


class DCRec(SequenceSurrogate):
    """A causal sequence encoder's state and the last item's views in two item graphs, mixed by attention.

    The graphs are made of the training sequences alone (``dcrec_graph``): items that stand next to each other, and items
    with similar sets of users. A view is LayerNorm(e + mean over 0 … ``graph_layers`` propagations of e), with e the item
    table, in which inputs are looked up and with which scores are made too. In training, a contrastive term per sample
    draws the sequence's state at the last position to the transition view with weight ω, and that to the similarity view
    with weight 1 - ω; ω, its conformity, is high where others move on from and to that item as the user does.

    Losses per sample, and all derivatives, are of the recommendation term alone: the contrastive one compares the samples
    of a batch, and is no sample's own. A sample's own transitions are edges of the graph, as in the paper; what is to be
    predicted when a history is scored never is.

    Unlike the released code: every position of a sequence predicts its next item under causal attention, in place of one
    training sequence per prefix; BCE by default (``loss: ce`` for the paper's softmax); ω takes no gradient, so that the
    term that keeps its distribution near a Gaussian has nothing to act on and is left out; a user's own share of an
    item's transitions is subtracted from the first propagation in place of running all of them again on a graph without
    the batch's edges; views drop values, graphs no edges; no self-loops, as e itself is part of the mean; ties in the
    nearest items are kept (``dcrec_graph.similarity_edges``).

    Propagation over all items is part of every training step (a few milliseconds on Games); outside training it is done
    once, but for scope ``all``, where it is done in every batch: derivatives by the item table go through the graphs, and
    gradient norms per sample take a few dense matrices [tokens of a batch, n_items].
    """

    Config: ClassVar[type[DCRecConfig]] = DCRecConfig
    version: ClassVar[int] = 1
    name: ClassVar[str] = "dcrec"
    fixed_names: ClassVar[tuple[str, ...]] = tuple(f"{name}.{part}" for name in GRAPHS for part in ("pairs", "weights"))
    config: DCRecConfig

    def fresh(self, generator: torch.Generator) -> Vector:
        d = self.config.d
        made = attention.initial_parameters(self.n_items + 1, self.config.max_length, self.config, generator)
        made["view.LayerNorm.weight"], made["view.LayerNorm.bias"] = torch.ones(d), torch.zeros(d)
        made[FUSION] = torch.randn(1, d, generator=generator) * 0.02
        return made

    def make_steps(self) -> tuple[Step, ...]:
        return (*attention.steps(self.config, lambda given: given.causal_bias), _view, _fuse)

    def scopes(self) -> dict[str, tuple[str, ...]]:
        """``block``: the last attention's output projection; ``last_layer``: that layer, below the fusion."""
        return attention.scopes(self.config, self.parameters)

    def observe(self, samples: Samples, runtime: Runtime) -> Vector:
        """Both graphs' edges: pairs of items int32 [2, e], weights float32 [e]."""
        made: Vector = {}
        transitions = transition_edges(samples.sequences, self.n_items)
        similarities = similarity_edges(samples.sequences, self.n_items, self.config.neighbours)
        for name, edges in zip(GRAPHS, (transitions, similarities), strict=True):
            made[f"{name}.pairs"] = torch.from_numpy(np.stack([edges.rows, edges.columns]))
            made[f"{name}.weights"] = torch.from_numpy(edges.weights)
        return made

    def load_released(self, state: Mapping[str, Tensor], runtime: Runtime | None = None) -> None:
        super().load_released(state, runtime)
        items = self.parameters[self.items]
        transitions, similarities = (self._edges(name) for name in GRAPHS)
        try:
            transitions, root = symmetric(transitions, self.n_items)
            self._graphs = tuple(Graph.of(edges, items) for edges in (transitions, similarities))
        except ValueError as error:
            raise RecommenderError(f"the graphs do not fit {self.n_items} items ({error}): train again") from error
        self._root = F.pad(torch.from_numpy(root), (1, 0)).to(items)

    def _edges(self, name: str) -> Edges:
        rows, columns = self.fixed[f"{name}.pairs"].cpu().numpy()
        return Edges(rows, columns, self.fixed[f"{name}.weights"].cpu().numpy())

    def prepared(self, p: Parameters) -> Parameters:
        """With a table [n_items + 1, d] per graph: items plus their mean over the propagations."""
        items = p[self.items]
        for name, graph in zip(GRAPHS, self._graphs, strict=True):
            table = graph.smooth(items, self.config.graph_layers)
            p = layers.with_table(p, name, table, self.items, _pull_back(graph, self.config.graph_layers))
        return p

    def auxiliary_loss(self, p: Parameters, batch: Batch, hidden: Tensor, given: Pass) -> Tensor | None:
        """The contrastive term, a mean over the batch; None where it has no weight."""
        c = self.config
        if not c.contrast:
            return None
        weight = self.conformity_weights(p, batch)
        sequence, transition, similar = (given.aside[name] for name in (SEQUENCE, *GRAPHS))
        personal = (1 - weight) * contrast(transition, similar, c.temperature)
        return c.contrast * (weight * contrast(sequence, transition, c.temperature) + personal).mean()

    @torch.no_grad()
    def conformity_weights(self, p: Parameters, batch: Batch) -> Tensor:
        """ω of each sample in [0, 1], [b]: how much others' transitions at its last item are like its own.

        The mean of three cosines (the item's table row with and without the user's own transitions; that row and what
        others' transitions bring; others' and own), through a sigmoid, spread over the batch's range and scaled to the mean
        ``conformity``, at most 1. Where a batch has no spread, all get that mean.
        """
        items = p[self.items]
        here = batch.inputs[:, -1]
        beside = torch.stack([batch.inputs[:, -2] if batch.inputs.shape[1] > 1 else here, batch.targets[:, -1]], 1)
        # A cell of padding is row 0, whose root is 0; an item beside itself is no edge.
        share = self._root[here, None] * self._root[beside] * (beside != here[:, None])
        own = (share[..., None] * items[beside]).sum(1)
        others = self._graphs[0].propagate(items)[here] - own
        row = p[GRAPHS[0]][here]
        without = row - own / (self.config.graph_layers + 1)
        cosines = [F.cosine_similarity(a, b) for a, b in ((row, without), (row, others), (own, others))]
        agreement = torch.stack(cosines).mean(0).sigmoid()
        spread = agreement.max() - agreement.min()
        if spread < 1e-6:
            return torch.full_like(agreement, self.config.conformity)
        weight = (agreement - agreement.min()) / spread
        return (weight * self.config.conformity / weight.mean()).clamp_max(1)


def contrast(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """InfoNCE per row, [b]: -log of the softmax over all rows of ``other`` [b, d] of the cosine to ``one``'s, at its own."""
    cosines = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T / temperature
    return cosines.logsumexp(1) - cosines.diagonal()


def _view(p: Parameters, state: State, given: Pass) -> State:
    """The sequence's states to (them, transition views, similarity views), each [b, l, d]."""
    looked_up = (layers.look_up(p, given.ids, name) for name in GRAPHS)
    views = [given.dropout(layers.layer_norm(p, rows, "view.LayerNorm")) for rows in looked_up]
    given.aside |= {SEQUENCE: state[0][:, -1], **{name: x[:, -1] for name, x in zip(GRAPHS, views, strict=True)}}
    return state[0], *views


def _fuse(p: Parameters, state: State, given: Pass) -> State:
    """Σ over the three of softmax(w · x) x, [b, l, d]."""
    together = torch.stack(state, -2)
    # One vector for all: looked up by each sample, so that its gradient is told apart by sample.
    vector = layers.look_up(p, torch.zeros_like(given.ids[:, :1]), FUSION)
    share = (together * vector[:, :, None]).sum(-1, keepdim=True).softmax(-2)
    return ((together * share).sum(-2),)


def _pull_back(graph: Graph, depth: int) -> Callable[[Use], Use]:
    """From looking rows of a smoothed table up to the linear map of the items that makes these rows."""

    def pull_back(use: Use) -> Use:
        left = graph.smoothing(use.left.flatten(), depth)
        return Use(left.view(*use.left.shape, -1), use.right)

    return pull_back
