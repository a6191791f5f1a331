"""Measure what a stage costs: wall and CPU seconds, peak memory of that stage alone, and the hardware."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import psutil

_MB = 2**20
_SAMPLING_S = 0.02


@dataclass(frozen=True)
class Bill:
    """What some work cost.

    ``wall_s``, ``cpu_s``: seconds, CPU of this process (all threads) and of its finished children; ``peak_rss_mb``,
    ``peak_gpu_mb``: highest resident and allocated GPU memory of this process during the work, in MB of 2^20 bytes;
    ``devices``: the hardware it ran on, more than one after adding bills of different machines; ``memory_method``:
    how the resident peak was measured, "VmHWM" (the kernel's own maximum) or "sampled", "mixed" after adding both.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_rss_mb: float = 0.0
    peak_gpu_mb: float = 0.0
    devices: tuple[str, ...] = ()
    memory_method: str = ""

    @classmethod
    def zero(cls) -> Bill:
        """The bill of no work: ``sum(bills, Bill.zero())`` is their total."""
        return cls()

    @property
    def device(self) -> str:
        """The hardware in words; several, joined, where the work was done on different machines."""
        return " | ".join(self.devices)

    @property
    def comparable(self) -> bool:
        """Whether the seconds were all spent on the same hardware, so that their sum means something."""
        return len(self.devices) <= 1

    def __add__(self, other: Bill) -> Bill:
        """Both, one after the other: seconds add up, peaks do not."""
        methods = {self.memory_method, other.memory_method} - {""}
        return Bill(
            self.wall_s + other.wall_s,
            self.cpu_s + other.cpu_s,
            max(self.peak_rss_mb, other.peak_rss_mb),
            max(self.peak_gpu_mb, other.peak_gpu_mb),
            tuple(sorted({*self.devices, *other.devices})),
            methods.pop() if len(methods) == 1 else "mixed" if methods else "",
        )

    def since(self, earlier: Bill) -> Bill:
        """The part of this bill that came after ``earlier``, an older reading of the same meter; peaks stay whole."""
        return replace(self, wall_s=max(0.0, self.wall_s - earlier.wall_s), cpu_s=max(0.0, self.cpu_s - earlier.cpu_s))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "devices": list(self.devices)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Bill:
        """Inverse of ``to_json``. Raises TypeError for unknown fields."""
        return cls(**{**data, "devices": tuple(data.get("devices", ()))})


class _Gauge(Protocol):
    """A process-wide memory maximum that can be restarted."""

    method: ClassVar[str]

    def restart(self) -> None: ...
    def peak_mb(self) -> float: ...


class _HighWater:
    """The kernel's high-water mark of resident memory: exact, and Linux lets a process restart its own."""

    method: ClassVar[str] = "VmHWM"

    def restart(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        with open("/proc/self/status", "rb") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(b"VmHWM:")) / 1024


class _Sampler:
    """Resident memory looked at every few milliseconds by a thread: for systems whose maximum cannot be restarted."""

    method: ClassVar[str] = "sampled"

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._peak = 0
        self._thread: threading.Thread | None = None

    def restart(self) -> None:
        self._peak = self._process.memory_info().rss
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="memory-sampler", daemon=True)
            self._thread.start()

    def peak_mb(self) -> float:
        self._peak = max(self._peak, self._process.memory_info().rss)
        return self._peak / _MB

    def _watch(self) -> None:
        while True:
            with _lock:
                if not _open:
                    self._thread = None
                    return
                self.peak_mb()
            time.sleep(_SAMPLING_S)


class _Cuda:
    """PyTorch's allocator maximum, where PyTorch is loaded and has touched a GPU; 0 elsewhere."""

    method: ClassVar[str] = "torch.cuda"

    def restart(self) -> None:
        cuda = _cuda()
        if cuda is not None and cuda.is_initialized():
            for index in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(index)

    def peak_mb(self) -> float:
        cuda = _cuda()
        if cuda is None or not cuda.is_initialized():
            return 0.0
        return max(cuda.max_memory_allocated(index) for index in range(cuda.device_count())) / _MB


def _cuda() -> Any:
    """``torch.cuda`` where PyTorch is already loaded and sees a GPU, else None: measuring must not load PyTorch."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_available() else None


@functools.cache
def _resident() -> _Gauge:
    gauge = _HighWater()
    try:
        gauge.restart()
        gauge.peak_mb()
    except (OSError, StopIteration):
        return _Sampler()
    return gauge


# Meters share the process's two maxima. Whoever restarts them first folds what they show into every open meter, so a
# meter opened inside another never hides the outer one's peak.
_lock = threading.RLock()
_open: list[Meter] = []
_gpu = _Cuda()


def _fold() -> None:
    rss, gpu = _resident().peak_mb(), _gpu.peak_mb()
    for meter in _open:
        meter._rss = max(meter._rss, rss)
        meter._gpu = max(meter._gpu, gpu)


class Meter:
    """Measures the work inside a ``with`` block; ``bill`` may be read at any time, from any thread.

    >>> with Meter() as meter:
    ...     work()
    >>> meter.bill.wall_s

    Meters nest. ``device`` overrides the description of the hardware.
    """

    def __init__(self, device: str | None = None) -> None:
        self._device = device
        self._spent = Bill.zero()
        self._started: tuple[float, float] | None = None
        self._rss = self._gpu = 0.0

    def __enter__(self) -> Meter:
        self._resume()
        return self

    def __exit__(self, *error: object) -> None:
        if self._started is not None:
            self._pause()

    @property
    def bill(self) -> Bill:
        """Everything measured so far."""
        with _lock:
            if self._started is not None:
                _fold()
            wall, cpu = self._lap()
            return Bill(
                self._spent.wall_s + wall,
                self._spent.cpu_s + cpu,
                self._rss,
                self._gpu,
                (self._device or hardware(),),
                _resident().method,
            )

    def include(self, other: Bill) -> None:
        """Count what another process spent on the same work: CPU seconds add up, peaks are those of any one process."""
        with _lock:
            self._spent = replace(self._spent, cpu_s=self._spent.cpu_s + other.cpu_s)
            self._rss, self._gpu = max(self._rss, other.peak_rss_mb), max(self._gpu, other.peak_gpu_mb)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the work inside this block: it has a bill of its own."""
        self._pause()
        try:
            yield
        finally:
            self._resume()

    def _resume(self) -> None:
        with _lock:
            _fold()
            _open.append(self)
            _resident().restart()
            _gpu.restart()
            self._started = (time.perf_counter(), _cpu_seconds())

    def _pause(self) -> None:
        with _lock:
            wall, cpu = self._lap()
            self._spent = replace(self._spent, wall_s=self._spent.wall_s + wall, cpu_s=self._spent.cpu_s + cpu)
            _fold()
            _open.remove(self)
            self._started = None

    def _lap(self) -> tuple[float, float]:
        if self._started is None:
            return 0.0, 0.0
        return time.perf_counter() - self._started[0], _cpu_seconds() - self._started[1]


def _cpu_seconds() -> float:
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def hardware() -> str:
    """The machine in words: processor, cores and hardware threads this process may use, GPU where PyTorch sees one."""
    cuda = _cuda()
    return processor_in_words() if cuda is None else f"{processor_in_words()} + {cuda.get_device_name()}"


@functools.cache
def processor_in_words() -> str:
    """Processor, cores, and hardware threads this process may use."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min(psutil.cpu_count(logical=False) or threads, threads)
    return f"{_processor_name()}, {cores} cores, {threads} threads"


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        brand = subprocess.run(command, capture_output=True, text=True, check=False)
        if brand.returncode == 0:
            return brand.stdout.strip()
    return platform.processor() or platform.machine()
