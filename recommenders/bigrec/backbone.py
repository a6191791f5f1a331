"""BIGRec: an LLM fine-tuned to write the next item's title, grounded to items by vector distance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunebench.datasets.schema import Queries, Samples, Sequences
from prunebench.recommenders.base import (
    AlignmentConfig,
    FitReport,
    Float32,
    Rankings,
    RecommenderError,
    Request,
    Resources,
    Stage,
)
from prunebench.recommenders.bigrec.config import PRESETS, STAGE_KEYS, BIGRecConfig
from prunebench.recommenders.bigrec.generation import generate_titles
from prunebench.recommenders.bigrec.less import alignment
from prunebench.recommenders.bigrec.model import (
    adapter_digest,
    add_adapter,
    check_precision,
    embed_texts,
    load_adapter,
    load_base,
    load_tokenizer,
    model_inputs,
    sample_losses,
    window,
)
from prunebench.recommenders.bigrec.prompts import PromptBuilder, Prompts, choose_template
from prunebench.recommenders.bigrec.readings import answer_losses, token_errors, user_vectors
from prunebench.recommenders.bigrec.training import train
from prunebench.recommenders.fine_tuning import global_generators_kept
from prunebench.recommenders.gradients import gradient_norms
from prunebench.recommenders.grounding import Grounding
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.user_texts import title_tokens

PROBES = 4
REPORT = "report.json"


class BIGRec:
    """A backbone in the sense of ``recommenders.base.Backbone``, with effort (Bao et al., 2023, arXiv 2308.08434)."""

    Config, PRESETS = BIGRecConfig, PRESETS
    version = 1
    uses_samples = True
    joint = True
    reads = ("titles", "samples", "stop")

    def __init__(self, config: BIGRecConfig, resources: Resources) -> None:
        self.config, self.resources = config, resources
        self._item_vectors: Float32 | None = None
        self._base: Any = None
        self._start: tuple[int, Any, PromptBuilder] | None = None

    def needs(self, stage: Stage) -> dict[str, Request]:
        needs = {"llm": Request("llm", {"name": self.config.llm})}
        if stage == "recommend" and self.config.grounding == "sentence":
            needs["title_vectors"] = Request("title_vectors")
        return needs

    def key(self, stage: Stage) -> dict[str, Any]:
        """Settings that decide a stage's result. The LLM comes in through ``needs``, the fit as what is loaded."""
        key = self.config.model_dump(mode="json", include=set(STAGE_KEYS[stage]))
        if "item_noun" in STAGE_KEYS[stage]:
            key["item_noun"] = self.noun
        if "start_adapter" in STAGE_KEYS[stage] and self.config.start_adapter is not None:
            key["start_adapter_digest"] = adapter_digest(self.config.start_adapter)
        return key

    @property
    def noun(self) -> str:
        """What the prompt calls an item."""
        return self.config.item_noun or self.resources.dataset.meta.get("item_noun", "item")

    @cached_property
    def llm(self) -> str:
        """Folder or Hub id of the LLM."""
        return str(self.resources.llm())

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.llm)

    def check_machine(self, runtime: Runtime) -> None:
        check_precision(self.config.precision, runtime.device)

    def base(self, runtime: Runtime) -> Any:
        return load_base(self.llm, self.config.precision, runtime.device)

    def starting(self, runtime: Runtime) -> tuple[Any, PromptBuilder]:
        """The LLM with its adapter as it starts, and its prompts: read but never trained, so kept for the next samples."""
        if self._start is None or self._start[0] != runtime.seed:
            model = add_adapter(self.base(runtime), self.config, runtime)
            self._start = runtime.seed, model, self.prompts(model)
        return self._start[1:]

    @cached_property
    def title_tokens(self) -> NDArray[np.int64]:
        return title_tokens(self.tokenizer, self.resources.dataset.titles)

    def prompts(self, model: Any) -> PromptBuilder:
        config, dataset = self.config, self.resources.dataset
        return PromptBuilder(
            self.tokenizer,
            dataset.titles,
            choose_template(config.template, self.noun, self.llm),
            max_history=config.max_history,
            cutoff=config.cutoff,
            window=window(model),
        )

    @global_generators_kept()
    def fit(self, samples: Samples, stop: Queries, runtime: Runtime, folder: Path) -> FittedBIGRec:
        """Fine-tune the adapter. Without samples the adapter stays as it is: zero-shot.

        The stop loss is that of each stop user's first target, per answer token.
        Raises RecommenderError if the LLM cannot be had, if the adapter did not change, or if it does not survive
        being saved and read again.
        """
        model = add_adapter(self.base(runtime), self.config, runtime)
        builder = self.prompts(model)
        report = FitReport()
        if len(samples) and self.config.max_steps:
            prompts = builder.with_answers(samples.histories, samples.targets, self.config.loss_on)
            first = stop.targets.items[stop.targets.offsets[:-1]]
            stopping = builder.with_answers(stop.histories, first, "answer")
            folder.mkdir(parents=True, exist_ok=True)
            report = train(model, prompts, stopping, self.config, runtime, folder)
            if runtime.team.leads:
                _check_reload(model, prompts, folder / "adapter", runtime)
        return FittedBIGRec(self, model, builder, report)

    @global_generators_kept()
    def load(self, folder: Path, runtime: Runtime) -> FittedBIGRec:
        """A saved model. Raises RecommenderError if the folder holds none."""
        try:
            report = FitReport(**json.loads((folder / REPORT).read_text("utf-8")))
            report = replace(report, valid_losses=tuple(report.valid_losses))
        except (OSError, ValueError, TypeError) as error:
            raise RecommenderError(f"{folder} holds no BIGRec model: {error}") from error
        model = load_adapter(self.base(runtime), folder)
        return FittedBIGRec(self, model, self.prompts(model), report)

    @global_generators_kept()
    def effort(self, samples: Samples, runtime: Runtime) -> Float32:
        """‖∇_φ L(s)‖₂ per sample, float32 [n], at the adapter's start (Eq. 12).

        L is the sum (or mean) of −log P over the tokens ``loss_on`` counts; dropout is off. φ: all adapter parameters,
        or as released only ``lora_B`` of the last layer's ``v_proj``.
        """
        model, builder = self.starting(runtime)
        prompts = builder.with_answers(samples.histories, samples.targets, self.config.loss_on)
        layers = effort_layers(model, self.config.effort_scope)
        return efforts(model, prompts, layers, self.config, runtime)

    @global_generators_kept()
    def user_vectors(self, histories: Sequences, runtime: Runtime) -> Float32:
        """The base LLM's last layer at the last token of each user's titles, joined by "; ", float32 [n, d].

        The oldest titles are dropped where a text exceeds ``cutoff`` or the LLM's window.
        """
        if self._base is None:
            self._base = self.base(runtime)
        model, config, titles = self._base, self.config, self.resources.dataset.titles
        room = min(config.cutoff, window(model) or config.cutoff)
        return user_vectors(
            model, self.tokenizer, titles, self.title_tokens, histories, room, config.batch_tokens, runtime
        )

    @global_generators_kept()
    def token_errors(self, samples: Samples, runtime: Runtime) -> Float32:
        """Mean over the answer's tokens of ‖softmax − onehot‖₂ at the adapter's start, float32 [n]."""
        model, builder = self.starting(runtime)
        prompts = builder.with_answers(samples.histories, samples.targets, "answer")
        return token_errors(model, prompts, self.config.batch_tokens, runtime)

    @global_generators_kept()
    def alignment(
        self, samples: Samples, validation: Queries, settings: AlignmentConfig, runtime: Runtime, folder: Path
    ) -> Float32:
        """LESS's scores, float32 [n]: the adapter's Adam step on a sample against validation users' mean gradient."""
        model = add_adapter(self.base(runtime), self.config, runtime)
        builder = self.prompts(model)
        return alignment(model, builder, samples, validation, self.config, settings, runtime, folder)

    def embed(self, model: Any, texts: list[str], runtime: Runtime) -> Float32:
        """Vectors to ground with, float32 [n, d]: the base LLM's or the sentence encoder's."""
        if self.config.grounding == "sentence":
            return self.resources.encode(texts)
        return embed_texts(model, self.tokenizer, texts, self.config.batch_tokens, runtime)

    def grounding(self, model: Any, runtime: Runtime) -> Grounding:
        titles = self.resources.dataset.titles
        if self.config.grounding == "sentence":
            return Grounding(titles, self.resources.title_vectors())
        if self._item_vectors is None:
            self._item_vectors = self.embed(model, list(titles), runtime)
        return Grounding(titles, self._item_vectors)


class FittedBIGRec:
    """A fine-tuned (or zero-shot) BIGRec."""

    def __init__(self, backbone: BIGRec, model: Any, builder: PromptBuilder, report: FitReport) -> None:
        self.backbone, self.model, self.builder, self.report = backbone, model, builder, report

    def generate(self, histories: Sequences, runtime: Runtime) -> list[list[str]]:
        """``ground_beams`` titles per history, likeliest first, as the LLM writes them."""
        config = self.backbone.config
        prompts = self.builder.without_answers(histories, config.max_new_tokens)
        return generate_titles(
            self.model,
            self.backbone.tokenizer,
            prompts,
            runtime,
            end=self.builder.end_token,
            beams=config.beams,
            new_tokens=config.max_new_tokens,
            wanted=config.ground_beams,
            batch=config.generation_batch,
        )

    def recommend(self, histories: Sequences, depth: NDArray[np.int64], runtime: Runtime) -> Rankings:
        """All items by the distance of their titles to the nearest generated one; see ``Fitted.recommend``."""
        written = self.generate(histories, runtime)
        vectors = self.backbone.embed(self.model, [title for titles in written for title in titles], runtime)
        queries = vectors.reshape(len(written), self.backbone.config.ground_beams, vectors.shape[1])
        return self.backbone.grounding(self.model, runtime).rank(queries, depth, runtime)

    def target_losses(
        self, users: NDArray[np.int64], histories: Sequences, targets: NDArray[np.int32], runtime: Runtime
    ) -> Float32:
        """−log P of the tokens of each target's title, its end included, after the prompt ``recommend`` continues."""
        config = self.backbone.config
        prompts = self.builder.with_answers(histories, targets, "answer", config.max_new_tokens)
        return answer_losses(self.model, prompts, config.batch_tokens, runtime)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        (folder / REPORT).write_text(json.dumps(asdict(self.report)), "utf-8")


def effort_layers(model: Any, scope: str) -> list[nn.Linear]:
    """The linear layers whose gradient counts. While a B is zero its A has no gradient and is left out.

    Raises RecommenderError if the released scope finds no adapter on a v_proj.
    """
    pairs = [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_B") and module.lora_B]
    if scope == "released":
        values = [module for name, module in pairs if name.endswith("v_proj")]
        if not values:
            raise RecommenderError("effort_scope=released needs the adapter on v_proj: add it to lora.targets")
        return [values[-1].lora_B["default"]]
    layers: list[nn.Linear] = []
    for _, module in pairs:
        down, up = module.lora_A["default"], module.lora_B["default"]
        layers += [down, up] if bool(up.weight.any()) else [up]
    return layers


def efforts(model: Any, prompts: Prompts, layers: list[nn.Linear], config: BIGRecConfig, runtime: Runtime) -> Float32:
    """Gradient norms of all prompts over ``layers``, in batches of like length, float32 [n]."""
    norms = np.empty(len(prompts), np.float32)
    for positions in _reported(prompts.batches(config.batch_tokens), len(prompts), "effort", runtime):
        batch = prompts.batch(positions).to(runtime.device)

        def losses(batch: Any = batch) -> torch.Tensor:
            sums, counts = sample_losses(model, batch)
            return sums / counts if config.effort_loss == "mean" else sums

        norms[positions] = gradient_norms(model, layers, losses).cpu().numpy()
    return norms


def _reported(
    batches: Iterator[NDArray[np.int64]], total: int, what: str, runtime: Runtime
) -> Iterator[NDArray[np.int64]]:
    done = 0
    for positions in batches:
        runtime.checkpoint()
        yield positions
        done += len(positions)
        runtime.report(done, total, what)


@torch.inference_mode()
def _check_reload(model: Any, prompts: Prompts, folder: Path, runtime: Runtime) -> None:
    """Save the adapter, read it back beside itself, and compare logits on a few prompts."""
    model.save_pretrained(folder)
    inputs = model_inputs(model, prompts.batch(np.arange(min(PROBES, len(prompts)))).to(runtime.device))
    here = model(**inputs).logits
    model.load_adapter(str(folder), adapter_name="reloaded")
    model.set_adapter("reloaded")
    there = model(**inputs).logits
    model.set_adapter("default")
    model.delete_adapter("reloaded")
    if not torch.allclose(here, there, rtol=1e-4, atol=1e-4):
        worst = float((here - there).abs().max())
        raise RecommenderError(f"the adapter saved in {folder} does not reproduce its outputs (off by {worst:.2g})")
