"""Fine-tuning with transformers' Trainer: data order, early stopping, resuming; the same for every backbone."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from prunebench.recommenders.base import Config, FitReport, RecommenderError
from prunebench.recommenders.distributed import Team
from prunebench.recommenders.runtime import Runtime

STATE = "trainer_state.json"


class TrainingConfig(Config):
    """How long, how fast and how often; a backbone's own configuration adds what is trained."""

    lr: float = Field(1e-4, gt=0)
    batch: int = Field(128, ge=1, description="samples per optimiser step")
    micro_batch: int = Field(16, ge=1, description="samples per forward and backward; divides batch")
    max_steps: int = Field(400, ge=0, description="cap on optimiser steps")
    warmup_steps: int = Field(
        0, ge=0, description="of linear increase; of inverse_sqrt: of the constant rate before it"
    )
    schedule: Literal["constant", "linear", "cosine", "inverse_sqrt"] = "constant"
    weight_decay: float = Field(0.0, ge=0)
    eval_every: int = Field(10, ge=1, description="optimiser steps between looks at the stop loss (and checkpoints)")
    patience: int = Field(3, ge=1, description="looks without improvement before stopping")

    def model_post_init(self, context: Any) -> None:
        if self.batch % self.micro_batch:
            raise ValueError(f"batch {self.batch} is not a multiple of micro_batch {self.micro_batch}")


TRAINING_KEYS = tuple(TrainingConfig.model_fields)


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained, on what, towards what.

    ``lengths`` int64 [n]: the tokens of each sample. ``collate(positions)``: the model's inputs with ``labels``, where
    −100 does not count. ``loss(outputs, labels)``: the sum over the counted tokens. ``stop_loss()``: per token, over the
    stop users, in evaluation mode; None where there are none. ``read(folder)``: the trained parameters saved in a
    checkpoint, by name. ``precision``: fp32, bf16, fp16 or int8. ``optimizer``: as the Trainer names it; None: AdamW.
    """

    model: Any
    lengths: NDArray[np.int64]
    collate: Callable[[NDArray[np.int64]], dict[str, Any]]
    loss: Callable[[Any, torch.Tensor], torch.Tensor]
    stop_loss: Callable[[], float] | None
    read: Callable[[Path], dict[str, torch.Tensor]]
    precision: str = "fp32"
    optimizer: str | None = None


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


class Shares(Sampler[list[int]]):
    """This process's micro-batches: its share of every optimiser step, cut into as many pieces as everyone else's.

    All processes together see the same steps as one alone. A piece is empty where a step has fewer samples than there
    are pieces.
    """

    def __init__(self, order: EpochOrder, config: TrainingConfig, team: Team) -> None:
        self._order, self._config, self._team, self._epoch = order, config, team, 0
        self.pieces = self._cut(config.batch)
        """Of a whole step."""

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def _cut(self, size: int) -> int:
        return -(-size // (self._team.size * self._config.micro_batch))

    def __len__(self) -> int:
        whole, rest = divmod(len(self._order), self._config.batch)
        return whole * self.pieces + self._cut(rest)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order.order(self._epoch)
        for step in np.split(order, np.arange(self._config.batch, len(order), self._config.batch)):
            for piece in np.array_split(step[self._team.mine], self._cut(len(step))):
                yield piece.tolist()


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Trainer, dropout and peft draw from global generators; give them back as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def trained_weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of the parameters that are trained, on the CPU, by name."""
    return {name: weight.detach().cpu().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def restore_weights(model: Any, weights: dict[str, torch.Tensor]) -> None:
    """Write ``trained_weights`` back, in place."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)


def train(task: Task, config: TrainingConfig, runtime: Runtime, folder: Path) -> FitReport:
    """Train the task's model in place and leave the best weights in it, in evaluation mode.

    Candidates are step 0 and every ``eval_every`` optimiser steps; the lowest stop loss wins (without stop users, the
    last step). ``folder`` keeps checkpoints; an interrupted run continues from the last. Draws from the global
    generators (dropout); wrap it in ``global_generators_kept``. The processes of a team take the same steps as one
    alone, on a share of the samples each; only what dropout draws depends on their number.
    Raises RecommenderError if training left the weights as they were, or the stop loss is not finite.
    """
    model, stopping = task.model, task.stop_loss is not None
    initial = trained_weights(model)
    order = EpochOrder(task.lengths, config.batch, runtime)
    zero = task.stop_loss() if task.stop_loss else 0.0
    watch = _Watch(config, runtime, initial, zero)
    checkpoint = runtime.team.agreed(_last_checkpoint(folder))
    state = TrainerState.load_from_json(str(checkpoint / STATE)) if checkpoint else TrainerState()
    if checkpoint and (state.global_step >= config.max_steps or (stopping and exhausted(state, config.patience))):
        restore_weights(model, task.read(checkpoint))
    else:
        forward = model.forward
        with runtime.team.environment():
            trainer = _trainer(task, order, watch, config, runtime, folder)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        # Accelerate leaves its autocast on the model: it would not compute what the saved one does.
        model.forward, state = forward, trainer.state
    model.eval()
    losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
    if not all(np.isfinite([zero, *losses])):
        raise RecommenderError(f"the stop loss became {losses[-1:] or zero}: lower lr ({config.lr}) or use fp32")
    if state.global_step and not watch.changed:
        raise RecommenderError(
            f"{state.global_step} optimiser steps left the weights unchanged: check lr and what is trained"
        )
    best = state.best_global_step if stopping else state.global_step
    if best == 0:
        restore_weights(model, initial)
    elif best != state.global_step:
        restore_weights(model, task.read(folder / f"checkpoint-{best}"))
    seen, tokens = order.consumed(state.global_step)
    return FitReport(state.global_step, tokens, seen, (zero, *losses) if stopping else (), best)


class _Positions(Dataset):
    """Rows of the samples; the collator does the rest."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, position: int) -> int:
        return position


class _Loader(DataLoader):
    """Shares as they are: the Trainer would deal them out once more."""

    def set_epoch(self, epoch: int) -> None:
        cast(Shares, self.batch_sampler).set_epoch(epoch)


class _OrderedTrainer(Trainer):
    """The Trainer with our data order and shares, T5's schedule, and the stop loss for its evaluation."""

    def __init__(
        self,
        *args: Any,
        order: EpochOrder,
        shares: Shares | None,
        stop_loss: Callable[[], float] | None,
        constant_steps: int | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._order, self._shares = order, shares
        self._stop_loss, self._constant_steps = stop_loss, constant_steps

    def get_train_dataloader(self) -> DataLoader:
        if self._shares is None:
            return super().get_train_dataloader()
        pinned = self.args.dataloader_pin_memory
        return _Loader(self.train_dataset, batch_sampler=self._shares, collate_fn=self.data_collator, pin_memory=pinned)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        hold = self._constant_steps
        if hold is None:
            return super().create_scheduler(num_training_steps, optimizer)
        # The Trainer's own inverse_sqrt rises linearly first; T5's is constant until then.
        self.lr_scheduler: Any = LambdaLR(optimizer or self.optimizer, lambda step: (hold / max(step, hold)) ** 0.5)
        return self.lr_scheduler

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        assert self._stop_loss is not None
        metrics: dict[str, float] = {"eval_loss": self._stop_loss()}
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Watch(TrainerCallback):
    """Progress, cancellation, and early stopping that counts step 0 as a candidate. All its state is the Trainer's."""

    def __init__(self, config: TrainingConfig, runtime: Runtime, initial: dict[str, torch.Tensor], zero: float) -> None:
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
        self._runtime.team.wait()  # each process has put its generators beside the weights
        if not self._runtime.team.leads:
            return
        self._runtime.saved()
        for path in Path(args.output_dir).glob("checkpoint-*"):  # only now: a kill must find the last one or this one
            if path.name not in {f"checkpoint-{step}" for step in (state.global_step, state.best_global_step)}:
                shutil.rmtree(path)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        now = trained_weights(model)
        self.changed = any(not torch.equal(now[name], value) for name, value in self._initial.items())


def exhausted(state: Any, patience: int) -> bool:
    """Whether ``patience`` looks at the stop loss have passed since the best one."""
    since = [entry for entry in state.log_history if "eval_loss" in entry and entry["step"] > state.best_global_step]
    return len(since) >= patience


def _trainer(
    task: Task, order: EpochOrder, watch: _Watch, config: TrainingConfig, runtime: Runtime, folder: Path
) -> _OrderedTrainer:
    on_cpu, stopping, team = runtime.device.type == "cpu", task.stop_loss is not None, runtime.team
    shares = Shares(order, config, team) if team.size > 1 else None
    as_t5 = config.schedule == "inverse_sqrt"
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.micro_batch,
        gradient_accumulation_steps=shares.pieces if shares else config.batch // config.micro_batch,
        learning_rate=config.lr,
        lr_scheduler_type=config.schedule,
        warmup_steps=0 if as_t5 else config.warmup_steps,
        weight_decay=config.weight_decay,
        eval_strategy="steps" if stopping else "no",
        eval_steps=config.eval_every,
        save_strategy="steps",
        save_steps=config.eval_every,
        load_best_model_at_end=stopping,
        metric_for_best_model="eval_loss" if stopping else None,
        greater_is_better=False,
        logging_strategy="no",
        report_to="none",
        log_level_replica="passive",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        seed=runtime.derive("dropout", *([] if team.leads else [team.rank])) % 2**32,
        use_cpu=on_cpu,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        bf16=task.precision == "bf16",
        fp16=task.precision in ("fp16", "int8"),
        **({"optim": task.optimizer} if task.optimizer else {}),
    )
    # With several GPUs the Trainer would wrap the model in DataParallel, which cannot split our inputs.
    arguments._n_gpu = min(1, arguments.n_gpu)

    def collate(positions: list[int]) -> dict[str, Any]:
        inputs = task.collate(np.array(positions or [0], np.int64))
        # Every process must take part in every pass: one without a sample left counts none of another's tokens.
        return inputs if positions else {**inputs, "labels": torch.full_like(inputs["labels"], -100)}

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int) -> torch.Tensor:
        # The mean over the counted tokens of the whole optimiser step, however it is cut into micro-batches.
        return task.loss(outputs, labels) / num_items_in_batch

    trainer = _OrderedTrainer(
        task.model,
        arguments,
        data_collator=collate,
        train_dataset=_Positions(len(task.lengths)),
        eval_dataset=_Positions(1) if stopping else None,
        compute_loss_func=loss,
        callbacks=[watch],
        order=order,
        shares=shares,
        stop_loss=task.stop_loss,
        constant_steps=max(1, config.warmup_steps) if as_t5 else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _last_checkpoint(folder: Path) -> Path | None:
    """The latest complete checkpoint whose best one is there too: the Trainer ends with that one's weights.

    It writes ``trainer_state.json`` after weights and optimiser.
    """
    best: dict[int, int | None] = {}
    for path in folder.glob(f"checkpoint-*/{STATE}"):
        try:
            state = json.loads(path.read_text())
        except ValueError:
            continue
        best[state["global_step"]] = state["best_global_step"]
    usable = [step for step, of in best.items() if of in (None, 0, *best)]
    return folder / f"checkpoint-{max(usable)}" if usable else None
