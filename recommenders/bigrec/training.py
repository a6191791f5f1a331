"""What fine-tuning needs to know of the adapter: its inputs, its loss, and where a checkpoint keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from prunebench.recommenders import fine_tuning
from prunebench.recommenders.base import FitReport
from prunebench.recommenders.bigrec.config import BIGRecConfig
from prunebench.recommenders.bigrec.model import adapter_state, mean_token_loss, model_inputs, token_losses
from prunebench.recommenders.bigrec.prompts import Prompts
from prunebench.recommenders.runtime import Runtime


def train(
    model: Any, samples: Prompts, stop: Prompts, config: BIGRecConfig, runtime: Runtime, folder: Path
) -> FitReport:
    """Fine-tune ``model``'s adapter in place on the loss per counted token; see ``fine_tuning.train``."""

    def collate(positions: NDArray[np.int64]) -> dict[str, Any]:
        batch = samples.batch(positions)
        return {**model_inputs(model, batch, batch.loss_columns + 1), "labels": batch.labels}

    def stop_loss() -> float:
        return mean_token_loss(model, stop, config.batch_tokens, runtime)

    def read(folder: Path) -> dict[str, torch.Tensor]:
        saved = load_file(folder / "adapter_model.safetensors")
        return {name: saved[name.replace(".default", "")] for name in adapter_state(model)}

    task = fine_tuning.Task(
        model,
        samples.lengths,
        collate,
        lambda outputs, labels: token_losses(outputs.logits, labels)[0].sum(),
        stop_loss if len(stop) else None,
        read,
        config.precision,
    )
    return fine_tuning.train(task, config, runtime, folder)
