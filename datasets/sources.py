"""Public data sets that can be fetched: where each file lies, how large it is, and its checksum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Layout = Literal["dealrec", "amazon", "movielens-1m", "microlens-50k"]


@dataclass(frozen=True)
class RemoteFile:
    """``path`` lies below the source's address; ``sha256`` and ``size`` are None where none is published.

    What is fetched without a published checksum is held to the one it had the first time.
    """

    path: str
    sha256: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """What the file is called here."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Source:
    """A public data set: ``layout`` names its reader, ``noun`` what a prompt calls an item of it.

    ``checksums`` says where those of its files are from.
    """

    name: str
    summary: str
    address: str
    layout: Layout
    noun: str
    files: tuple[RemoteFile, ...]
    checksums: str = "none published"


GAMES = Source(
    "games",
    "Amazon Games as the paper prepared it, already split",
    "https://raw.githubusercontent.com/Linxyhaha/DEALRec/HEAD/data/games",
    "dealrec",
    "game product",
    (
        RemoteFile("training_dict.npy", "2d4ec30e709052a3a05bf62bb69dd09bc2259f25531cde298593a19fa1bdd46a", 1418156),
        RemoteFile("validation_dict.npy", "8da390cd56ff0046b5264a9ac3fb2afd78f1c10fecfa415a81b6764d3d1b0e13", 523061),
        RemoteFile("testing_dict.npy", "bcd640a6d21882fe6d2af520fa59682951921d5dd0f6ac2c5b6a037c4c742fdc", 513003),
        RemoteFile("title_maps.npy", "e003edaa3e5c712463de2ed6219e614e9f47b26642af1a18fa383f866c89f657", 1742731),
        RemoteFile("item_map.npy", "bc671c61733582ade396ebb19bd5cdd56221a17dd17c8c0fd6d39a8ef9862843", 397975),
        RemoteFile("sequential_train.txt", "2cf292f2098254781d312c98ba824af7c9e07748d05fe09ab6c1b443ace71c26", 1765404),
        RemoteFile("sequential_valid.txt", "43ffe2fea62b09b3ce00bd9821eecfd94fb924abd289ab017fabdd7282d25c9d", 398568),
        RemoteFile("sequential_test.txt", "f34272dc8a352f4f242c014835b3d65e6c0049bb1d1e35c8bc61cfbedc3dcbea", 383550),
    ),
    "computed from the released files",
)
MICROLENS_50K = Source(
    "microlens-50k",
    "MicroLens-50K as the paper prepared it, already split",
    "https://raw.githubusercontent.com/Linxyhaha/DEALRec/HEAD/data/microlens-50k",
    "dealrec",
    "video",
    tuple(RemoteFile(file.path) for file in GAMES.files),
)
MICROLENS_50K_ORIGINAL = Source(
    "microlens-50k-original",
    "MicroLens-50K as published: micro-videos and who watched them when",
    "https://recsys.westlake.edu.cn/MicroLens-50k-Dataset",
    "microlens-50k",
    "video",
    (
        RemoteFile(
            "MicroLens-50k_pairs.csv", "7ff8b91bcc84f5434ac2c5be7d0b7d7730f5e84f79f9648b5ae67a7641f97bbd", 9431093
        ),
        RemoteFile(
            "MicroLens-50k_titles.csv", "244aad5380cbbe0fb43458cfcda5ebe820f534384602f80a64dbbcd07dd30e49", 2392145
        ),
    ),
    "as two independent public projects measured them in September 2026",
)
MOVIELENS_1M = Source(
    "movielens-1m",
    "MovieLens 1M: a million movie ratings",
    "https://files.grouplens.org/datasets/movielens",
    "movielens-1m",
    "movie",
    (RemoteFile("ml-1m.zip", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"),),
    "as in TensorFlow's recommendation examples; the archive with GroupLens' md5 c4d9eecfca2ab87c1945afe126590906",
)


def _amazon_2014(name: str, category: str, noun: str) -> Source:
    return Source(
        f"amazon-2014-{name}",
        f"Amazon reviews of 2014, {category.replace('_', ' ')}, users and items with 5 or more",
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles",
        "amazon",
        noun,
        (RemoteFile(f"reviews_{category}_5.json.gz"), RemoteFile(f"meta_{category}.json.gz")),
    )


def _amazon_2018(name: str, category: str, noun: str) -> Source:
    return Source(
        f"amazon-2018-{name}",
        f"Amazon reviews of 2018, {category.replace('_', ' ')}, users and items with 5 or more",
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2",
        "amazon",
        noun,
        (RemoteFile(f"categoryFilesSmall/{category}_5.json.gz"), RemoteFile(f"metaFiles2/meta_{category}.json.gz")),
    )


ALL: Iterable[Source] = (
    GAMES,
    MICROLENS_50K,
    MICROLENS_50K_ORIGINAL,
    MOVIELENS_1M,
    _amazon_2014("beauty", "Beauty", "beauty product"),
    _amazon_2014("games", "Video_Games", "game product"),
    _amazon_2014("sports", "Sports_and_Outdoors", "sports product"),
    _amazon_2014("toys", "Toys_and_Games", "toy"),
    _amazon_2018("games", "Video_Games", "game product"),
    _amazon_2018("office", "Office_Products", "office product"),
    _amazon_2018("sports", "Sports_and_Outdoors", "sports product"),
)
SOURCES: dict[str, Source] = {source.name: source for source in ALL}
"""Everything `bench datasets download` knows, by name."""
