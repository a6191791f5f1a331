"""Items to semantic IDs: vectors quantised level by level, and a collision code that tells apart what remains alike."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from prunebench.recommenders.base import Float32, RecommenderError
from prunebench.recommenders.lloyd import lloyd
from prunebench.recommenders.runtime import Runtime
from prunebench.recommenders.tiger.config import TokeniserConfig
from prunebench.recommenders.tiger.quantised import Quantised, different
from prunebench.recommenders.tiger.rqvae import train_rqvae
from prunebench.recommenders.tiger.semantic_ids import SemanticIDs

ITERATIONS = 50
"""Lloyd steps of K-means per level, at most."""
_CODES, _QUALITY = "codes.npz", "quality.json"


def fit_semantic_ids(vectors: Float32, config: TokeniserConfig, runtime: Runtime) -> SemanticIDs:
    """The semantic IDs of all items from their ``vectors`` [n_items, d].

    All codes but the last follow the vectors, whatever their order, and equal vectors share them; the last, the
    collision code, numbers the items that share the others in a random order. ``quality`` holds ``items``,
    ``distinct_vectors``, ``distinct_prefixes`` (IDs without the collision code), ``collision_rate`` (share of items
    whose prefix another item has), ``largest_collision`` (items of one prefix), ``reconstruction_error`` (mean squared
    distance of vectors to their reconstruction, relative to that to their mean), and for each level l ``codes_l``,
    ``usage_l`` (share of these that an item has; below 1: some are dead) and ``perplexity_l`` (exp of the entropy of
    the items' codes); for `rqvae` also what ``train_rqvae`` notes.
    Raises RecommenderError for vectors of another shape, for none, and for a number that is not finite.
    """
    rows, member, counts = different(_checked(vectors))
    rows = _scaled(rows, counts)
    if config.kind == "rqvae":
        quantised = train_rqvae(rows, counts, config, runtime)
    else:
        quantised = residual_kmeans(rows, counts, config, runtime)
    prefixes = quantised.codes[member]
    collision, sharing = collision_codes(prefixes, runtime)
    codes = np.column_stack([prefixes, collision]).astype(np.int32)
    quality = {
        "items": len(codes),
        "distinct_vectors": len(rows),
        "distinct_prefixes": int((collision == 0).sum()),
        "collision_rate": float((sharing > 1).mean()),
        "largest_collision": int(sharing.max()),
        "reconstruction_error": quantised.reconstruction_error(rows, counts),
        **_codebook_use(prefixes, quantised.sizes),
        **quantised.notes,
    }
    return SemanticIDs(codes, (*quantised.sizes, int(sharing.max())), quality)


def residual_kmeans(rows: Float32, counts: NDArray[np.int64], config: TokeniserConfig, runtime: Runtime) -> Quantised:
    """Each level's codebook is the K-means of what the levels before leave of ``rows`` [n, d], which are distinct.

    ``counts`` int64 [n]: the items that each row stands for. A codebook has no more codes than there are different
    residuals; where it has as many, they are its codes, and nothing is left of the rows.
    """
    residual, codes, codebooks = rows, np.empty((len(rows), config.codebooks), np.int64), []
    for level in runtime.track(range(config.codebooks), "residual K-means"):
        distinct, member, weights = different(residual, counts)
        seed = runtime.derive("residual K-means", level)
        codebook, assigned = _kmeans(distinct, weights, config.codes, seed)
        codes[:, level] = assigned[member]
        codebooks.append(codebook)
        residual = residual - codebook[codes[:, level]]
    return Quantised(codes, tuple(codebooks), rows - residual)


def _kmeans(distinct: Float32, weights: NDArray[np.int64], k: int, seed: int) -> tuple[Float32, NDArray[np.int64]]:
    """At most k centroids of distinct rows, float32 [k, d], and the nearest one to each row, int64 [n]."""
    if len(distinct) <= k:
        return distinct, np.arange(len(distinct))
    first = np.sort(np.random.default_rng(seed).choice(len(distinct), k, replace=False))
    return lloyd(distinct, weights, distinct[first], seed, ITERATIONS)


def collision_codes(prefixes: NDArray[np.int64], runtime: Runtime) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A number for each of the rows of ``prefixes`` [n, levels] among those equal to it, and how many these are.

    Both int64 [n]; the numbers are 0, 1, … in an order drawn at random, for an item's id must say nothing.
    """
    _, group, sizes = np.unique(prefixes, axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    order = np.lexsort((runtime.rng("collision codes").permutation(len(group)), group))
    codes = np.empty(len(group), np.int64)
    codes[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return codes, sizes[group]


def save_ids(ids: SemanticIDs, folder: Path) -> None:
    """Write what ``load_ids`` reads: the codes and the codebooks' sizes, and the quality as JSON."""
    np.savez(folder / _CODES, codes=ids.codes, sizes=np.array(ids.sizes, np.int64))
    (folder / _QUALITY).write_text(json.dumps(dict(ids.quality), indent=1) + "\n", encoding="utf-8")


def load_ids(folder: Path) -> SemanticIDs:
    """The semantic IDs that ``save_ids`` wrote. Raises RecommenderError where a file is missing or no such file."""
    try:
        with np.load(folder / _CODES, allow_pickle=False) as arrays:
            codes, sizes = arrays["codes"], tuple(int(size) for size in arrays["sizes"])
        quality = json.loads((folder / _QUALITY).read_text(encoding="utf-8"))
    except (OSError, EOFError, BadZipFile, ValueError, KeyError) as error:
        raise RecommenderError(f"no semantic IDs can be read from {folder} ({error}); fit them again") from None
    return SemanticIDs(codes, sizes, quality)


def _checked(vectors: Float32) -> Float32:
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or not vectors.size:
        raise RecommenderError(f"item vectors of shape {vectors.shape}: semantic IDs need one row [d] for each item")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise RecommenderError(
            f"the vector of item {bad[0]} is not finite ({len(bad)} of {len(vectors)} are not); check the encoder"
        )
    return vectors


def _scaled(rows: Float32, counts: NDArray[np.int64]) -> Float32:
    """The rows about the mean of all items, after a scaling by a power of two that keeps every square finite."""
    exponent = np.frexp(max(rows.max(), -rows.min()))[1]
    rows = np.ldexp(rows, -exponent)
    # Distances are taken from inner products, which an offset common to all vectors would swamp.
    return rows - np.average(rows, axis=0, weights=counts).astype(np.float32)


def _codebook_use(prefixes: NDArray[np.int64], sizes: tuple[int, ...]) -> dict[str, float | int]:
    use: dict[str, float | int] = {}
    for level, size in enumerate(sizes):
        shares = np.bincount(prefixes[:, level], minlength=size) / len(prefixes)
        used = shares[shares > 0]
        use[f"codes_{level + 1}"] = size
        use[f"usage_{level + 1}"] = len(used) / size
        use[f"perplexity_{level + 1}"] = float(np.exp(-(used * np.log(used)).sum()))
    return use
