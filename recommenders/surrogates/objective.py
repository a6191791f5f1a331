"""SASRec's per-sample losses with everything below the parameters in scope computed once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunebench.datasets.schema import Int64
from prunebench.recommenders.batching import length_batches, pad_left
from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates import network
from prunebench.recommenders.surrogates.windows import Windows

BELOW_PROJECTION = ("query", "key", "value")


class SASRecObjective:
    """Implements ``derivatives.Objective`` for one trained SASRec, one set of samples and one scope.

    Where every parameter in scope lies above the last attention, the inputs of its output projection are kept, flat
    [t, d]; where it lies in the last layer, that layer's inputs are. A pass then starts there. ``negatives`` None: CE.
    """

    def __init__(
        self,
        parameters: Vector,
        scope: tuple[str, ...],
        heads: int,
        windows: Windows,
        negatives: NDArray[np.int32] | None,
        tokens: int,
        runtime: Runtime,
    ) -> None:
        self.parameters = {name: parameters[name].detach() for name in scope}
        self._all = {name: value.detach() for name, value in parameters.items()}
        self._heads, self._tokens, self._windows = heads, tokens, windows
        self._device = parameters["item_embeddings.weight"].device
        self._layers = sum(name.endswith("attention.dense.weight") for name in parameters)
        self._inputs = self._items(windows.inputs.items)
        self._targets = self._items(windows.targets)
        self._negatives = None if negatives is None else self._items(negatives)
        last = network.layer_name(self._layers - 1)
        in_last = all(name.startswith(f"{last}.") for name in scope)
        above = in_last and not any(name.split(".")[-2] in BELOW_PROJECTION for name in scope)
        self._kept: tuple[Tensor, ...] = ()
        if in_last:
            self._kept = self._compute_below(last if above else None, runtime)

    def __len__(self) -> int:
        return len(self._windows.inputs)

    def batches(self, positions: Int64 | None = None) -> list[Int64]:
        lengths = self._windows.inputs.lengths
        if positions is None:
            return length_batches(lengths, self._tokens, self._tokens)
        return [positions[part] for part in length_batches(lengths[positions], self._tokens, self._tokens)]

    def losses(self, parameters: Mapping[str, Tensor], positions: Int64) -> Tensor:
        """Mean over the sample's pairs of the loss, [b]."""
        p = {**self._all, **parameters}
        source, real = self._cells(positions)
        hidden = self._hidden(p, source, real)
        items = p["item_embeddings.weight"]
        if self._negatives is not None:
            per_token = network.bce(hidden, items[self._targets[source]], items[self._negatives[source]])
        else:
            flat = network.cross_entropy(hidden.flatten(0, 1), items, self._targets[source].flatten())
            per_token = flat.view(source.shape)
        weight = real.to(hidden.dtype) / real.sum(1, keepdim=True)
        return (per_token * weight).sum(1)

    def _hidden(self, p: Mapping[str, Tensor], source: Tensor, real: Tensor) -> Tensor:
        last = network.layer_name(self._layers - 1)
        kept = [part[source] for part in self._kept]
        if len(kept) == 2:
            return network.finish(p, last, kept[0], kept[1])
        if kept:
            bias = network.attention_bias(real, kept[0].dtype)
            return network.layers_forward(p, kept[0], bias, self._heads, range(self._layers - 1, self._layers))
        return self._run(p, source, real, self._layers)

    def _run(self, p: Mapping[str, Tensor], source: Tensor, real: Tensor, layers: int) -> Tensor:
        ids = torch.where(real, self._inputs[source], 0)
        x = network.embed(p, p["item_embeddings.weight"][ids])
        return network.layers_forward(p, x, network.attention_bias(real, x.dtype), self._heads, range(layers))

    @torch.no_grad()
    def _compute_below(self, attention_of: str | None, runtime: Runtime) -> tuple[Tensor, ...]:
        """Flat [t, d]: the last layer's input, preceded by its attention's output if ``attention_of`` names the layer."""
        items = self._all["item_embeddings.weight"]
        kept = [items.new_empty(len(self._inputs), items.shape[1]) for _ in range(1 if attention_of is None else 2)]
        for positions in runtime.track(self.batches(), "activations below the scope"):
            source, real = self._cells(positions)
            x = self._run(self._all, source, real, self._layers - 1)
            kept[-1][source[real]] = x[real]
            if attention_of is not None:
                bias = network.attention_bias(real, x.dtype)
                kept[0][source[real]] = network.attend(self._all, attention_of, x, bias, self._heads)[real]
        return tuple(kept)

    def _cells(self, positions: Int64) -> tuple[Tensor, Tensor]:
        source, real = pad_left(self._windows.inputs.offsets, positions)
        return torch.from_numpy(source).to(self._device), torch.from_numpy(real).to(self._device)

    def _items(self, ids: NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(ids.astype(np.int64) + 1).to(self._device)
