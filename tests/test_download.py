"""Downloads from a server that behaves badly: resumed, checked, told in one line, and never half installed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mistakes
import pytest
from file_server import Site, serving
from mistakes import Answer
from public_files import ITEMS, amazon, archive, movielens

from prunebench.datasets import download
from prunebench.datasets.download import Patience
from prunebench.datasets.library import Library
from prunebench.datasets.sources import MOVIELENS_1M, SOURCES, RemoteFile

ZIP = archive(movielens())
SHA256 = hashlib.sha256(ZIP).hexdigest()
HALF = len(ZIP) // 2
NO_PROXY = {"no_proxy": "*", "NO_PROXY": "*"}


@pytest.fixture(autouse=True)
def _quick_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """MovieLens is a small file of our own here, with its own checksum; waits are short; no proxy stands between."""
    for name, value in NO_PROXY.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(download, "PATIENCE", Patience(timeout_s=5, attempts=3, wait_s=0.001))
    monkeypatch.setitem(
        SOURCES, "movielens-1m", replace(MOVIELENS_1M, files=(RemoteFile("ml-1m.zip", SHA256, len(ZIP)),))
    )


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site({"/ml-1m.zip": ZIP})) as served:
        yield served


def fetch(folder: Path, site: Site | str, *words: str, source: str = "movielens-1m") -> Answer:
    url = site if isinstance(site, str) else site.url
    return mistakes.ask(folder, ("datasets", "download", source, "--mirror", url, *words))


def downloads(folder: Path, source: str = "movielens-1m") -> Path:
    return folder / "home" / "downloads" / source


def installed(folder: Path) -> list[str]:
    return [entry["name"] for entry in Library(folder / "home").installed()]


def arrived(folder: Path) -> None:
    """The data set is installed, the file is what the server has, and nothing else is left."""
    assert installed(folder) == ["movielens-1m"]
    assert (downloads(folder) / "ml-1m.zip").read_bytes() == ZIP
    assert {path.name for path in downloads(folder).iterdir()} <= {"ml-1m.zip", ".lock"}


def refused(folder: Path, answer: Answer, *said: str) -> None:
    """One line, exit code 1, nothing installed."""
    assert answer.code == 1, answer.err
    for words in said:
        assert words in answer.line
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert installed(folder) == []


def test_a_whole_download_is_installed_and_kept(site: Site, tmp_path: Path) -> None:
    answer = fetch(tmp_path, site, "--json")
    assert answer.code == 0, answer.err
    entry = json.loads(answer.out)
    assert (entry["name"], entry["items"], entry["meta"]["item_noun"]) == ("movielens-1m", ITEMS, "movie")
    arrived(tmp_path)
    assert Library(tmp_path / "home").load("movielens-1m").titles[1] == 'Léon, Part 1: "The Pro" (1981)'
    assert [asked.path for asked in site.log] == ["/ml-1m.zip"]


def test_what_is_there_and_right_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    assert fetch(tmp_path, site).code == 0
    again = fetch(tmp_path, site)
    assert (again.code, len(site.log)) == (2, 1)
    assert "is installed already; --overwrite replaces it" in again.line
    options = ("--name", "two", "--split", "leave-one-out", "--min-rating", "5", "--noun", "film")
    assert fetch(tmp_path, site, *options).code == 0
    meta = Library(tmp_path / "home").load("two").meta
    assert (meta["split"], meta["min_rating"], meta["item_noun"]) == ("leave-one-out", "5", "film")
    assert len(site.log) == 1


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_broken_connection_is_taken_up_where_it_broke(site: Site, tmp_path: Path, ranges: bool) -> None:
    site.cuts, site.ranges = [HALF], ranges
    answer = fetch(tmp_path, site)
    assert answer.code == 0, answer.err
    assert f"broke off at {HALF:,} of {len(ZIP):,} bytes" in answer.err
    arrived(tmp_path)
    first, second = site.log
    assert (first.range, first.sent) == (None, HALF)
    assert second.range == f"bytes={HALF}-"
    assert (second.status, second.sent) == ((206, len(ZIP) - HALF) if ranges else (200, len(ZIP)))


def test_without_a_version_to_tell_by_it_starts_again(site: Site, tmp_path: Path) -> None:
    site.cuts, site.etag = [HALF], None
    assert fetch(tmp_path, site).code == 0
    assert [asked.range for asked in site.log] == [None, None]
    arrived(tmp_path)


def test_a_connection_that_keeps_breaking_is_given_up_and_another_run_goes_on(site: Site, tmp_path: Path) -> None:
    site.cuts = [100, 100, 100]
    refused(tmp_path, fetch(tmp_path, site), f"{site.url}/ml-1m.zip", "broke off at 300 of", "the same command goes on")
    assert (downloads(tmp_path) / "ml-1m.zip.part").read_bytes() == ZIP[:300]
    assert fetch(tmp_path, site).code == 0
    assert [asked.range for asked in site.log] == [None, "bytes=100-", "bytes=200-", "bytes=300-"]
    arrived(tmp_path)


def test_an_answer_shorter_than_announced_is_never_taken_for_whole(site: Site, tmp_path: Path) -> None:
    site.files = {"/reviews_Beauty_5.json.gz": amazon()["reviews_Beauty_5.json.gz"]}
    site.announces_more = 10
    refused(tmp_path, fetch(tmp_path, site, source="amazon-2014-beauty"), "reviews_Beauty_5.json.gz")
    assert not (downloads(tmp_path, "amazon-2014-beauty") / "reviews_Beauty_5.json.gz").exists()


def test_a_server_that_falls_silent_is_asked_again(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PATIENCE", Patience(timeout_s=0.2, attempts=3, wait_s=0.001))
    site.cuts, site.stalls = [HALF], True
    answer = fetch(tmp_path, site)
    assert answer.code == 0, answer.err
    assert "no answer in time" in answer.err
    assert [asked.range for asked in site.log] == [None, f"bytes={HALF}-"]
    arrived(tmp_path)


@pytest.mark.parametrize("honest", [True, False], ids=["If-Range", "If-Range ignored"])
def test_a_file_that_changed_between_attempts_starts_again(site: Site, tmp_path: Path, honest: bool) -> None:
    old = bytes(len(ZIP))
    site.files, site.cuts, site.etag = {"/ml-1m.zip": old}, [100, 100, 100], '"old"'
    assert fetch(tmp_path, site).code == 1
    site.files, site.etag, site.honest = {"/ml-1m.zip": ZIP}, '"new"', honest
    site.log.clear()
    assert fetch(tmp_path, site).code == 0
    assert site.log[0].range == "bytes=300-"
    assert site.log[-1].sent == len(ZIP)
    arrived(tmp_path)


def test_a_part_that_is_longer_than_the_file_starts_again(site: Site, tmp_path: Path) -> None:
    site.cuts = [100, 100, 100]
    assert fetch(tmp_path, site).code == 1
    with (downloads(tmp_path) / "ml-1m.zip.part").open("ab") as part:
        part.write(bytes(len(ZIP)))
    assert fetch(tmp_path, site).code == 0
    assert [asked.status for asked in site.log[3:]] == [416, 200]
    arrived(tmp_path)


def test_a_part_that_is_whole_is_not_asked_for(site: Site, tmp_path: Path) -> None:
    site.cuts = [HALF, 0, 0]
    assert fetch(tmp_path, site).code == 1
    (downloads(tmp_path) / "ml-1m.zip.part").write_bytes(ZIP)
    assert fetch(tmp_path, site).code == 0
    assert len(site.log) == 3
    arrived(tmp_path)


def test_a_wrong_checksum_is_never_installed(site: Site, tmp_path: Path) -> None:
    wrong = bytes([ZIP[0] ^ 1]) + ZIP[1:]
    site.files = {"/ml-1m.zip": wrong}
    refused(tmp_path, fetch(tmp_path, site), hashlib.sha256(wrong).hexdigest(), f"not {SHA256}", "ml-1m.zip.rejected")
    kept = {path.name for path in downloads(tmp_path).iterdir()}
    assert kept == {"ml-1m.zip.rejected", ".lock"}
    site.files = {"/ml-1m.zip": ZIP}
    assert fetch(tmp_path, site).code == 0
    assert installed(tmp_path) == ["movielens-1m"]


def test_a_wrong_size_is_refused_before_anything_is_read(site: Site, tmp_path: Path) -> None:
    site.files = {"/ml-1m.zip": ZIP + b"more"}
    refused(tmp_path, fetch(tmp_path, site), f"has {len(ZIP) + 4:,} bytes, not {len(ZIP):,}")
    assert not (downloads(tmp_path) / "ml-1m.zip.part").exists()


def test_a_damaged_file_is_fetched_again(site: Site, tmp_path: Path) -> None:
    assert fetch(tmp_path, site).code == 0
    (downloads(tmp_path) / "ml-1m.zip").write_bytes(b"by hand")
    answer = fetch(tmp_path, site, "--overwrite")
    assert (answer.code, len(site.log)) == (0, 2)
    assert "is not the file that is expected; kept as ml-1m.zip.rejected" in answer.err


def test_files_fetched_by_hand_need_no_server(tmp_path: Path) -> None:
    downloads(tmp_path).mkdir(parents=True)
    (downloads(tmp_path) / "ml-1m.zip").write_bytes(ZIP)
    assert fetch(tmp_path, "http://127.0.0.1:9").code == 0
    arrived(tmp_path)


def test_a_redirect_is_followed_also_for_the_rest(site: Site, tmp_path: Path) -> None:
    site.files, site.redirects = {"/elsewhere": ZIP}, {"/ml-1m.zip": "/elsewhere"}
    site.cuts = [HALF]
    assert fetch(tmp_path, site).code == 0
    assert [(asked.path, asked.range) for asked in site.log[1::2]] == [
        ("/elsewhere", None),
        ("/elsewhere", f"bytes={HALF}-"),
    ]
    arrived(tmp_path)


def test_redirects_in_circles_are_told(site: Site, tmp_path: Path) -> None:
    site.redirects = {"/ml-1m.zip": "/b", "/b": "/ml-1m.zip"}
    refused(tmp_path, fetch(tmp_path, site), f"{site.url}/ml-1m.zip redirects in circles", "by hand")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_file_that_is_not_given_is_asked_for_once(site: Site, tmp_path: Path, status: int) -> None:
    site.answers = [status] * 9
    by_hand = f"bench datasets import {downloads(tmp_path)} --format movielens-1m --name movielens-1m"
    answer = fetch(tmp_path, site)
    refused(tmp_path, answer, f"{site.url}/ml-1m.zip answered {status}", "fetch it by hand")
    assert by_hand.replace(str(tmp_path / "home"), "$PRUNEBENCH_HOME") in answer.line
    assert len(site.log) == 1


def test_a_server_in_trouble_is_asked_again_but_not_for_ever(site: Site, tmp_path: Path) -> None:
    site.answers = [503, 500]
    assert fetch(tmp_path, site).code == 0
    arrived(tmp_path)
    site.answers = [500] * 9
    answer = fetch(tmp_path, site, "--name", "two", "--overwrite", source="amazon-2014-beauty")
    assert (answer.code, len(site.log)) == (1, 3 + 3)
    assert "answered 500" in answer.line


def test_offline_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        answer = fetch(tmp_path, url)
    refused(tmp_path, answer, f"cannot reach {url}/ml-1m.zip (Connection refused)", "by hand", "datasets import")


@pytest.mark.parametrize(
    "address", ["ftp://host/x", "host/x", "", "file:///etc", "http://[::1", "http://", "http://host:port"]
)
def test_a_mirror_is_a_web_address(tmp_path: Path, address: str) -> None:
    answer = fetch(tmp_path, address)
    assert (answer.code, "is no address to fetch from" in answer.line) == (2, True)


def test_a_web_page_is_no_file(site: Site, tmp_path: Path) -> None:
    site.page = b"<html>Please log in</html>"
    answer = fetch(tmp_path, site, source="amazon-2014-beauty")
    refused(tmp_path, answer, "answered with a web page")
    assert {path.name for path in downloads(tmp_path, "amazon-2014-beauty").iterdir()} == {".lock"}


def test_without_a_published_checksum_the_first_one_counts(site: Site, tmp_path: Path) -> None:
    files = amazon()
    site.files = {f"/{name}": content for name, content in files.items()}
    assert fetch(tmp_path, site, source="amazon-2014-beauty").code == 0
    folder = downloads(tmp_path, "amazon-2014-beauty")
    seen = json.loads((folder / ".checksums.json").read_text())
    assert {name: entry["sha256"] for name, entry in seen.items()} == {
        name: hashlib.sha256(content).hexdigest() for name, content in files.items()
    }
    (folder / "meta_Beauty.json.gz").unlink()
    site.files["/meta_Beauty.json.gz"] = b"x" * len(files["meta_Beauty.json.gz"])
    before = Library(tmp_path / "home").load("amazon-2014-beauty").fingerprint
    answer = fetch(tmp_path, site, "--overwrite", source="amazon-2014-beauty")
    assert answer.code == 1
    assert "delete" in answer.line
    assert ".checksums.json" in answer.line
    assert Library(tmp_path / "home").load("amazon-2014-beauty").fingerprint == before
    (folder / ".checksums.json").unlink()
    site.files["/meta_Beauty.json.gz"] = files["meta_Beauty.json.gz"]
    assert fetch(tmp_path, site, "--overwrite", source="amazon-2014-beauty").code == 0


def test_a_first_download_counts_only_once_it_could_be_read(site: Site, tmp_path: Path) -> None:
    files = {f"/{name}": content for name, content in amazon().items()}
    path = "/reviews_Beauty_5.json.gz"
    site.files = {**files, path: files[path][:-9]}
    answer = fetch(tmp_path, site, source="amazon-2014-beauty")
    folder = downloads(tmp_path, "amazon-2014-beauty")
    assert answer.code == 2
    assert "cut short" in answer.line
    assert "delete it in $PRUNEBENCH_HOME/downloads/amazon-2014-beauty" in answer.line
    assert not (folder / ".checksums.json").exists()
    site.files = files
    (folder / path[1:]).unlink()
    assert fetch(tmp_path, site, source="amazon-2014-beauty").code == 0
    assert (folder / path[1:]).read_bytes() == files[path]


def test_nothing_and_what_was_packed_on_the_way_are_no_file(site: Site, tmp_path: Path) -> None:
    whole = {f"/{name}": content for name, content in amazon().items()}
    site.files = dict.fromkeys(whole, b"")
    refused(tmp_path, fetch(tmp_path, site, source="amazon-2014-beauty"), "it sent nothing")
    site.files, site.encoding = whole, "gzip"
    refused(tmp_path, fetch(tmp_path, site, source="amazon-2014-beauty"), "packed (gzip)")
    site.encoding = None
    assert fetch(tmp_path, site, source="amazon-2014-beauty").code == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_told(site: Site, tmp_path: Path) -> None:
    downloads(tmp_path).mkdir(parents=True)
    part = downloads(tmp_path) / "ml-1m.zip.part"
    part.symlink_to("/dev/full")
    refused(tmp_path, fetch(tmp_path, site), "ml-1m.zip.part: No space left on device", "free some space")
    assert len(site.log) == 1
    part.unlink()
    assert fetch(tmp_path, site).code == 0


def test_two_at_once_fetch_each_file_once(site: Site, tmp_path: Path) -> None:
    site.cuts, site.stalls = [HALF], True
    said: list[str] = []
    folders = [tmp_path / "at once"] * 2
    both = [
        threading.Thread(
            target=download.fetch, args=(SOURCES["movielens-1m"], folder, lambda *_: None, said.append, site.url)
        )
        for folder in folders
    ]
    both[0].start()
    assert site.cut.wait(10)
    both[1].start()
    while not any("waiting" in line for line in said):
        both[1].join(0.01)
    site.over.set()
    for thread in both:
        thread.join(10)
    assert (folders[0] / "ml-1m.zip").read_bytes() == ZIP
    assert [asked.range for asked in site.log] == [None, f"bytes={HALF}-"]


def test_ctrl_c_and_then_the_same_command(site: Site, tmp_path: Path) -> None:
    name, content = next(iter(amazon().items()))
    site.files = {f"/{file}": body for file, body in amazon().items()}
    site.cuts, site.stalls = [len(content) // 2], True
    words = ("datasets", "download", "amazon-2014-beauty", "--mirror", site.url)
    program = [sys.executable, "-c", "from prunebench.benchmark.cli import main; main()", *words]
    home = {**os.environ, "PRUNEBENCH_HOME": str(tmp_path / "home")}
    with subprocess.Popen(program, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert site.cut.wait(60)
        part = downloads(tmp_path, "amazon-2014-beauty") / f"{name}.part"
        for _ in range(1000):
            if part.is_file() and part.stat().st_size == len(content) // 2:
                break
            site.over.wait(0.01)
        assert part.stat().st_size == len(content) // 2
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert err.splitlines()[-1] == "bench: interrupted; the same command continues where this one stopped"
    assert installed(tmp_path) == []
    answer = mistakes.ask(tmp_path, words)
    assert answer.code == 0, answer.err
    assert [asked.range for asked in site.of(name)] == [None, f"bytes={len(content) // 2}-"]
    assert installed(tmp_path) == ["amazon-2014-beauty"]
