"""The meter: each stage's own peak memory, nesting, CPU seconds, and bills that add up."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunebench.benchmark import meter as meter_module
from prunebench.benchmark.meter import Bill, Meter, hardware

BIG_MB, MIDDLE_MB = 200, 50


def allocate(mb: int = BIG_MB) -> int:
    """Touch ``mb`` MB and let them go; big enough (32 MB) to be new, and returned to the system at once."""
    return len(bytearray(b"\1") * (mb * 2**20))


@pytest.fixture(params=["VmHWM", "sampled"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of measuring; the kernel's where there is one."""
    if request.param == "sampled":
        sampler = meter_module._Sampler()
        monkeypatch.setattr(meter_module, "_resident", lambda: sampler)
    elif meter_module._resident().method != "VmHWM":
        pytest.skip("this system cannot restart the maximum of resident memory")
    return request.param


def test_a_peak_is_seen_and_does_not_leak_into_the_next_stage(method: str) -> None:
    with Meter() as before:
        pass
    with Meter() as big:
        block = bytearray(b"\1") * (BIG_MB * 2**20)
        time.sleep(0.1)
        del block
    with Meter() as after:
        pass
    assert big.bill.peak_rss_mb - before.bill.peak_rss_mb > 0.9 * BIG_MB
    assert abs(after.bill.peak_rss_mb - before.bill.peak_rss_mb) < 0.25 * BIG_MB
    assert big.bill.memory_method == method


def test_an_inner_meter_does_not_hide_the_outer_peak() -> None:
    with Meter() as outer:
        allocate()
        with Meter() as inner:
            allocate(MIDDLE_MB)
        with Meter() as second:
            pass
    assert outer.bill.peak_rss_mb - inner.bill.peak_rss_mb > 0.5 * BIG_MB
    assert inner.bill.peak_rss_mb - second.bill.peak_rss_mb > 0.5 * MIDDLE_MB


def test_the_peak_of_an_inner_meter_belongs_to_the_outer_too() -> None:
    with Meter() as outer:
        with Meter() as inner:
            allocate()
        reading = outer.bill.peak_rss_mb
    assert reading >= inner.bill.peak_rss_mb
    assert outer.bill.wall_s >= inner.bill.wall_s


def test_paused_work_is_left_out() -> None:
    with Meter() as whole, Meter() as outer:
        start = outer.bill
        with outer.paused():
            allocate()
            time.sleep(0.2)
    assert whole.bill.wall_s - outer.bill.wall_s >= 0.2
    assert outer.bill.peak_rss_mb - start.peak_rss_mb < 0.5 * BIG_MB < whole.bill.peak_rss_mb - start.peak_rss_mb


def test_cpu_seconds_are_of_this_process_and_its_children_not_of_waiting() -> None:
    with Meter() as waiting:
        time.sleep(0.3)
    assert waiting.bill.cpu_s < waiting.bill.wall_s / 2
    with Meter() as working:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
    assert working.bill.cpu_s >= 0.3
    burn = "import time\nwhile time.process_time() < 0.4: pass"
    with Meter() as parent:
        subprocess.run([sys.executable, "-c", burn], check=True)
    assert parent.bill.cpu_s >= 0.39


def test_a_closed_meter_stands_still() -> None:
    with Meter() as meter:
        pass
    bill = meter.bill
    allocate(20)
    assert meter.bill == bill


def test_an_error_closes_the_meter() -> None:
    with pytest.raises(KeyError), Meter() as meter:
        raise KeyError("x")
    assert meter not in meter_module._open


def test_the_hardware_is_named() -> None:
    with Meter() as meter:
        pass
    assert meter.bill.device == hardware()
    assert "cores" in hardware()
    with Meter(device="a machine") as named:
        pass
    assert named.bill.devices == ("a machine",)
    assert (named.bill + named.bill).comparable
    assert not (named.bill + meter.bill).comparable


# Multiples of 1/8, so that sums are exact whatever their order.
seconds = st.integers(0, 10**6).map(lambda eighths: eighths / 8)
bills = st.builds(
    Bill,
    wall_s=seconds,
    cpu_s=seconds,
    peak_rss_mb=seconds,
    peak_gpu_mb=seconds,
    devices=st.sets(st.sampled_from("abc")).map(lambda names: tuple(sorted(names))),
    memory_method=st.sampled_from(["", "VmHWM", "sampled", "mixed"]),
)


@given(bills, bills, bills)
def test_bills_add_up(a: Bill, b: Bill, c: Bill) -> None:
    assert a + Bill.zero() == Bill.zero() + a == a
    assert a + b == b + a
    assert (a + b) + c == a + (b + c) == sum([a, b, c], Bill.zero())
    assert (a + b).wall_s == a.wall_s + b.wall_s
    assert (a + b).cpu_s == a.cpu_s + b.cpu_s
    assert (a + b).peak_rss_mb == max(a.peak_rss_mb, b.peak_rss_mb)
    assert Bill.from_json(json.loads(json.dumps(a.to_json()))) == a


def test_the_gpu_peak_comes_from_torch_only_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        peaks = (3 * 2**20, 5 * 2**20)

        def is_available(self) -> bool:
            return True

        is_initialized = is_available

        def device_count(self) -> int:
            return 2

        def reset_peak_memory_stats(self, index: int) -> None:
            if index == 1:
                self.peaks = (0, 0)

        def max_memory_allocated(self, index: int) -> int:
            return self.peaks[index]

        def get_device_name(self) -> str:
            return "Imaginary 9000"

    class Torch:
        cuda = Cuda()

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    with Meter() as without:
        pass
    assert without.bill.peak_gpu_mb == 0
    assert "torch" not in sys.modules
    monkeypatch.setitem(sys.modules, "torch", Torch())  # type: ignore[arg-type]
    with Meter() as outer:
        Torch.cuda.peaks = (7 * 2**20, 9 * 2**20)
        with Meter() as inner:
            Torch.cuda.peaks = (2 * 2**20, 1 * 2**20)
    assert outer.bill.peak_gpu_mb == 9
    assert inner.bill.peak_gpu_mb == 2
    assert inner.bill.device.endswith("Imaginary 9000")
