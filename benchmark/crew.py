"""The processes of one run: the first walks through it and has the others join where there is a share for each."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
from torch import distributed

from prunebench.benchmark.config import ConfigError
from prunebench.benchmark.interrupts import RESUME
from prunebench.benchmark.launch import Launch
from prunebench.benchmark.meter import Bill, Meter
from prunebench.recommenders.distributed import ALONE, Team

PATIENCE = timedelta(hours=2)
"""How long one process waits for another within shared work, where one may load, save or compile for long."""
LOOK_EVERY_S, TOLD_WITHIN_S = 0.1, 5.0


class Crew:
    """Several processes, started by a launcher. The first owns store, console and records.

    The others sleep until it calls for them, by way of the launcher's key-value store; a process group exists while work
    is shared, and no longer. Leaving the ``with`` block tells them that there is no more to do, and raises
    ConnectionError where it was left because another process was lost.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch, self._calls = launch, 0
        self._team = Team(launch.rank, launch.size, launch.variables)
        with self._team.environment():
            self._store = next(iter(distributed.rendezvous("env://", timeout=PATIENCE)))[0]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.launch.leads:
            with suppress(distributed.DistError):
                self._store.set("end", "")
        if isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            raise ConnectionError(f"lost another process of this run; {RESUME}") from error

    def tell(self, call: dict[str, Any], shared: bool = False) -> None:
        """Call the others to a piece of work, described in plain JSON, that they need not do together."""
        self._store.set(f"call-{self._calls}", json.dumps([call, shared]))
        self._calls += 1

    @contextmanager
    def joined(self, call: dict[str, Any], pay: Callable[[Bill], None]) -> Iterator[Team]:
        """Call the others to a piece of work and share it; ``pay`` gets the bill of each."""
        self.tell(call, shared=True)
        with self._group() as team:
            yield team
            for bill in team.gathered(Bill.zero())[1:]:
                pay(bill)

    def follow(self, work: Callable[[dict[str, Any], Team], None]) -> None:
        """Do ``work`` for each call, until the first process has come to its end: what it failed of is its to tell."""
        while (told := self._next()) is not None:
            call, shared = told
            try:
                if not shared:
                    work(call, ALONE)
                    continue
                with Meter() as meter, self._group() as team:
                    work(call, team)
                    team.gathered(meter.bill)
            except Exception:
                if self._ended(TOLD_WITHIN_S):
                    return
                raise

    @contextmanager
    def _group(self) -> Iterator[Team]:
        store = distributed.PrefixStore(f"work-{self._calls}", self._store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(
            backend, store=store, rank=self.launch.rank, world_size=self.launch.size, timeout=PATIENCE
        )
        yield self._team
        distributed.destroy_process_group()  # not after an error: others may be in the middle of something

    def _next(self) -> tuple[dict[str, Any], bool] | None:
        name, self._calls = f"call-{self._calls}", self._calls + 1
        while not self._store.check([name]):
            if self._ended():
                return None
            time.sleep(LOOK_EVERY_S)
        return json.loads(self._store.get(name))

    def _ended(self, within_s: float = 0.0) -> bool:
        """Whether the first process has come to its end, or does so soon."""
        until = time.monotonic() + within_s
        while not (ended := self._store.check(["end"])) and time.monotonic() < until:
            time.sleep(LOOK_EVERY_S)
        return ended


def local_device(launch: Launch, device: torch.device) -> torch.device:
    """A GPU of its own for each process of a machine. Raises ConfigError where there are fewer."""
    if launch.size == 1 or device.type == "cpu":
        return device
    there = torch.cuda.device_count() if device.type == "cuda" else 0
    if launch.local_size > there:
        raise ConfigError(
            f"{launch.local_size} processes on a machine with {there} CUDA GPUs: start as many as there are, or add --device cpu"
        )
    torch.cuda.set_device(launch.local_rank)
    return torch.device("cuda", launch.local_rank)
