"""Runs on a Ray cluster, or on worker processes of a Ray that is started here; needs the extra `ray`."""

from __future__ import annotations

import functools
import heapq
import logging
import os
import platform
import signal
import socket
import textwrap
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from prunebench.benchmark.commands import quiet_libraries
from prunebench.benchmark.config import ConfigError
from prunebench.benchmark.engines import PATIENCE_S, Audience, Ended, Messenger, Setup, next_run, perform
from prunebench.benchmark.errors import explain
from prunebench.benchmark.plan import Planned
from prunebench.benchmark.store import StoreError
from prunebench.benchmark.workbench import Workbench

TRIES = 3
"""How often a run is begun whose worker dies."""
POLL_S = 0.2
REACH_S = 10.0
OBJECTS_BYTES = 100 * 2**20
"""Shared memory of a Ray that is started here: runs exchange files, Ray carries words only."""
LOST = (WorkerCrashedError, NodeDiedError, OutOfMemoryError)
SHARED = "with --engine ray, PRUNEBENCH_HOME must be a folder that all machines share"


@dataclass(frozen=True)
class Order:
    """What a worker is told: the run, where, and how to know that it and we see the same home and code."""

    run: Planned
    job: int
    setup: Setup
    token: str
    version: str


@dataclass(frozen=True)
class Stranger:
    """A worker that cannot take part, in one line."""

    line: str


@contextmanager
def join(setup: Setup, jobs: int | None, address: str | None, gpus: float | None) -> Iterator[OnRay]:
    """Ray for the time of a sweep: the cluster at ``address`` (auto, HOST:PORT), or one started here with room for
    ``jobs`` runs (default 1). A run has ``setup.threads`` CPUs and ``gpus`` GPUs, default 1 where there are any.

    Raises ConfigError in one line where there is no such cluster, or no room for a run in it.
    """
    setup = replace(setup, plugins=tuple(path.absolute() for path in setup.plugins))
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))  # Ray prints there
        stack.callback(ray.shutdown)
        _connect(address, jobs or 1, setup.threads)
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        has_gpus = any(machine.get("GPU") for machine in machines)
        if setup.device == "cuda" and not has_gpus:
            raise ConfigError("--device cuda: no machine of the Ray cluster has a GPU; leave --device out")
        if gpus is None:
            gpus = 1.0 if has_gpus and setup.device in ("auto", "cuda") else 0.0
        room = sum(_room(machine, setup.threads, gpus) for machine in machines)
        if not room and (address is None or jobs is None):
            asked = f"{setup.threads} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
            hint = ", or, for a cluster that grows, say --jobs" if address else ""
            raise ConfigError(
                f"no machine of the Ray cluster has {asked} for a run; lower --cpus-per-run or --gpus-per-run{hint}"
            )
        yield OnRay(setup, jobs or room, gpus, stack.enter_context(_token(setup.home)))


def _connect(address: str | None, jobs: int, threads: int) -> None:
    """Raises ConfigError where nobody answers: Ray itself would ask for minutes."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # Libraries read the threads as they start; without niceness 0 workers would stand behind all else on this machine.
        os.environ |= {"OMP_NUM_THREADS": str(threads), "RAY_worker_niceness": "0"}
        options |= {"num_cpus": jobs * threads, "object_store_memory": OBJECTS_BYTES, "include_dashboard": False}
    elif address != "auto":
        _reach(address)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", **options)
    except SystemExit:  # Ray's own answer to SIGTERM
        raise KeyboardInterrupt from None
    except (OSError, RuntimeError, ValueError, RayError) as error:
        where = f"cannot join the Ray cluster at --address {address}" if address else "cannot start Ray here"
        hint = "; leave --address out to start one here" if address else ""
        raise ConfigError(f"{where}: {textwrap.shorten(str(error), 300)}{hint}") from None
    finally:
        with suppress(ValueError):  # not in the main thread, where Ray sets none
            signal.signal(signal.SIGTERM, terminate)


def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--address {address}: give auto, or HOST:PORT of the cluster's head")
    try:
        socket.create_connection((host, int(port)), REACH_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"--address {address}: nobody answers there ({error}); start a cluster with `ray start --head`, or leave"
            " --address out to start one here"
        ) from None


def _room(machine: dict[str, float], cpus: int, gpus: float) -> int:
    """Runs that a machine can take at once."""
    fit = int(machine.get("CPU", 0) // cpus)
    return min(fit, int(machine.get("GPU", 0) / gpus)) if gpus else fit


@contextmanager
def _token(home: Path) -> Iterator[str]:
    """A file that is there as long as the sweep is: who sees it sees the same home."""
    path = home / "sweeps" / f"ray-{uuid.uuid4().hex}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield path.name
    finally:
        path.unlink(missing_ok=True)


@dataclass
class OnRay:
    """``jobs`` runs at once, each a Ray task with its CPUs and GPUs; see ``join``.

    A run that misses what another one is building waits for it, without taking a place. One whose worker dies is begun
    again, and goes on from its checkpoints.
    """

    setup: Setup
    jobs: int
    gpus: float
    token: str
    _built: set[str] = field(default_factory=set)

    def execute(self, todo: Sequence[Planned], audience: Audience) -> Iterator[Ended]:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        news = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        task = ray.remote(carry_out).options(num_cpus=self.setup.threads, num_gpus=self.gpus, max_retries=0)
        waiting, free, version = list(todo), list(range(self.jobs)), metadata.version("prunebench")
        at_work: dict[ray.ObjectRef, tuple[Order, int]] = {}
        try:
            while waiting or at_work:
                runs = [order.run for order, _ in at_work.values()]
                while free and (run := next_run(waiting, runs, self._built)):
                    order = Order(run, heapq.heappop(free), self.setup, self.token, version)
                    audience.started(order.job, run)
                    at_work[task.remote(order, news)] = (order, 1)
                    waiting.remove(run)
                    runs.append(run)
                over, _ = ray.wait([*at_work], timeout=POLL_S)
                self._hear(news, audience)
                for ref in over:
                    order, tries = at_work.pop(ref)
                    ended = _outcome(ref, order, tries)
                    if ended is None:
                        audience.said(order.job, f"its worker died; begun again, {tries + 1} of {TRIES}")
                        at_work[task.remote(order, news)] = (order, tries + 1)
                        continue
                    heapq.heappush(free, order.job)
                    yield ended
        finally:
            for ref in at_work:
                ray.cancel(ref)
            if at_work:
                ray.wait([*at_work], num_returns=len(at_work), timeout=PATIENCE_S)

    def _hear(self, news: Queue, audience: Audience) -> None:
        heard: list[tuple[int, str, str]] = []
        with suppress(RayError):  # without news the work goes on
            heard = news.get_nowait_batch(news.qsize())
        for job, kind, what in heard:
            if kind == "built":
                self._built.add(what)
            elif kind == "stage":
                audience.stage(job, what)
            else:
                audience.said(job, what)


def _outcome(ref: ray.ObjectRef, order: Order, tries: int) -> Ended | None:
    """How a run ended; None: with its worker, and it is to be begun again. Raises StoreError for a worker elsewhere."""
    try:
        said = ray.get(ref)
    except LOST as error:
        if tries < TRIES:
            return None
        how = "for want of memory" if isinstance(error, OutOfMemoryError) else "killed, or out of memory"
        return Ended(order.run.number, None, f"its worker died {TRIES} times, {how}; try fewer --jobs", 1)
    except RayError as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return Ended(order.run.number, None, f"Ray could not carry it out: {line}", 1)
    if isinstance(said, Stranger):
        raise StoreError(said.line)
    assert isinstance(said, Ended)
    return said


# -- in a worker -------------------------------------------------------------------------------------------------------


def carry_out(order: Order, news: Queue) -> Ended | Stranger:
    """One run to its record; whatever goes wrong is told in one line."""
    setup, node = order.setup, platform.node()
    if not (setup.home / "sweeps" / order.token).exists():
        return Stranger(f"{setup.home} on {node} is another folder than here; {SHARED}")
    if (version := metadata.version("prunebench")) != order.version:
        return Stranger(f"{node} has prunebench {version}, this machine {order.version}; install the same on all")

    def send(what: tuple[str, str]) -> None:
        with suppress(RayError):  # who is not heard works on
            news.put((order.job, *what))

    try:
        torch.set_num_threads(setup.threads)
        bench, messenger = _bench(setup)
        messenger.send = send
        return perform(bench, order.run, setup)
    except (Exception, SystemExit) as error:
        return Ended(order.run.number, None, *explain(error))


@functools.cache
def _bench(setup: Setup) -> tuple[Workbench, Messenger]:
    """A worker's own, for all its runs."""
    quiet_libraries()
    messenger = Messenger(lambda what: None)
    bench = Workbench(setup.home, messenger, setup.device)
    for path in setup.plugins:
        bench.load_plugin(path)
    logging.getLogger().addHandler(_Warnings(messenger))
    return bench, messenger


class _Warnings(logging.Handler):
    """Sends warnings where progress goes: a worker's own are seen by nobody."""

    def __init__(self, messenger: Messenger) -> None:
        super().__init__(logging.WARNING)
        self.messenger = messenger

    def emit(self, record: logging.LogRecord) -> None:
        self.messenger.say(f"{record.levelname}: {record.getMessage()}")
