"""Processes that do one thing together: each one's share of it, and what they tell each other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed
from accelerate.utils import patch_environment

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """Process ``rank`` of ``size``; alone unless told otherwise. The first one leads: it alone writes files.

    All methods but ``environment`` are collective: every process calls them, in the same order. ``variables`` are those
    of the launcher: libraries that join processes by themselves (accelerate, and with it the Trainer) look for them.
    """

    rank: int = 0
    size: int = 1
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def mine(self) -> slice:
        """This process's share of any sequence: dealt out like cards, so that what is sorted by length is shared evenly."""
        return slice(self.rank, None, self.size)

    def environment(self) -> AbstractContextManager[None]:
        """The launcher's variables, for as long as a library is to know of the other processes."""
        return patch_environment(**self.variables)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def agreed(self, value: T) -> T:
        """The leader's value."""
        values = [value]
        if self.size > 1:
            torch.distributed.broadcast_object_list(values)
        return values[0]

    def total(self, *numbers: float) -> list[float]:
        """Each number summed over the processes, to the same last bit in all of them."""
        if self.size == 1:
            return list(numbers)
        own = torch.tensor(numbers, dtype=torch.float64)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        torch.distributed.all_gather(parts, own)
        return torch.stack(parts).sum(0).tolist()

    def gathered(self, value: T) -> list[T]:
        """The leader gets everyone's value, by rank; the others nothing."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        torch.distributed.gather_object(value, values if self.leads else None)
        return values if self.leads else []


ALONE = Team()
