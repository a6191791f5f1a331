"""What every sequential surrogate does alike: training, derivatives of its losses, vectors, scores, files."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prunebench.datasets.schema import Int64, Queries, Samples, Sequences
from prunebench.recommenders.base import FitReport, Float32, RecommenderError
from prunebench.recommenders.batching import length_batches, padded
from prunebench.recommenders.derivatives import Vector
from prunebench.recommenders.gradients import functional_gradient_norms
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.surrogates import layers
from prunebench.recommenders.surrogates.config import SequenceConfig
from prunebench.recommenders.surrogates.layers import Parameters, Pass
from prunebench.recommenders.surrogates.network import Network
from prunebench.recommenders.surrogates.objective import SequenceObjective
from prunebench.recommenders.surrogates.training import train, validation_loss
from prunebench.recommenders.surrogates.windows import Examples, Windows

logger = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
EVALUATION_TOKENS = 2048
# Softmax over all items: as many tokens as have this many logits together, few enough to stay near the caches.
EVALUATION_CELLS = 2**22


class SequenceSurrogate(Network):
    """Base of the surrogates; implements the contract ``recommenders.base.Surrogate``.

    A concrete one supplies

    - ``Config`` (a ``SequenceConfig``), ``version``, and ``name``, by which its random draws and its file go;
    - ``fresh(generator)``: its parameters, freshly drawn, a dictionary of tensors by name;
    - ``make_steps()``: its forward pass as a chain of functions ``step(p, state, given) -> state`` from the inputs'
      vectors [b, l, d] to hidden states [b, l, d], batches left-padded (``given.ids``, ``given.real``). Parameters are read as ``p[name]``
      and used through ``layers`` only: that is what makes gradient norms per sample possible. Where the chain is cut,
      everything below a scope is computed once for all derivatives, so cut it above and below what a scope names;
      ``given.dropout(x)`` wherever training drops values;
    - ``scopes()``: the names of the parameters in ``block`` and ``last_layer`` (``all`` is added).

    It may override

    - ``windows(sequences)`` and ``examples(windows, ids, draw)``: what is seen at each position, what is to be predicted
      there and with which weight. Draws are hashed from (``draw(purpose)``, sample id, position) by ``hashed_items`` and
      ``hashed_shares``; ``draw`` gives other seeds each epoch in training and always the same in evaluation.
      Cloze: ``Windows.whole``, then inputs with ``n_items + 1`` where masked (the table gets a row more) and weights 0
      where not; cells without weight cost no logits;
    - ``inputs(histories)``: ids whose last position scores the next item, e.g. with the mask appended;
    - ``auxiliary_loss(p, batch, hidden, given)``: a term of the training loss beside the per-sample losses;
      ``given.aside`` holds what steps set aside for it;
    - ``fixed_names``, ``observe(samples, runtime)`` and ``prepared(p)``: tensors made of the training data before the
      parameters are trained, saved with them, and found in every ``p``; what the parameters and these make for all
      samples alike, e.g. ``layers.with_table`` of a propagated item table, whose name then goes into ``items``.
    """

    Config: ClassVar[type[SequenceConfig]]
    version: ClassVar[int]
    name: ClassVar[str]
    fixed_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: SequenceConfig, n_items: int) -> None:
        super().__init__(config, n_items)
        self.parameters: Vector = {}
        self.fixed: Vector = {}
        self.report = FitReport()

    def windows(self, sequences: Sequences) -> Windows:
        """The pairs of item and target to look at; by default each item and the next."""
        return Windows.of(sequences, self.config.max_length, self.n_items)

    def examples(self, windows: Windows, ids: Int64, draw: Callable[[str], int]) -> Examples:
        """One look at the windows' rows, whose sample ids are ``ids``; ``draw(purpose)`` seeds what is random in it."""
        is_bce = self.config.loss == "bce"
        return Examples.of(windows, windows.negatives(ids, draw("negatives")) if is_bce else None)

    def inputs(self, histories: Sequences) -> Sequences:
        """Input ids, items counted from 1, at whose last position a history's next item is predicted."""
        tails = histories.tail(self.config.max_length)
        return Sequences(tails.items + np.int32(1), tails.offsets)

    def observe(self, samples: Samples, runtime: Runtime) -> Vector:
        """The tensors of ``fixed_names``, made of the training samples."""
        return {}

    def fit(
        self,
        samples: Samples,
        valid: Queries | None,
        runtime: Runtime,
        after_epoch: Callable[[int], None] | None = None,
    ) -> FitReport:
        """Train on the samples' whole sequences, target included; the best epoch on ``valid`` is kept, or the last.

        Where no user of ``valid`` has a history and a target, a warning says that all epochs are trained. Raises
        RecommenderError for no samples, and where training diverges.
        """
        fresh = self.fresh(runtime.torch_rng(self.name, "initial weights"))
        self.load_released({**fresh, **self.observe(samples, runtime)}, runtime)
        validate = None if valid is None else self._validation(valid, runtime)
        windows = self.windows(samples.sequences)
        self.report = train(self, self.fixed, windows, samples.ids, validate, after_epoch, runtime)
        return self.report

    def _validation(self, valid: Queries, runtime: Runtime) -> Callable[[], float] | None:
        known = np.flatnonzero((valid.histories.lengths > 0) & (valid.targets.lengths > 0))
        if not len(known):
            logger.warning(
                "no validation user has a history and a target, so %s is not stopped early but trained for all %d epochs; set fewer with surrogate.epochs",
                type(self).__name__,
                self.config.epochs,
            )
            return None
        queries, seed = valid.take(known), runtime.derive(self.name, "validation negatives")
        quiet = replace(runtime, report=lambda done, total, what: None)
        return lambda: validation_loss(
            self.user_vectors(queries.histories, quiet), self.item_vectors(), queries, self.config, seed
        )

    def load_released(self, state: Mapping[str, Tensor], runtime: Runtime | None = None) -> None:
        """Take weights by name. Raises RecommenderError for a missing, unknown or misshapen one."""
        shapes = self.fresh(torch.Generator())
        wrong = sorted({*shapes, *self.fixed_names} ^ set(state))
        if wrong := wrong or [name for name in shapes if shapes[name].shape != state[name].shape]:
            raise RecommenderError(
                f"weights do not fit this {type(self).__name__} at {wrong[:3]}: check its config and number of items"
            )
        device = torch.device("cpu") if runtime is None else runtime.device
        self.parameters = {name: state[name].detach().clone().to(device) for name in shapes}
        self.fixed = {name: state[name].detach().clone().to(device) for name in self.fixed_names}

    def objective(self, samples: Samples, scope: str, runtime: Runtime) -> SequenceObjective:
        """Per-sample losses as a function of a scope's parameters, evaluation mode; see ``scope``."""
        names = self.scope(scope)
        examples = self.examples(
            self.windows(samples.sequences), samples.ids, lambda what: runtime.derive(self.name, what)
        )
        tokens = EVALUATION_TOKENS
        # Derivatives through a table derived from all items have a row of all items per look-up.
        is_dense = bool(self.fixed_names) and self.items in names
        if examples.negatives is None or is_dense:
            tokens = min(tokens, max(EVALUATION_CELLS // self.n_items, 1))
        return SequenceObjective(self, self.parameters, names, examples, tokens, runtime, self.fixed)

    def scope(self, name: str) -> tuple[str, ...]:
        """Names of the parameters in a scope. Raises RecommenderError for an unknown one."""
        scopes = {**self.scopes(), "all": tuple(self._trained())}
        if name not in scopes:
            *others, last = scopes
            raise RecommenderError(f"unknown scope {name!r}: use {', '.join(others)} or {last}")
        return scopes[name]

    @torch.no_grad()
    def losses(self, samples: Samples, runtime: Runtime) -> Float32:
        objective = self.objective(samples, "all", runtime)
        result = np.empty(len(samples), np.float32)
        for positions in runtime.track(objective.batches(), "losses"):
            result[positions] = objective.losses({}, positions).cpu().numpy()
        return result

    def gradient_norms(self, samples: Samples, scope: str, runtime: Runtime) -> Float32:
        """‖∇L(s)‖₂ over a scope's parameters, float32 [n], exact: one forward and one backward pass per batch."""
        objective = self.objective(samples, scope, runtime)
        result = np.empty(len(samples), np.float32)
        for positions in runtime.track(objective.batches(), "gradient norms"):
            here = partial(objective.losses, positions=positions)
            result[positions] = functional_gradient_norms(objective.parameters, here).cpu().numpy()
        return result

    @torch.no_grad()
    def user_vectors(self, histories: Sequences, runtime: Runtime) -> Float32:
        """The last position's hidden state, float32 [n, d]; zeros for an empty history."""
        p, inputs = self._prepared(), self.inputs(histories)
        result = np.zeros((len(histories), self.config.d), np.float32)
        known = np.flatnonzero(histories.lengths)
        for part in runtime.track(length_batches(inputs.lengths[known], EVALUATION_TOKENS, EVALUATION_TOKENS), "users"):
            rows = known[part]
            ids = torch.from_numpy(padded(inputs, rows)).to(runtime.device)
            (hidden,) = self.run(p, (layers.look_up(p, ids, self.items),), Pass(ids))
            result[rows] = hidden[:, -1].cpu().numpy()
        return result

    @torch.no_grad()
    def item_vectors(self) -> Float32:
        """Output embeddings, float32 [n_items, d]: an item's score is its inner product with the user vector."""
        return self.catalogue(self._prepared())[1:].detach().cpu().numpy()

    def scores(self, histories: Sequences, runtime: Runtime) -> Float32:
        """Scores of all items, float32 [n, n_items]: cut ``histories`` so that this fits in memory."""
        return self.user_vectors(histories, runtime) @ self.item_vectors().T

    def save(self, folder: Path) -> None:
        """One safetensors file with config and report in its header."""
        folder.mkdir(parents=True, exist_ok=True)
        header = {"config": self.config.model_dump(mode="json"), "n_items": self.n_items, "report": asdict(self.report)}
        tensors = {name: value.detach().cpu().contiguous() for name, value in {**self._trained(), **self.fixed}.items()}
        # One key only: safetensors writes several in random order, and the same model should be the same bytes.
        save_file(tensors, folder / WEIGHTS, metadata={self.name: json.dumps(header, sort_keys=True)})

    @classmethod
    def load(cls, folder: Path, runtime: Runtime) -> Self:
        """Raises RecommenderError where ``folder`` holds none of this kind."""
        try:
            with safe_open(folder / WEIGHTS, "pt") as file:
                header = json.loads((file.metadata() or {})[cls.name])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            made = cls(cls.Config.model_validate(header["config"]), header["n_items"])
            report = header["report"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise RecommenderError(
                f"{folder / WEIGHTS} is no saved {cls.__name__} ({error}): train it again"
            ) from error
        made.load_released(state, runtime)
        made.report = FitReport(**{**report, "valid_losses": tuple(report["valid_losses"])})
        return made

    def _trained(self) -> Vector:
        if not self.parameters:
            raise RecommenderError(f"this {type(self).__name__} has no weights yet: call fit or load_released first")
        return self.parameters

    def _prepared(self) -> Parameters:
        return self.prepared({**self.fixed, **self._trained()})
