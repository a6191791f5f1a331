"""Interactions are read in a stream: memory grows by their codes, not by the file (`--rows 50000000` tries the promise)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pytest

BASE, PER_ROW, MOST = 240e6, 120, 6e9
"""Bytes: the libraries and what is read at once; what an interaction may take; what 50 million may take in all."""
RUNNER = """
import sys
from prunebench.benchmark.cli import main
main()
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) * 1024, file=sys.stderr)
"""
WORDS = ("datasets", "import", "--format", "table", "--interactions", "r.csv", "--items", "i.csv", "--name", "big")


def keys(letter: str, numbers: np.ndarray) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar(letter), pa.array(numbers).cast(pa.string()), "")


def write(folder: Path, rows: int) -> None:
    """In blocks; 50 interactions a user, 100 an item."""
    schema = pa.schema([("user", pa.string()), ("item", pa.string()), ("timestamp", pa.int64())])
    rng = np.random.default_rng(0)
    with arrow_csv.CSVWriter(folder / "r.csv", schema) as file:
        for first in range(0, rows, 1 << 20):
            n = min(1 << 20, rows - first)
            users, items = keys("u", rng.integers(0, rows // 50, n)), keys("i", rng.integers(0, rows // 100, n))
            file.write_table(pa.table([users, items, rng.integers(10**9, 1_500_000_000, n)], schema))
    numbers = np.arange(rows // 100)
    arrow_csv.write_csv(pa.table({"item": keys("i", numbers), "title": keys("Game ", numbers)}), folder / "i.csv")


@pytest.mark.timeout(0)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads its peak memory from /proc")
def test_memory_does_not_follow_the_file(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    rows = request.config.getoption("--rows")
    write(tmp_path, rows)
    environment = {**os.environ, "PRUNEBENCH_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUNNER, *WORDS, "--json"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert rows * 0.99 < json.loads(done.stdout)["interactions"] <= rows
    peak = int(done.stderr.splitlines()[-1])
    print(f"{peak / 1e6:,.0f} MB for {rows:,} interactions")
    assert peak <= min(BASE + PER_ROW * rows, MOST)
