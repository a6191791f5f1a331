"""A surrogate's per-sample losses with everything below the parameters in scope computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from prunebench.datasets.schema import Int64
from prunebench.recommenders.batching import length_batches
from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.gradients import Watched
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates import layers
from prunebench.recommenders.surrogates.layers import Parameters, Pass
from prunebench.recommenders.surrogates.network import Network, State
from prunebench.recommenders.surrogates.windows import Batch, Examples


class SequenceObjective:
    """Implements ``derivatives.Objective`` for one trained network, one look at its samples and one scope.

    The states before the first step that reads a parameter in scope are kept, flat [t, width], and a pass starts there;
    what a step reads is observed, not declared. ``parameters`` are all of the network's, ``scope`` names some of them,
    ``fixed`` are tensors it reads beside them; ``tokens`` bounds a batch.
    """

    def __init__(
        self,
        network: Network,
        parameters: Vector,
        scope: Sequence[str],
        examples: Examples,
        tokens: int,
        runtime: Runtime,
        fixed: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.parameters = {name: parameters[name].detach() for name in scope}
        self._network, self._examples, self._tokens = network, examples, tokens
        self._device = next(iter(parameters.values())).device
        self._all: Parameters = {**(fixed or {}), **{name: value.detach() for name, value in parameters.items()}}
        observed = _Observed(self._all)
        prepared = network.prepared(observed)
        self._is_prepared = observed.read.isdisjoint(scope)
        if self._is_prepared:
            self._all = dict(prepared)
        self._first, self._kept = self._below(runtime) if self._is_prepared and network.items not in scope else (0, ())

    def __len__(self) -> int:
        return len(self._examples)

    def batches(self, positions: Int64 | None = None) -> list[Int64]:
        positions = np.arange(len(self)) if positions is None else positions
        # Among equal lengths, those with as many cells that count stand together, as cells are padded to the most.
        positions = positions[self._examples.counting[positions].argsort(kind="stable")]
        lengths = self._examples.lengths[positions]
        return [positions[part] for part in length_batches(lengths, self._tokens, self._tokens)]

    def losses(self, parameters: Mapping[str, Tensor], positions: Int64) -> Tensor:
        """Mean over the sample's cells of the loss, by their weights, [b]."""
        p: Parameters = parameters.over(self._all) if isinstance(parameters, Watched) else {**self._all, **parameters}
        batch = self._examples.batch(positions, self._device)
        kept = tuple(part[batch.cells] for part in self._kept)
        return self._network.sample_losses(
            p if self._is_prepared else self._network.prepared(p), batch, kept, self._first
        )

    @torch.no_grad()
    def _below(self, runtime: Runtime) -> tuple[int, State]:
        """The first step that reads a parameter in scope, and the states before it, flat."""
        network, batches = self._network, self.batches()
        if not batches:
            return 0, ()
        batch = self._examples.batch(batches[0][:1], self._device)
        given, state, first = Pass(batch.inputs), self._inputs(batch), 0
        for step in network.steps:
            observed = _Observed(self._all)
            state = step(observed, state, given)
            if not observed.read.isdisjoint(self.parameters):
                break
            first += 1
        if first == 0:
            return 0, ()
        kept: State = ()
        for positions in runtime.track(batches, "activations below the scope"):
            batch = self._examples.batch(positions, self._device)
            state = network.run(self._all, self._inputs(batch), Pass(batch.inputs), 0, first)
            kept = kept or tuple(x.new_empty(len(self._examples.inputs), x.shape[2]) for x in state)
            for flat, x in zip(kept, state, strict=True):
                flat[batch.cells[batch.real]] = x[batch.real]
        return first, kept

    def _inputs(self, batch: Batch) -> State:
        return (layers.look_up(self._all, batch.inputs, self._network.items),)


class _Observed(dict[str, Tensor]):
    """Parameters that remember which of them were read."""

    def __init__(self, tensors: Parameters) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)
