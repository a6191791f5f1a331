"""A data set that an entry point makes: loaded, whatever its maker does, and nobody's to change."""

from __future__ import annotations

from prunebench.benchmark.machine import out_of_memory
from prunebench.benchmark.plugins import PluginError, Registry
from prunebench.benchmark.undisturbed import undisturbed
from prunebench.datasets.schema import SPLITS, DataError, RecDataset


def generated(registry: Registry, name: str) -> RecDataset:
    """Raises PluginError where the part fails or gives no data set, DataError where it says so itself."""
    maker, owner = registry.resolve("datasets", name), registry.origin("datasets", name).source
    try:
        with undisturbed():
            dataset = maker().load()
        given = isinstance(dataset, RecDataset) and dataset.fingerprint
    except (DataError, KeyboardInterrupt, OSError):
        raise
    except BaseException as error:
        if out_of_memory(error):
            raise
        said = " ".join(str(error).split())
        raise PluginError(f"data set {name!r} of {owner} failed with {type(error).__name__}: {said:.1000}") from error
    if not given:
        raise PluginError(f"data set {name!r} of {owner}: load gave {type(dataset).__name__}; give a RecDataset")
    return dataset


def frozen(dataset: RecDataset) -> RecDataset:
    """The same data set, its sequences protected: every part of a run is given the same arrays."""
    for split in SPLITS:
        for values in (dataset.split(split).items, dataset.split(split).offsets):
            values.setflags(write=False)
    return dataset
