"""Mistakes with public data sets: fetching them, and reading what was fetched."""

from __future__ import annotations

import gzip
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from file_server import Site, serving
from mistakes import Mistake
from public_files import amazon, json_lines, reviews

from prunebench.datasets import download
from prunebench.datasets.download import Patience

TITLE = "Public data sets and downloads"
MIRROR = "http://mirror.example"
DOWNLOAD = ("datasets", "download")
IMPORT = ("datasets", "import", "reviews", "--name", "beauty", "--format", "amazon")
HERE = {"no_proxy": "*", "NO_PROXY": "*"}


@contextmanager
def _mirror(site: Site) -> Iterator[None]:
    """``MIRROR`` is a server on this machine meanwhile, and nobody waits long for it."""
    real = urllib.request.urlopen

    def routed(request: urllib.request.Request, **how: Any) -> Any:
        request.full_url = request.full_url.replace(MIRROR, site.url)
        return real(request, **how)

    quick = mock.patch.object(download, "PATIENCE", Patience(timeout_s=5, attempts=3, wait_s=0.001))
    with serving(site), mock.patch.object(urllib.request, "urlopen", routed), quick:
        yield


def _fetching(case: str, source: str, site: dict[str, Any], *said: str) -> Mistake:
    return Mistake(
        case,
        (*DOWNLOAD, source, "--mirror", MIRROR),
        said,
        code=1,
        environment=HERE,
        world=lambda: _mirror(Site(**site)),
    )


def _folder(**changed: bytes) -> Callable[[Path], None]:
    """A download of reviews, some of its files changed: ``reviews`` or ``meta``; empty ones are not there."""

    def given(folder: Path) -> None:
        (folder / "reviews").mkdir()
        for name, content in amazon().items():
            if content := changed.get(name.split("_")[0], content):
                (folder / "reviews" / name).write_bytes(content)

    return given


def _web_page(folder: Path) -> None:
    (folder / "ml-1m.zip").write_text("<html>")


def _no_titles(folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "videos" / "MicroLens-50k_pairs.csv").write_text("user,item,timestamp\n")


_LINES = json_lines(reviews())

CASES: list[Mistake] = [
    Mistake(
        "a source that does not exist",
        (*DOWNLOAD, "movielens"),
        ("unknown source 'movielens'", "did you mean movielens-1m"),
    ),
    Mistake(
        "a known data set that is not fetched by name",
        (*DOWNLOAD, "book"),
        ("known but cannot be downloaded", "bench datasets import FOLDER --format dealrec --name book"),
    ),
    Mistake(
        "no network, or the server is down",
        (*DOWNLOAD, "movielens-1m", "--mirror", "http://127.0.0.1:9"),
        ("cannot reach http://127.0.0.1:9/ml-1m.zip", "fetch it by hand into", "bench datasets import"),
        code=1,
        environment=HERE,
    ),
    Mistake(
        "a mirror that is no web address",
        (*DOWNLOAD, "movielens-1m", "--mirror", "mirror.example"),
        ("'mirror.example' is no address to fetch from",),
    ),
    Mistake(
        "another split of a data set that its authors split",
        (*DOWNLOAD, "games", "--split", "leave-one-out"),
        ("games was filtered and split by its authors", "leave --min-rating"),
    ),
    _fetching(
        "the file is not there",
        "movielens-1m",
        {"files": {}},
        "http://mirror.example/ml-1m.zip answered 404 Not Found",
        "fetch it by hand",
    ),
    _fetching(
        "redirects in circles",
        "movielens-1m",
        {"files": {}, "redirects": {"/ml-1m.zip": "/a", "/a": "/ml-1m.zip"}},
        "redirects in circles",
        "fetch it by hand",
    ),
    _fetching(
        "a proxy's page in place of the file",
        "movielens-1m",
        {"files": {}, "page": b"<html>Please log in</html>"},
        "answered with a web page",
    ),
    _fetching(
        "a connection that breaks again and again",
        "amazon-2014-beauty",
        {"files": {"/reviews_Beauty_5.json.gz": bytes(9000)}, "cuts": [1000, 1000, 1000]},
        "the connection broke off at 3,000 of 9,000 bytes",
        "the same command goes on",
    ),
    _fetching(
        "a file of another size than published",
        "games",
        {"files": {"/training_dict.npy": b"short"}},
        "training_dict.npy has 5 bytes, not 1,418,156",
        "not installed",
    ),
    _fetching(
        "a file with another checksum than published",
        "movielens-1m",
        {"files": {"/ml-1m.zip": b"PK and something else"}},
        "has the sha256",
        "ml-1m.zip.rejected",
        "not installed",
    ),
    Mistake(
        "a review that is cut short",
        IMPORT,
        ("reviews/reviews_Beauty_5.json.gz, line 3 cannot be read", "--drop-bad-rows"),
        given=_folder(reviews=b"".join([*_LINES.splitlines(keepends=True)[:2], _LINES.splitlines()[2][:40], b"\n"])),
    ),
    Mistake(
        "a product that asks to run code",
        IMPORT,
        ("reviews/meta_Beauty.json.gz, line 1 cannot be read", "no dictionary of plain Python values"),
        given=_folder(meta=b"{'asin': __import__('os').getcwd()}\n"),
    ),
    Mistake(
        "a .gz file that was not fetched to its end",
        IMPORT,
        ("reviews_Beauty_5.json.gz is cut short or damaged", "fetch it again"),
        given=_folder(reviews=gzip.compress(_LINES)[:-20]),
    ),
    Mistake(
        "a folder of reviews without products",
        IMPORT,
        ("reviews must hold one file of products (meta_*.json.gz), there is none", "--interactions and --items"),
        given=_folder(meta=b""),
    ),
    Mistake(
        "a web page saved as ml-1m.zip",
        ("datasets", "import", "ml-1m.zip", "--format", "movielens-1m", "--name", "movies"),
        ("ml-1m.zip is no zip file, or is cut short; fetch it again",),
        given=_web_page,
    ),
    Mistake(
        "a MicroLens folder without its titles",
        ("datasets", "import", "videos", "--format", "microlens-50k", "--name", "videos"),
        ("videos has no MicroLens-50k_titles.csv", "give the folder that holds"),
        given=_no_titles,
    ),
]
