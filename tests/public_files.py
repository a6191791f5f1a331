"""Small files in the layouts of public data sets, with invented content."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from typing import Any

import numpy as np

USERS, ITEMS, REVIEWS = 12, 9, 90
PAIRS_HEADER, TITLES_HEADER = b"user,item,timestamp\n", b"item,title\n"


def reviews(n: int = REVIEWS) -> list[dict[str, Any]]:
    """Amazon's, of either year; never two at a time."""
    rng = np.random.default_rng(5)
    return [
        {
            "reviewerID": f"A{rng.integers(USERS)}",
            "asin": f"B{rng.integers(ITEMS):03}",
            "reviewText": 'Très "bien"\n<br> ' * int(rng.integers(4)),
            "overall": float(rng.integers(3, 6)),
            "helpful": [0, row],
            "unixReviewTime": 1_300_000_000 + 60 * row,
        }
        for row in range(n)
    ]


def json_lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def products() -> list[dict[str, Any]]:
    return [{"asin": f"B{item:03}", "title": f"It's &quot;{item}&quot;", "price": item} for item in range(ITEMS)]


def amazon(category: str = "Beauty") -> dict[str, bytes]:
    """A download of 2014: {file name: content}."""
    literals = "".join(f"{product!r}\n" for product in products()).encode()
    return {
        f"reviews_{category}_5.json.gz": gzip.compress(json_lines(reviews())),
        f"meta_{category}.json.gz": gzip.compress(literals),
    }


def movielens() -> dict[str, bytes]:
    """ratings.dat and movies.dat."""
    rows = reviews()
    ratings = [
        f"{row['reviewerID'][1:]}::{row['asin'][1:]}::{row['overall']:.0f}::{row['unixReviewTime']}" for row in rows
    ]
    movies = [f'{item:03}::Léon, Part {item}: "The Pro" (19{item + 80})::Crime|Drama' for item in range(ITEMS)]
    return {
        "ratings.dat": "".join(f"{line}\n" for line in ratings).encode(),
        "movies.dat": "".join(f"{line}\n" for line in movies).encode("latin-1"),
    }


def archive(files: dict[str, bytes], folder: str = "ml-1m/") -> bytes:
    """A zip file, the same every time."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(zipfile.ZipInfo(folder + name), content)
    return packed.getvalue()


def microlens() -> dict[str, bytes]:
    pairs = [f"{row['reviewerID'][1:]},{row['asin'][1:]},{row['unixReviewTime']}123\n" for row in reviews()]
    titles = [f'{item:03},"A ""video"", number\n{item} 🎬"\n' for item in range(ITEMS)]
    return {
        "MicroLens-50k_pairs.csv": PAIRS_HEADER + "".join(pairs).encode(),
        "MicroLens-50k_titles.csv": TITLES_HEADER + "".join(titles).encode(),
    }
