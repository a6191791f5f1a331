"""Runs with one thing broken each: what somebody could do to a record, and the words it must be refused with."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prunebench.leaderboard.archive import MANIFEST, PER_USER, RECORD, SELECTION, Files, manifest, read_folder

RECORDS = Path(__file__).resolve().parents[1] / "leaderboard" / "published" / "records"


class Run:
    """A published run taken apart, to be changed and put together again with a manifest that fits."""

    def __init__(self, folder: Path):
        self.files: Files = read_folder(folder)
        self.values: dict[str, Any] = json.loads(self.files[RECORD])
        with np.load(io.BytesIO(self.files[PER_USER])) as arrays:
            self.arrays: dict[str, Any] = dict(arrays)
        self.ids = [int(line) for line in self.files[SELECTION].split()]
        self.name: str = self.values["run"]

    def changed(self, tamper: Callable[[Run], None]) -> Files:
        """The files after ``tamper``; what it did to ``files`` themselves stands, and only then the manifest is not made anew."""
        before = dict(self.files)
        tamper(self)
        if self.files != before:
            return self.files
        out = io.BytesIO()
        np.savez_compressed(out, **self.arrays)
        files = {
            RECORD: (json.dumps(self.values, indent=2) + "\n").encode(),
            PER_USER: out.getvalue(),
            SELECTION: "".join(f"{one}\n" for one in self.ids).encode(),
        }
        return files | {MANIFEST: manifest(files)}

    # -- what a careful liar keeps in step ---------------------------------------------------------------------------

    def select(self, ids: list[int]) -> None:
        """Other samples, with the hash that they have."""
        self.ids = ids
        self.values["selection"]["sha256"] = hashlib.sha256(np.sort(ids).astype("<i8").tobytes()).hexdigest()

    def mean(self, protocol: str = "unmasked") -> None:
        """The record's means of recall and NDCG from the users'."""
        for name in ("recall", "ndcg"):
            means = self.arrays[f"{protocol}_{name}"].mean(axis=0)
            self.values["metrics"][protocol][name] = {
                str(k): float(mean) for k, mean in zip(self.arrays["cutoffs"], means, strict=True)
            }

    def value(self, name: str, at: int, cutoff: int, value: float) -> None:
        self.arrays[f"unmasked_{name}"][at, cutoff] = value
        self.mean()

    def hits(self) -> int:
        """A user who has a hit among the first five."""
        return int(np.flatnonzero(self.arrays["unmasked_recall"][:, 0] > 0)[0])

    def misses(self) -> int:
        return int(np.flatnonzero(self.arrays["unmasked_recall"][:, -1] == 0)[0])


def _falling(run: Run) -> None:
    mrr = run.values["metrics"]["unmasked"]["mrr"]
    mrr["20"] = mrr["10"] - 0.01


def _set(*path: Any) -> Callable[[Run], None]:
    """Set what stands at a path of the record: keys, then the value."""
    *keys, last, value = path

    def tamper(run: Run) -> None:
        inside = run.values
        for key in keys:
            inside = inside[key]
        inside[last] = value

    return tamper


def _raw(name: str, change: Callable[[bytes], bytes]) -> Callable[[Run], None]:
    """Change a file as it is, with a manifest that fits."""

    def tamper(run: Run) -> None:
        run.files[name] = change(run.files[name])
        run.files[MANIFEST] = manifest(run.files)

    return tamper


def _npz(**arrays: Any) -> Callable[[Run], None]:
    """Other arrays in place of the users', written as NumPy would."""

    def tamper(run: Run) -> None:
        out = io.BytesIO()
        np.savez_compressed(out, **(run.arrays | arrays))
        _raw(PER_USER, lambda _: out.getvalue())(run)

    return tamper


def _swap(values: Any, one: int = 3, other: int = 7) -> None:
    values[one], values[other] = values[other].copy(), values[one].copy()


def _less(run: Run) -> None:
    for name, values in run.arrays.items():
        run.arrays[name] = values if name == "cutoffs" else values[1:]


def _stage(run: Run, stage: str) -> dict[str, Any]:
    return next(entry for entry in run.values["bill"] if entry["stage"] == stage)


def _too_early(run: Run) -> None:
    """All that a hit between ranks 11 and 20 would have gained on rank 1."""
    recall = run.arrays["unmasked_recall"]
    user = int(np.flatnonzero((recall[:, 1] == 0) & (recall[:, 2] > 0))[0])
    run.value("ndcg", user, 2, 0.99)
    run.value("ndcg", user, 3, 0.99)


def _labelled(run: Run) -> None:
    """The same noise, all else under a name without end."""
    selection = run.values["selection"]
    noise = selection["label_counts"].get("noise", 0)
    selection["label_counts"] = {"noise": noise, "x" * 5000: selection["count"] - noise}


def _cheaper(run: Run) -> None:
    _stage(run, "fit")["wall_s"] /= 2


def _unbilled(run: Run) -> None:
    """No fine-tuning, with totals that add up."""
    run.values["bill"].remove(_stage(run, "fit"))
    run.values["totals"]["total_s"] -= run.values["totals"]["fine_tuning_s"]
    run.values["totals"]["fine_tuning_s"] = 0.0


def _twice_billed(run: Run) -> None:
    run.values["bill"].append(_stage(run, "evidence"))


def _noiseless(run: Run) -> None:
    """No noise kept, as far as the record goes."""
    counts = run.values["selection"]["label_counts"]
    counts["clean"] += counts.pop("noise")
    run.values["selection"]["noise_share"] = 0.0


def _more(run: Run) -> None:
    """One sample more than the budget, everything else in step."""
    run.select(sorted({*run.ids, next(one for one in range(3000) if one not in run.ids)}))


def _lucky(run: Run) -> None:
    """A user who missed everything now hits, at a rank that no item has."""
    at = run.misses()
    run.arrays["unmasked_recall"][at] = 1.0
    run.value("ndcg", at, 0, 0.05)


def _half(run: Run) -> None:
    """Recall that falls from one cut-off to the next."""
    at = run.hits()
    run.arrays["unmasked_recall"][at, 1:] = 0.0
    run.arrays["unmasked_ndcg"][at, 1:] = 0.0
    run.mean()


def _foreign_sample(run: Run) -> None:
    run.select([*run.ids[:-1], 10**9])


def _fraction(run: Run) -> None:
    run.value("recall", run.hits(), 3, 1.5)


def _one_precision(run: Run) -> None:
    run.values["metrics"]["unmasked"]["precision"]["10"] *= 1.01


def _warm(run: Run) -> None:
    run.values["metrics"]["unmasked"]["warm"]["recall"]["10"] += 0.05


def _by_data(run: Run) -> None:
    run.values["metrics"]["unmasked"]["warm"]["targets"] += 1
    run.values["metrics"]["unmasked"]["cold"]["targets"] -= 1


def _deep(run: Run) -> None:
    nested: Any = 0
    for _ in range(100):
        nested = {"a": nested}
    run.values["config"]["method"]["nested"] = nested


TAMPERED: dict[str, tuple[Callable[[Run], None], str]] = {
    "a metric in the record": (_set("metrics", "unmasked", "recall", "10", 0.9), "recall@10: the mean over users is"),
    "a metric of one user": (_npz(unmasked_recall=np.ones((400, 4))), "recall@5: the mean over users is"),
    "a warm metric": (_warm, "warm.recall@10 is"),
    "a precision": (_one_precision, "precision@10 is"),
    "an MRR": (_set("metrics", "masked", "mrr", "5", 0.99), "mrr@5 is 0.99"),
    "an MRR that falls": (_falling, "mrr falls with the cut-off"),
    "fewer targets than users": (_set("metrics", "unmasked", "targets", 399), "400 users with 399 targets do not fit"),
    "all the data, and yet a budget": (_set("method", "full"), "method full with 256 of 3000 samples"),
    "a seed below 0": (_set("seeds", "selection", -1), "seeds has a number below 0"),
    "a mean above 1": (_set("metrics", "masked", "mrr", "5", 1.5), "a mean lies outside 0 … 1"),
    "a mean that is missing": (_set("metrics", "masked", "mrr", {}), "not at the protocol's cut-offs"),
    "a protocol that is missing": (lambda run: run.values["metrics"].pop("masked"), "metrics are of 'unmasked'"),
    "warm and cold targets": (_by_data, "those of data set mini"),
    "values that are no numbers": (
        lambda run: run.arrays.update(users=np.zeros((400, 0), np.int64)),
        "not a list of ids",
    ),
    "two users swapped": (lambda run: _swap(run.arrays["users"]), "ids must increase"),
    "a user twice": (lambda run: run.arrays["users"].__setitem__(3, run.arrays["users"][4]), "is there twice"),
    "a user left out": (_less, "399 users, protocol.users_evaluated is 400"),
    "another user": (
        lambda run: run.arrays["users"].__setitem__(-1, 2999),
        "does not cover the 400 test users of data",
    ),
    "a recall above 1": (_fraction, "has 1.5, outside 0 … 1"),
    "a recall that falls": (_half, "a recall that no number of hits"),
    "a rank that is none": (_lucky, "an NDCG that its recall cannot go with"),
    "a NaN": (lambda run: run.arrays["masked_ndcg"].__setitem__((5, 1), np.nan), "has nan, outside 0 … 1"),
    "an infinite recall": (lambda run: run.arrays["masked_ndcg"].__setitem__((5, 1), np.inf), "has inf, outside 0 … 1"),
    "other cut-offs": (lambda run: run.arrays.update(cutoffs=np.array([1, 2, 3, 4])), "has the cut-offs [1, 2, 3, 4]"),
    "other cut-offs everywhere": (_set("protocol", "cutoffs", [5, 10]), "protocol.cutoffs are [5, 10]"),
    "a bill made smaller": (_cheaper, "the totals do not follow from the bill"),
    "a bill without fine-tuning": (_unbilled, "bill: stage fit is there 0 times"),
    "a bill with an artefact twice": (_twice_billed, "is there twice"),
    "negative seconds": (_set("bill", 0, "cpu_s", -1.0), "greater than or equal to 0"),
    "a phase that is none": (_set("bill", 0, "phase", "praying"), "Input should be"),
    "no artefact": (_set("bill", 0, "hash", "x"), "has no artefact's hash"),
    "a budget": (_set("budget", 255), "selection.count is 256, the budget 255"),
    "a share": (_set("share", 0.01), "share is 0.01"),
    "a budget larger than the data": (_set("budget", 5000), "more than the 3000 samples"),
    "fewer samples in the data": (_set("dataset", "counts", "samples", 2560), "dataset.counts.samples is 2560"),
    "another fingerprint": (_set("dataset", "fingerprint", "0" * 16), "has fingerprint '0000"),
    "the paper's name": (_set("dataset", "name", "games"), "is not the paper's"),
    "another method": (_set("method", "random"), "is not what its configuration and artefacts are called"),
    "a method nobody knows": (_set("method", "magic"), "method 'magic' is not known here"),
    "a name of two lines": (_set("dataset", "name", "a\nbench: all is well"), r"'a\nbench: all is well' is no name"),
    "an NDCG above its hits": (_too_early, "an NDCG that its recall cannot go with"),
    "labels without end": (_labelled, "selection.label_counts are"),
    "a plugin without its hash": (
        _set("config", "plugins", {"method": "mine"}),
        "config.plugins does not say by sha256",
    ),
    "another setting": (_set("config", "method", "beta", 0.5), "is not what its configuration and artefacts"),
    "a change that is none": (_set("changes", {"method.beta": 0.7}), "changes has 'method.beta'"),
    "another LLM": (_set("llm", "gpt-5"), "config.backbone.llm is not"),
    "other seeds": (_set("seeds", "selection", 17), "is not what its configuration"),
    "a split that is not test": (_set("protocol", "split", "valid"), "a board takes runs on the test split"),
    "test read while pruning": (
        _set("protocol", "reads", "surrogate", ["train", "test"]),
        "'surrogate' read the test split",
    ),
    "test read at inference": (
        _set("protocol", "reads", "inference", ["train", "test"]),
        "'inference' read the test split",
    ),
    "an evaluation that hides": (
        lambda run: run.values["protocol"]["reads"].pop("evaluation"),
        "evaluation read the test",
    ),
    "a sample twice": (lambda run: run.select([*run.ids[:-1], run.ids[-2]]), "is there twice"),
    "samples out of order": (lambda run: run.ids.reverse(), "ids must increase"),
    "another sample": (lambda run: run.ids.__setitem__(0, run.ids[0] + 1), "is not the selection whose sha256"),
    "another sample, hashed": (lambda run: run.select(list(range(256))), "label_counts are"),
    "a sample that is none": (_foreign_sample, "is no user of the data set"),
    "a sample too many": (_more, "has 257 ids"),
    "no selection": (lambda run: run.select([]), "has 0 ids"),
    "words for ids": (_raw(SELECTION, lambda _: b"all\n"), "which is no sample id"),
    "noise hidden": (_noiseless, "by data set mini"),
    "a noise share": (_set("selection", "noise_share", 0.0), "by its label_counts"),
    "a time to come": (_set("finished", "2999-01-01T00:00:00Z"), "is not in the past"),
    "no time": (_set("finished", "yesterday"), "no time such as"),
    "another run's name": (_set("run", "0123456789ab"), "in a folder called"),
    "a path for its users": (_set("per_user", "../per_user.npz"), "per_user and selection.ids_file are not"),
    "another file of samples": (_set("selection", "ids_file", RECORD), "per_user and selection.ids_file are not"),
    "a path for a name": (_set("run", "../../../etc"), "the record is of run '../../../etc'"),
    "control characters": (_set("command", "bench \x1b[2J"), "has control characters"),
    "a number no float holds": (_set("budget", 10**400), "larger than 2^53"),
    "a setting that is infinite": (_set("config", "method", "beta", float("inf")), "is no finite number"),
    "a nest": (_deep, "nested more than 20 deep"),
    "a newer schema": (_set("schema_version", 99), "update prunebench"),
    "an unknown key": (_set("trophy", True), "Extra inputs are not permitted"),
    "no JSON": (_raw(RECORD, lambda _: b"{"), "record.json is no JSON"),
    "a record cut short": (
        lambda run: run.files.update({RECORD: run.files[RECORD][:-9]}),
        "does not match its checksum",
    ),
    "a file that is missing": (lambda run: run.files.pop(PER_USER), "per_user.npz is missing"),
    "a file that is not listed": (
        lambda run: run.files.update({MANIFEST: manifest({RECORD: run.files[RECORD]})}),
        "selection.txt is not listed in manifest.json",
    ),
    "a manifest that is none": (lambda run: run.files.update({MANIFEST: b"[]"}), "manifest.json is no manifest"),
    "an npz cut short": (_raw(PER_USER, lambda content: content[:-100]), "cannot be read as plain arrays"),
    "an npz with an object": (_npz(users=np.array([{}] * 400)), "Python objects, which are never read"),
    "an npz with more": (_npz(extra=np.zeros(3)), "per_user.npz holds"),
    "an npz of text": (_npz(users=np.array(["a"] * 400)), "no plain array of numbers"),
    "an npz of another shape": (_npz(masked_ndcg=np.zeros((400, 3))), "and shape (400, 3)"),
}
