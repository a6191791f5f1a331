"""Options that several commands of `bench` share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

HOME = "~/.prunebench"


class Plain(click.Group):
    """Commands in the order of a newcomer's day, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


def home_folder() -> Path:
    """Absolute: what a part does to the working directory must not move it."""
    return Path(os.environ.get("PRUNEBENCH_HOME") or HOME).expanduser().absolute()


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


JSON = click.option(
    "--json", "as_json", is_flag=True, help="Machine-readable: JSON and nothing else on standard output."
)
PLUGINS = click.option(
    "--plugin",
    "plugin_files",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Python file with a method, backbone or surrogate; repeatable.",
)
DEVICE = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda", "mps"]),
    default="auto",
    show_default=True,
    help="Where tensors live; auto takes a CUDA GPU if there is one.",
)
LEARNS = options(
    click.option(
        "--backbone",
        default=None,
        metavar="NAME",
        help="What is fine-tuned, see `bench ls backbones`.  [default: bigrec]",
    ),
    click.option(
        "--surrogate", default=None, metavar="NAME", help="Small model the scores come from.  [default: sasrec]"
    ),
)
SETUP = options(
    click.option(
        "--budget",
        default=None,
        metavar="N|P%|full",
        help="Training samples kept; 0 is zero-shot.  [default: the data set's: 256 on mini, 1024 on games]",
    ),
    click.option(
        "--llm",
        default=None,
        metavar="NAME",
        help="Base LLM: `catalogue` (pre-trained here on item text), a Hub id, or a local folder.  [default: catalogue]",
    ),
    click.option(
        "--preset",
        default=None,
        metavar="NAME",
        help="Named settings of the backbone; bigrec has llama-7b, the paper's (8-bit, LoRA, Alpaca template).",
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="A setting, e.g. method.lam=0.5 or surrogate.loss=ce; repeatable. See `bench ls settings`.",
    ),
    click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        default=None,
        metavar="FILE",
        help="TOML or JSON with the same settings; --set wins over it.",
    ),
    PLUGINS,
    DEVICE,
)
WHAT = options(
    click.option(
        "--method", default=None, metavar="NAME", help="Pruning method, see `bench ls methods`.  [default: dealrec]"
    ),
    LEARNS,
    click.option("--dataset", default=None, metavar="NAME", help="Data set, see `bench ls datasets`.  [default: mini]"),
    SETUP,
)
