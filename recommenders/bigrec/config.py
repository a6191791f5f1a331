"""Every knob of the BIGRec backbone, and the paper's LLaMA-7B settings as a preset."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from prunebench.recommenders.base import Config, Stage
from prunebench.recommenders.fine_tuning import TRAINING_KEYS, TrainingConfig


class LoRA(Config):
    """The adapter. ``targets``: module names, ``auto`` (q_proj and v_proj, else peft's choice) or ``all-linear``."""

    r: int = Field(8, ge=1, description="rank")
    alpha: float = Field(16.0, gt=0, description="scale; the update is (alpha / r) B A")
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] | Literal["auto", "all-linear"] = "auto"


class BIGRecConfig(TrainingConfig):
    """Defaults suit the small catalogue LLM on a CPU; ``preset("llama-7b")`` has the paper's settings.

    ``llm``: "catalogue", a Hub id or a local folder with a causal LM of transformers and its tokenizer.
    """

    llm: str = Field("catalogue", min_length=1)
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    lora: LoRA = Field(default_factory=lambda: LoRA.model_validate({}))
    start_adapter: str | None = Field(None, description="folder or Hub id of a LoRA adapter to start from")

    template: Literal["auto", "alpaca", "compact"] = Field(
        "auto", description="auto: the LLM folder's own, else alpaca"
    )
    item_noun: str | None = Field(
        None,
        description="what the Alpaca instruction calls an item; else the data set's meta['item_noun'], else 'item'",
    )
    max_history: int = Field(20, ge=0, description="titles; older ones are dropped")
    cutoff: int = Field(512, ge=8, description="tokens of prompt and answer together")
    loss_on: Literal["answer", "all"] = Field("answer", description="tokens that count in fine-tuning and effort")

    beams: int = Field(4, ge=1)
    max_new_tokens: int = Field(32, ge=1, description="tokens of a generated title, the end token included")
    generation_batch: int = Field(64, ge=1, description="prompts decoded together")
    batch_tokens: int = Field(
        2048, ge=1, description="padded tokens per batch where nothing is trained; on a CPU more is slower"
    )

    grounding: Literal["llm", "sentence"] = Field("llm", description="who embeds generated titles and items")
    ground_beams: int = Field(
        1, ge=1, description="best beams an item may be near to, at most `beams`; the paper grounds the first alone"
    )

    effort_loss: Literal["sum", "mean"] = Field("sum", description="over a sample's counted tokens")
    effort_scope: Literal["adapter", "released"] = Field(
        "adapter", description="all adapter parameters, or only lora_B of the last layer's v_proj as released"
    )

    def model_post_init(self, context: Any) -> None:
        super().model_post_init(context)
        if self.ground_beams > self.beams:
            raise ValueError(
                f"ground_beams {self.ground_beams} is more than beams {self.beams}: lower it or raise beams"
            )


_MODEL = ("precision", "lora", "start_adapter")
_PROMPT = ("template", "item_noun", "max_history", "cutoff")
STAGE_KEYS: dict[Stage, tuple[str, ...]] = {
    "effort": (*_MODEL, *_PROMPT, "loss_on", "effort_loss", "effort_scope"),
    "errors": (*_MODEL, *_PROMPT),
    "vectors": ("precision", "cutoff"),
    "alignment": (*_MODEL, *_PROMPT, "loss_on", "lr", "batch", "micro_batch", "weight_decay"),
    "fit": (*_MODEL, *_PROMPT, "loss_on", *TRAINING_KEYS),
    "recommend": ("precision", *_PROMPT, "beams", "max_new_tokens", "grounding", "ground_beams"),
}
"""The knobs each stage's result depends on; the rest only decides how fast it comes."""

PRESETS: dict[str, dict[str, Any]] = {
    "llama-7b": {
        "llm": "huggyllama/llama-7b",
        "precision": "int8",
        "lora": {"r": 8, "alpha": 16.0, "dropout": 0.05, "targets": ("q_proj", "v_proj")},
        "template": "alpaca",
        "cutoff": 512,
        "loss_on": "all",
        "lr": 1e-4,
        "batch": 128,
        "micro_batch": 16,
        "schedule": "linear",
        "beams": 4,
        "max_new_tokens": 128,
        "batch_tokens": 8192,
        "grounding": "llm",
    }
}
"""``llama-7b``: the paper's settings. An Alpaca-LoRA start is ``start_adapter="tloen/alpaca-lora-7b"``."""


def preset(name: str, **overrides: Any) -> BIGRecConfig:
    """A named configuration with some knobs replaced. Raises ValueError for an unknown name or value."""
    if name not in PRESETS:
        raise ValueError(f"no BIGRec preset {name!r}; there are: {', '.join(PRESETS)}")
    return BIGRecConfig.model_validate({**PRESETS[name], **overrides})
