"""What training needs to know of TIGER: its inputs, its loss, and where a checkpoint keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import T5ForConditionalGeneration

from prunebench.recommenders import fine_tuning
from prunebench.recommenders.base import FitReport, RecommenderError
from prunebench.recommenders.distributed import Team
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.config import TIGERConfig
from prunebench.recommenders.tiger.model import Spelt, batch_losses, sample_losses, started

PROBES = 4
ROWS = 256
"""Most samples in a batch where nothing is trained."""


def train(model: Any, samples: Spelt, stop: Spelt, config: TIGERConfig, runtime: Runtime, folder: Path) -> FitReport:
    """Train all parameters in place on the mean loss per code; see ``fine_tuning.train``."""

    def collate(positions: NDArray[np.int64]) -> dict[str, Any]:
        batch = samples.batch(positions)
        return {**batch, "decoder_input_ids": started(batch["labels"])}

    def read(folder: Path) -> dict[str, torch.Tensor]:
        saved = load_file(folder / "model.safetensors")
        return {name: saved[name] for name in fine_tuning.trained_weights(model)}

    task = fine_tuning.Task(
        model,
        samples.lengths,
        collate,
        lambda outputs, labels: sample_losses(outputs.logits, labels).sum(),
        (lambda: mean_code_loss(model, stop, config.batch_tokens, runtime.team)) if len(stop) else None,
        read,
        config.precision,
        {"adafactor": "adafactor", "adamw": None}[config.optimizer],
    )
    report = fine_tuning.train(task, config, runtime, folder)
    if runtime.team.leads:
        _check_reload(model, samples, folder / "model")
    return report


@torch.inference_mode()
def mean_code_loss(model: Any, spelt: Spelt, batch_tokens: int, team: Team) -> float:
    """−log P per code of all answers, in evaluation mode; each process of the team takes its share."""
    assert spelt.answers is not None
    training = model.training
    model.eval()
    total = sum(
        float(batch_losses(model, spelt.batch(positions, model.device)).double().sum())
        for positions in spelt.batches(ROWS, batch_tokens)[team.mine]
    )
    model.train(training)
    return team.total(total)[0] / max(spelt.answers.size, 1)


@torch.inference_mode()
def _check_reload(model: Any, spelt: Spelt, folder: Path) -> None:
    """Save the model, read it back beside itself, and compare losses on a few samples."""
    model.save_pretrained(folder)
    batch = spelt.batch(np.arange(min(PROBES, len(spelt))), model.device)
    here, there = (batch_losses(one, batch) for one in (model, read_model(folder, model.device)))
    if not torch.allclose(here, there, rtol=1e-4, atol=1e-4):
        worst = float((here - there).abs().max())
        raise RecommenderError(f"the model saved in {folder} does not reproduce its losses (off by {worst:.2g})")


def read_model(folder: Path, device: torch.device) -> Any:
    """A saved model in evaluation mode. Raises OSError or ValueError where there is none."""
    return T5ForConditionalGeneration.from_pretrained(folder).to(device).eval()
