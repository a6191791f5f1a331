"""What every expensive computation is given: device, named seeds, progress and cancellation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import torch

from prunebench.recommenders.distributed import ALONE, Team

T = TypeVar("T")


class Cancelled(Exception):
    """The caller asked a long computation to stop."""


def _quiet(done: int, total: int | None, what: str) -> None:
    return None


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Runtime:
    """Passed in, never global: no library code below the command line reads the environment or a global generator.

    ``seed`` is the base; every purpose derives a generator of its own by name, so that adding one more
    random draw anywhere never changes another. ``report(done, total, what)`` receives progress; ``cancelled()`` is polled;
    ``saved()`` is to be called after a checkpoint was written, so that neither it nor the time up to it is lost to a kill;
    a file written since then is, and one vouched for must not be written again: remove it after the next one is saved.
    ``team``: the processes that do this together; what it calls the leader writes all files.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[int, int | None, str], None] = _quiet
    cancelled: Callable[[], bool] = bool
    saved: Callable[[], None] = _nothing
    team: Team = ALONE

    def derive(self, *purpose: str | int) -> int:
        """A 63-bit seed that depends on the base seed and on the purpose's name only."""
        text = "\x1f".join([str(self.seed), *map(str, purpose)])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

    def rng(self, *purpose: str | int) -> np.random.Generator:
        """NumPy generator for a purpose."""
        return np.random.default_rng(self.derive(*purpose))

    def torch_rng(self, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
        """Torch generator for a purpose, on ``device``."""
        return torch.Generator(device=device).manual_seed(self.derive(*purpose))

    def with_seed(self, seed: int) -> Runtime:
        return replace(self, seed=seed)

    def checkpoint(self) -> None:
        """Raise Cancelled if the caller asked to stop."""
        if self.cancelled():
            raise Cancelled

    def track(self, items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
        """Yield ``items``, reporting progress and honouring cancellation between them."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        self.report(0, total, what)
        for done, item in enumerate(items, 1):
            self.checkpoint()
            yield item
            self.report(done, total, what)
