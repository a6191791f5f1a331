"""Selections taken elsewhere: sample ids, instruction data as JSON lines, a Hugging Face data set folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prunebench.benchmark.config import ConfigError, RunConfig
from prunebench.benchmark.harness import ids_digest
from prunebench.benchmark.outcome import Pruned
from prunebench.benchmark.records import settings
from prunebench.benchmark.store import created_by
from prunebench.datasets.files import MANIFEST, atomic_file, atomic_folder, write_json
from prunebench.datasets.library import counts
from prunebench.datasets.schema import RecDataset, Samples, Strings
from prunebench.leaderboard.record import StageBill
from prunebench.recommenders.bigrec.prompts import alpaca, alpaca_words

Layout = Literal["ids", "jsonl", "hf"]

FACTS = "prunebench.json"
"""Where the data of a Hugging Face folder come from; a folder with this file is one that we wrote."""
CARD = "README.md"
PARQUET = "data/train-00000-of-00001.parquet"
BATCH_ROWS, BATCH_BYTES = 4096, 1 << 24
"""Samples, and bytes of their titles, that are texts in memory at once."""

SCHEMA = pa.schema(
    [
        ("instruction", pa.string()),
        ("input", pa.string()),
        ("output", pa.string()),
        ("sample_id", pa.int64()),
        ("user", pa.string()),
        ("history_items", pa.list_(pa.string())),
        ("target_item", pa.string()),
    ]
)
"""A sample in words and in keys. ``user`` and the items are called what they are called where the data come from; where
a data set has no such keys they have their number in it, as text. Histories are whole: whoever trains truncates."""


@dataclass(frozen=True)
class Target:
    """Where a selection goes and in which form: ``path`` is a file, a folder for hf, or None for standard output."""

    path: Path | None
    layout: Layout = "ids"
    overwrite: bool = False

    def check(self, as_json: bool) -> None:
        """Refuse what cannot work before the long work.

        Raises ConfigError for options that do not go together, for what may not be replaced and for a folder that does
        not exist; OSError where that cannot be written to.
        """
        if self.path is None:
            if self.layout == "hf":
                raise ConfigError("--format hf writes a folder: give it by --out")
            if self.overwrite:
                raise ConfigError("--overwrite replaces what is at --out: give that too")
            if self.layout == "jsonl" and as_json:
                raise ConfigError(
                    "--json and --format jsonl both go to standard output: give the samples a file by --out"
                )
            return
        path = self.path.resolve()
        if not path.parent.is_dir():
            raise ConfigError(f"--out {self.path}: there is no folder {path.parent}; make it first")
        if path.exists():
            self._check_replaceable(path)
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def _check_replaceable(self, path: Path) -> None:
        wanted = "a new folder" if self.layout == "hf" else "a file"
        if path.is_dir() != (self.layout == "hf") or not (path.is_dir() or path.is_file()):
            what = "a folder" if path.is_dir() else "a file" if path.is_file() else "no regular file"
            raise ConfigError(f"--out {self.path} is {what}, and --format {self.layout} writes {wanted}")
        if not self.overwrite:
            raise ConfigError(f"--out {self.path} exists already; --overwrite replaces it")
        if self.layout != "hf":
            return
        held = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}
        if strange := sorted(held - {FACTS, PARQUET, CARD, MANIFEST} if FACTS in held else held):
            raise ConfigError(
                f"--out {self.path} holds {strange[0]}, which is no part of a selection; remove it yourself, or choose another"
            )

    def write(self, kept: Samples, noun: str, facts: dict[str, Any], stream: TextIO) -> None:
        """The samples ``kept`` in this form; ``noun`` is what their texts call an item, ``facts`` where they come from.

        A file or folder appears whole or not at all; texts are made a batch at a time. Raises DataError where something
        has appeared at ``path`` meanwhile, ConfigError for a folder of no samples, which `datasets` would not load.
        """
        if self.layout == "hf" and not len(kept):
            raise ConfigError("a budget of 0 keeps no samples, and a data set folder needs one; raise --budget")
        if self.path is None:
            self._write_lines(kept, noun, stream)
        elif self.layout == "hf":
            with atomic_folder(self.path.resolve(), overwrite=self.overwrite) as folder:
                _write_folder(folder, kept, noun, facts)
        else:
            with atomic_file(self.path.resolve(), overwrite=self.overwrite) as file:
                self._write_lines(kept, noun, file)

    def _write_lines(self, kept: Samples, noun: str, file: TextIO) -> None:
        if self.layout == "ids":
            file.writelines(f"{sample}\n" for sample in kept.ids)
            return
        for batch in batches(kept, noun):
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist())


def item_noun(run: RunConfig, dataset: RecDataset) -> str:
    """What the texts call an item: the word that BIGRec's prompt would use."""
    return run.backbone_config.get("item_noun") or dataset.meta.get("item_noun", "item")


def provenance(run: RunConfig, samples: Samples, pruned: Pruned, bill: list[StageBill], command: str) -> dict[str, Any]:
    """Everything that decided a selection, and what it cost, JSON-able."""
    return {
        "method": run.method,
        "backbone": run.backbone,
        "dataset": {
            "name": samples.dataset.name,
            "fingerprint": samples.dataset.fingerprint,
            "source": samples.dataset.source,
            "counts": {**counts(samples.dataset), "samples": len(samples)},
        },
        "budget": run.budget,
        "seeds": run.seeds.model_dump(include={"signal", "selection"}),
        "config": settings(run, pruned.uses),
        "selection": {
            "count": len(pruned.selection.ids),
            "sha256": ids_digest(pruned.selection.ids),
            "notes": pruned.selection.notes,
        },
        "bill": [stage.model_dump(mode="json") for stage in bill],
        # A file name need not be Unicode, and JSON must.
        "command": command.encode("utf-8", "backslashreplace").decode(),
        "made_by": created_by(),
    }


def batches(kept: Samples, noun: str) -> Iterator[pa.RecordBatch]:
    """The samples as instruction data (``SCHEMA``), in their order, a bounded amount of text at a time."""
    dataset = kept.dataset
    titles = pa.array(dataset.titles, pa.large_string())
    users, items = _column(dataset.user_keys), _column(dataset.item_keys)
    instruction, before_titles = alpaca_words(noun)
    separator = alpaca(noun).separator
    sizes = pc.binary_length(titles).to_numpy() + len(separator)
    ends = np.concatenate([[0], np.cumsum(sizes[kept.histories.items])])[kept.histories.offsets]
    start = 0
    while start < len(kept):
        room = int(np.searchsorted(ends, ends[start] + BATCH_BYTES, "right")) - 1
        stop = min(max(room, start + 1), start + BATCH_ROWS, len(kept))
        offsets = kept.histories.offsets[start : stop + 1]
        history = kept.histories.items[offsets[0] : offsets[-1]]
        ids, targets, edges = kept.ids[start:stop], kept.targets[start:stop], pa.array(offsets - offsets[0], pa.int32())
        texts = pc.binary_join(
            pa.ListArray.from_arrays(edges, titles.take(pa.array(history)).cast(pa.string())), separator
        )
        yield pa.record_batch(
            [
                pa.repeat(instruction, len(ids)),
                pc.binary_join_element_wise(before_titles, texts, ""),
                titles.take(pa.array(targets)).cast(pa.string()),
                pa.array(ids),
                _named(users, ids),
                pa.ListArray.from_arrays(edges, _named(items, history)),
                _named(items, targets),
            ],
            schema=SCHEMA,
        )
        start = stop


def _column(keys: Strings | None) -> pa.LargeStringArray | None:
    """The same bytes as an Arrow column."""
    if keys is None:
        return None
    offsets, utf8 = (pa.py_buffer(np.ascontiguousarray(part)) for part in (keys.offsets, keys.utf8))
    return pa.LargeStringArray.from_buffers(len(keys), offsets, utf8)


def _named(keys: pa.LargeStringArray | None, rows: np.ndarray) -> pa.StringArray:
    numbers = pa.array(rows)
    return (numbers if keys is None else keys.take(numbers)).cast(pa.string())


# --- a Hugging Face data set folder ----------------------------------------------------------------------------------


def _write_folder(folder: Path, kept: Samples, noun: str, facts: dict[str, Any]) -> None:
    path = folder / PARQUET
    path.parent.mkdir()
    with pq.ParquetWriter(path, SCHEMA) as file:
        for batch in batches(kept, noun):
            file.write_batch(batch)
    keys = {
        "user": "key" if kept.dataset.user_keys is not None else "number",
        "history_items": "key" if kept.dataset.item_keys is not None else "number",
        "target_item": "key" if kept.dataset.item_keys is not None else "number",
    }
    write_json(folder / FACTS, {**facts, "item_noun": noun, "names": keys, "histories": "whole"})
    (folder / CARD).write_text(_card(facts, len(kept)), encoding="utf-8")


SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def _card(facts: dict[str, Any], count: int) -> str:
    """The data set's card: where its rows are, for `datasets`, and what they are, for people."""
    dataset, method = facts["dataset"]["name"], facts["method"]
    size = next((name for most, name in SIZES if count < most), "1M<n<10M")
    # A JSON string is a YAML string, whatever a plugin calls its method.
    title = json.dumps(f"{count:,} samples of {dataset}, selected by {method}")
    return f"""---
pretty_name: {title}
task_categories:
- text-generation
tags:
- recommendation
- data-pruning
- prunebench
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
# {json.loads(title)}

{count:,} of the {facts["dataset"]["counts"]["samples"]:,} training samples of the data set `{dataset}` (fingerprint `{facts["dataset"]["fingerprint"]}`),
chosen to fine-tune an LLM recommender on. `{FACTS}` says how: method, settings, seeds, and what finding them cost.

| column | what it holds |
|---|---|
| `instruction`, `input`, `output` | the sample in words, as Alpaca-style fine-tuning tools read it; with the Alpaca template it is the prompt BIGRec is trained on |
| `sample_id` | the sample's number in the data set, as prunebench prints it |
| `user` | what the user is called where the data come from, or the sample's number where that is not known |
| `history_items`, `target_item` | the same of the items, oldest first |

Histories are whole; BIGRec reads the latest titles that fit its limits (`max_history`, `cutoff`). The texts are those of
the data set, and so are the terms of using them.

```python
from datasets import load_dataset

rows = load_dataset("path/to/this/folder", split="train")
```
"""
