"""The published board is what its records say, and the records are whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from prunebench.benchmark.boards import records_of
from prunebench.benchmark.checks import check
from prunebench.leaderboard.record import Record

PUBLISHED = Path(__file__).resolve().parents[1] / "leaderboard" / "published"
RECORDS = records_of(PUBLISHED / "records")


def test_board_and_pages_follow_from_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(tmp_path, PUBLISHED / "records", PUBLISHED, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["runs"] == len(RECORDS) > 0
    assert {Path(path) for path in said["pages"]} == {*(PUBLISHED / "reproduced").rglob("*.md")} != set()


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{record.method}-{record.backbone}-{record.run}")
def test_a_record_agrees_with_its_files(record: Record) -> None:
    folder = PUBLISHED / "records" / record.run
    ids = np.array([int(line) for line in (folder / "selection.txt").read_text().split()], np.int64)
    assert len(ids) == len(np.unique(ids)) == record.selection.count == record.budget
    if record.selection.sha256 is not None:
        assert hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest() == record.selection.sha256
    with np.load(folder / "per_user.npz") as per_user:
        assert len(per_user["users"]) == record.protocol.users_evaluated
        for protocol, metrics in record.metrics.items():
            for name in ("recall", "ndcg"):
                means = per_user[f"{protocol}_{name}"].mean(axis=0)
                stated = [getattr(metrics, name)[str(cutoff)] for cutoff in per_user["cutoffs"]]
                assert means == pytest.approx(stated, abs=1e-12)
