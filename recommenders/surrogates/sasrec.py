"""SASRec: a small self-attentive sequential recommender (Kang and McAuley, 2018), as DEALRec's released code has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prunebench.datasets.schema import Queries, Samples, Sequences
from prunebench.recommenders.base import FitReport, Float32, RecommenderError
from prunebench.recommenders.batching import length_batches, padded
from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates import network
from prunebench.recommenders.surrogates.config import SASRecConfig
from prunebench.recommenders.surrogates.objective import SASRecObjective
from prunebench.recommenders.surrogates.training import train, validation_loss
from prunebench.recommenders.surrogates.windows import Windows

WEIGHTS = "model.safetensors"
# One key only: safetensors writes several in random order, and the same model should be the same bytes.
HEADER = "sasrec"
EVALUATION_TOKENS = 2048
EVALUATION_TOKENS_CE = 1024


class SASRec:
    """Implements ``Surrogate``. ``parameters`` holds the weights under the released names (item ids + 1, 0 = padding).

    Position p of the left-padded window uses position embedding p, so a history of length l uses the last l of them.
    """

    Config: ClassVar[type[SASRecConfig]] = SASRecConfig
    version: ClassVar[int] = 1

    def __init__(self, config: SASRecConfig, n_items: int) -> None:
        self.config, self.n_items = config, n_items
        self.parameters: Vector = {}
        self.report = FitReport()

    def fit(self, samples: Samples, valid: Queries, runtime: Runtime) -> FitReport:
        """Train on every position of the samples' sequences, target included; the best epoch on ``valid`` is kept."""
        c = self.config
        fresh = network.initial_parameters(
            self.n_items, c.d, c.layers, c.max_length, runtime.torch_rng("sasrec", "initial weights")
        )
        self.load_released(fresh, runtime)
        known = np.flatnonzero((valid.histories.lengths > 0) & (valid.targets.lengths > 0))
        if not len(known):
            raise RecommenderError("early stopping needs validation users with a history and a target: there are none")
        queries = valid.take(known)

        def validate() -> float:
            return validation_loss(self.user_vectors(queries.histories, quiet), self.item_vectors(), queries, c, quiet)

        quiet = replace(runtime, report=lambda done, total, what: None)
        windows = Windows.of(samples.sequences, c.max_length, self.n_items)
        self.report = train(self.parameters, c, windows, samples.ids, validate, runtime)
        return self.report

    def load_released(self, state: Mapping[str, Tensor], runtime: Runtime | None = None) -> None:
        """Take weights under the released names. Raises RecommenderError for a missing, unknown or misshapen one."""
        c = self.config
        shapes = network.initial_parameters(self.n_items, c.d, c.layers, c.max_length, torch.Generator())
        wrong = sorted(set(shapes) ^ set(state)) or [n for n in shapes if shapes[n].shape != state[n].shape]
        if wrong:
            raise RecommenderError(
                f"weights do not fit this SASRec at {wrong[:3]}: check its config and number of items"
            )
        device = torch.device("cpu") if runtime is None else runtime.device
        self.parameters = {name: state[name].detach().clone().to(device) for name in shapes}

    def objective(self, samples: Samples, scope: str, runtime: Runtime) -> SASRecObjective:
        """Per-sample losses as a function of a scope's parameters, evaluation mode; see ``scope``."""
        windows = Windows.of(samples.sequences, self.config.max_length, self.n_items)
        is_bce = self.config.loss == "bce"
        negatives = windows.negatives(samples.ids, runtime.derive("sasrec", "negatives")) if is_bce else None
        tokens = EVALUATION_TOKENS if is_bce else EVALUATION_TOKENS_CE
        return SASRecObjective(
            self._trained(), self.scope(scope), self.config.heads, windows, negatives, tokens, runtime
        )

    def scope(self, name: str) -> tuple[str, ...]:
        """``block``: the last attention's output projection (released); ``last_layer``; ``all``."""
        last = network.layer_name(self.config.layers - 1)
        if name == "block":
            return (f"{last}.attention.dense.weight",)
        if name == "last_layer":
            return tuple(key for key in self._trained() if key.startswith(f"{last}."))
        if name == "all":
            return tuple(self._trained())
        raise RecommenderError(f"unknown scope {name!r}: use block, last_layer or all")

    @torch.no_grad()
    def losses(self, samples: Samples, runtime: Runtime) -> Float32:
        objective = self.objective(samples, "all", runtime)
        result = np.empty(len(samples), np.float32)
        for positions in runtime.track(objective.batches(), "losses"):
            result[positions] = objective.losses({}, positions).cpu().numpy()
        return result

    @torch.no_grad()
    def user_vectors(self, histories: Sequences, runtime: Runtime) -> Float32:
        """The last position's output, float32 [n, d]; zeros for an empty history."""
        p, c = self._trained(), self.config
        histories = histories.tail(c.max_length)
        result = np.zeros((len(histories), c.d), np.float32)
        known = np.flatnonzero(histories.lengths)
        for part in runtime.track(
            length_batches(histories.lengths[known], EVALUATION_TOKENS, EVALUATION_TOKENS), "users"
        ):
            rows = known[part]
            ids = torch.from_numpy(padded(histories, rows, shift=1)).to(runtime.device)
            x = network.embed(p, p["item_embeddings.weight"][ids])
            x = network.layers_forward(p, x, network.attention_bias(ids > 0, x.dtype), c.heads, range(c.layers))
            result[rows] = x[:, -1].cpu().numpy()
        return result

    def item_vectors(self) -> Float32:
        """Output embeddings, float32 [n_items, d]: an item's score is its inner product with the user vector."""
        return self._trained()["item_embeddings.weight"][1:].detach().cpu().numpy()

    def scores(self, histories: Sequences, runtime: Runtime) -> Float32:
        """Scores of all items, float32 [n, n_items]: cut ``histories`` so that this fits in memory."""
        return self.user_vectors(histories, runtime) @ self.item_vectors().T

    def save(self, folder: Path) -> None:
        """One safetensors file with config and report in its header."""
        folder.mkdir(parents=True, exist_ok=True)
        header = {"config": self.config.model_dump(mode="json"), "n_items": self.n_items, "report": asdict(self.report)}
        tensors = {name: value.cpu().contiguous() for name, value in self._trained().items()}
        save_file(tensors, folder / WEIGHTS, metadata={HEADER: json.dumps(header, sort_keys=True)})

    @classmethod
    def load(cls, folder: Path, runtime: Runtime) -> SASRec:
        """Raises RecommenderError where ``folder`` holds no SASRec."""
        try:
            with safe_open(folder / WEIGHTS, "pt") as file:
                header = json.loads((file.metadata() or {})[HEADER])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            made = cls(SASRecConfig.model_validate(header["config"]), header["n_items"])
            report = header["report"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise RecommenderError(f"{folder / WEIGHTS} is no saved SASRec ({error}): train it again") from error
        made.load_released(state, runtime)
        made.report = FitReport(**{**report, "valid_losses": tuple(report["valid_losses"])})
        return made

    def _trained(self) -> Vector:
        if not self.parameters:
            raise RecommenderError("this SASRec has no weights yet: call fit or load_released first")
        return self.parameters
