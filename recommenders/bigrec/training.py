"""Fine-tuning the adapter with transformers' Trainer: data order, early stopping, resuming."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from prunebench.recommenders.base import FitReport, RecommenderError
from prunebench.recommenders.bigrec.config import BIGRecConfig
from prunebench.recommenders.bigrec.model import (
    adapter_state,
    mean_token_loss,
    model_inputs,
    restore_adapter,
    token_losses,
)
from prunebench.recommenders.bigrec.prompts import Prompts
from prunebench.recommenders.runtime import Runtime

STATE = "trainer_state.json"


class _Positions(Dataset):
    """Rows of the prompts; the collator does the rest."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> int:
        return position


class EpochOrder(Sampler[int]):
    """An order per epoch from the seed "data order", and within each optimiser step's samples by length.

    So an optimiser step sees a random batch, a micro-batch samples of like length, and the order depends on the seed
    and the number of samples only, not on which samples they are.
    """

    def __init__(self, lengths: NDArray[np.int64], batch: int, runtime: Runtime) -> None:
        self._lengths, self._batch, self._runtime, self._epoch = lengths, batch, runtime, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def order(self, epoch: int) -> NDArray[np.int64]:
        order = self._runtime.rng("data order", epoch).permutation(len(self._lengths))
        step = np.arange(len(order)) // self._batch
        return order[np.lexsort((-self._lengths[order], step))]

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self._epoch).tolist())

    def consumed(self, steps: int) -> tuple[int, int]:
        """Samples and tokens (padding not counted) that the first ``steps`` optimiser steps saw."""
        size = len(self._lengths)
        epochs, rest = divmod(steps, -(-size // self._batch))
        last = self.order(epochs)[: rest * self._batch]
        return epochs * size + len(last), int(epochs * self._lengths.sum() + self._lengths[last].sum())


class _AdapterTrainer(Trainer):
    """The Trainer with our data order, and with the stop loss for its evaluation."""

    def __init__(self, *args: Any, order: EpochOrder, stop: Prompts, batch_tokens: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._order, self._stop, self._batch_tokens = order, stop, batch_tokens

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics: dict[str, float] = {
            "eval_loss": mean_token_loss(self.model, self._stop, self._batch_tokens, self.args.device)
        }
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Watch(TrainerCallback):
    """Progress, cancellation, and early stopping that counts step 0 as a candidate. All its state is the Trainer's."""

    def __init__(self, config: BIGRecConfig, runtime: Runtime, initial: dict[str, torch.Tensor], zero: float) -> None:
        self._config, self._runtime, self._initial, self._zero = config, runtime, initial, zero
        self.changed = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.best_metric is None:
            state.best_metric, state.best_global_step = self._zero, 0
        self._runtime.report(state.global_step, state.max_steps, "fine-tuning")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._runtime.checkpoint()
        self._runtime.report(state.global_step, state.max_steps, "fine-tuning")
        if state.global_step >= state.max_steps:
            control.should_evaluate, control.should_save = args.eval_strategy != "no", True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        if not metrics["eval_loss"] < state.best_metric and exhausted(state, self._config.patience):
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._runtime.saved()

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        now = adapter_state(model)
        self.changed = any(not torch.equal(now[name], value) for name, value in self._initial.items())


def exhausted(state: Any, patience: int) -> bool:
    """Whether ``patience`` looks at the stop loss have passed since the best one."""
    since = [entry for entry in state.log_history if "eval_loss" in entry and entry["step"] > state.best_global_step]
    return len(since) >= patience


def train(
    model: Any, samples: Prompts, stop: Prompts, config: BIGRecConfig, runtime: Runtime, folder: Path
) -> FitReport:
    """Fine-tune ``model``'s adapter in place and leave the best weights in it.

    Candidates are step 0 and every ``eval_every`` optimiser steps; the lowest loss per answer token of ``stop`` wins
    (without stop prompts, the last step). ``folder`` keeps checkpoints; an interrupted run continues from the last.
    Draws from the global generators (dropout); wrap it in ``global_generators_kept``.
    Raises RecommenderError if training left the adapter as it was, or its loss is not finite.
    """
    initial = adapter_state(model)
    order = EpochOrder(samples.lengths, config.batch, runtime)
    zero = mean_token_loss(model, stop, config.batch_tokens, runtime.device)
    watch = _Watch(config, runtime, initial, zero)
    trainer = _trainer(model, samples, stop, order, watch, config, runtime, folder)
    checkpoint = _last_checkpoint(folder)
    state = TrainerState.load_from_json(str(checkpoint / STATE)) if checkpoint else trainer.state
    if checkpoint and (state.global_step >= config.max_steps or (len(stop) and exhausted(state, config.patience))):
        load_weights(model, checkpoint)
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        state = trainer.state
    model.eval()
    losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    if not all(np.isfinite([zero, *losses])):
        raise RecommenderError(f"the stop loss became {losses[-1:] or zero}: lower lr ({config.lr}) or use fp32")
    if state.global_step and not watch.changed:
        raise RecommenderError(f"{state.global_step} optimiser steps left the adapter unchanged: check lr and targets")
    best = state.best_global_step if len(stop) else state.global_step
    if best == 0:
        restore_adapter(model, initial)
    elif best != state.global_step:
        load_weights(model, folder / f"checkpoint-{best}")
    seen, tokens = order.consumed(state.global_step)
    return FitReport(state.global_step, tokens, seen, (zero, *losses) if len(stop) else (), best)


def _trainer(
    model: Any,
    samples: Prompts,
    stop: Prompts,
    order: EpochOrder,
    watch: _Watch,
    config: BIGRecConfig,
    runtime: Runtime,
    folder: Path,
) -> _AdapterTrainer:
    on_cpu = runtime.device.type == "cpu"
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=config.batch // config.micro_batch,
        learning_rate=config.lr,
        lr_scheduler_type=config.schedule,
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        eval_strategy="steps" if len(stop) else "no",
        eval_steps=config.eval_every,
        save_strategy="steps",
        save_steps=config.eval_every,
        save_total_limit=2,
        load_best_model_at_end=bool(len(stop)),
        metric_for_best_model="eval_loss" if len(stop) else None,
        greater_is_better=False,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        seed=runtime.derive("dropout") % 2**32,
        use_cpu=on_cpu,
        bf16=config.precision == "bf16",
        fp16=config.precision in ("fp16", "int8"),
    )

    # With several GPUs the Trainer would wrap the model in DataParallel, which cannot split our inputs.
    arguments._n_gpu = min(1, arguments.n_gpu)

    def collate(positions: list[int]) -> dict[str, Any]:
        batch = samples.batch(np.array(positions, np.int64))
        return {**model_inputs(model, batch, batch.loss_columns + 1), "labels": batch.labels}

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int) -> torch.Tensor:
        # The mean over the counted tokens of the whole optimiser step, however it is cut into micro-batches.
        return token_losses(outputs.logits, labels)[0].sum() / num_items_in_batch

    trainer = _AdapterTrainer(
        model,
        arguments,
        data_collator=collate,
        train_dataset=_Positions(len(samples)),
        eval_dataset=_Positions(len(stop)),
        compute_loss_func=loss,
        callbacks=[watch],
        order=order,
        stop=stop,
        batch_tokens=config.batch_tokens,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def load_weights(model: Any, folder: Path) -> None:
    """Read a saved adapter's weights into the model's own adapter."""
    saved = load_file(folder / "adapter_model.safetensors")
    restore_adapter(model, {name: saved[name.replace(".default", "")] for name in adapter_state(model)})


def _last_checkpoint(folder: Path) -> Path | None:
    """The latest complete checkpoint; the Trainer writes ``trainer_state.json`` after weights and optimiser."""
    found = {}
    for path in folder.glob(f"checkpoint-*/{STATE}"):
        try:
            found[json.loads(path.read_text())["global_step"]] = path.parent
        except ValueError:
            continue
    return found[max(found)] if found else None
