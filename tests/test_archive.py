"""Archives that somebody made to do harm are refused before anything is unpacked, in words that say which entry and why."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prunebench.leaderboard import archive, user_checks
from prunebench.leaderboard.archive import LARGEST, RefusedError, pack, read_archive, shown
from prunebench.leaderboard.record import RecordError, load_record
from prunebench.leaderboard.user_checks import read_users

RECORDS = Path(__file__).resolve().parents[1] / "leaderboard" / "published" / "records"
RUN = "0123456789ab"
ONE = {RUN: {"record.json": b"{}", "manifest.json": b"{}"}}


def read(path: Path) -> dict[str, dict[str, bytes]]:
    return dict(read_archive(path))


def zipped(*entries: tuple[zipfile.ZipInfo | str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content, compression)
    return out.getvalue()


def _entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def _named(name: str) -> bytes:
    return zipped((_entry(name), b"x"))


def _of(mode: int) -> bytes:
    return zipped((_entry(f"{RUN}/record.json", mode), b"/etc/passwd"))


def _bomb() -> bytes:
    """A gigabyte in a megabyte, as the entry says."""
    return zipped((f"{RUN}/record.json", bytes(2**23 + 1)), compression=zipfile.ZIP_DEFLATED)


def _lying() -> bytes:
    """An entry that says it holds ten bytes and holds millions."""
    content = bytearray(zipped((f"{RUN}/record.json", bytes(2**22)), compression=zipfile.ZIP_DEFLATED))
    size = struct.pack("<I", 2**22)
    while (at := content.find(size)) >= 0:
        content[at : at + 4] = struct.pack("<I", 10)
    return bytes(content)


def _encrypted() -> bytes:
    content = bytearray(zipped((f"{RUN}/record.json", b"x")))
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def _huge_directory() -> bytes:
    content = bytearray(zipped((f"{RUN}/record.json", b"x")))
    content[-10:-6] = struct.pack("<I", 2**30)
    return bytes(content)


def _zip64() -> bytes:
    """The end of an archive with 64-bit sizes, which may announce any number of entries."""
    whole = zipped((f"{RUN}/record.json", b"x"))
    return whole[:-22] + b"PK\x06\x07" + bytes(16) + whole[-22:]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "an absolute path": (lambda: _named("/etc/passwd"), "'/etc/passwd' is an absolute path"),
    "a drive": (lambda: _named("C:/Windows/x"), "is an absolute path"),
    "a way out": (lambda: _named(f"{RUN}/../../record.json"), "points outside its folder"),
    "a way out, backwards": (lambda: _named(f"..\\{RUN}\\record.json"), "points outside its folder"),
    "a NUL": (lambda: _named(f"{RUN}/record.json?.exe").replace(b"?", b"\0"), "points outside its folder"),
    "a symbolic link": (lambda: _of(stat.S_IFLNK | 0o777), "is a link or a device"),
    "a device": (lambda: _of(stat.S_IFCHR | 0o666), "is a link or a device"),
    "a pipe": (lambda: _of(stat.S_IFIFO | 0o666), "is a link or a device"),
    "a script": (lambda: _named(f"{RUN}/run.py"), "is no file of a run"),
    "a file in a file": (lambda: _named(f"{RUN}/record.json/record.json"), "is no file of a run"),
    "a folder that is no run": (lambda: _named("run/record.json"), "is no file of a run"),
    "a terminal's commands": (lambda: _named("\x1b[2Jrecord.json"), r"'\x1b[2Jrecord.json' is no file of a run"),
    "a bomb": (_bomb, "has 8,388,609 bytes; at most 8,388,608 are read"),
    "many bad entries": (lambda: zipped(*((f"x{at}", b"") for at in range(30))), "and 10 more of the kind"),
    "an entry that lies": (_lying, "is damaged or not of the size it states"),
    "a packing that grows at will": (
        lambda: zipped((f"{RUN}/record.json", bytes(99)), compression=zipfile.ZIP_LZMA),
        "packed in a way that is not read",
    ),
    "an encrypted entry": (_encrypted, "is encrypted"),
    "an entry twice": (
        lambda: zipped((f"{RUN}/record.json", b"a"), (f"{RUN}/record.json", b"b")),
        "record.json' is there twice",
    ),
    "too many entries": (lambda: zipped(*((f"x{at}", b"") for at in range(20_001))), "has 20,001 entries"),
    "a directory without end": (_huge_directory, "with a directory of more than"),
    "64-bit sizes": (_zip64, "with a directory of more than"),
    "a comment": (lambda: _named(f"{RUN}/record.json")[:-2] + b"\3\0abc", "a comment follows it"),
    "half an archive": (lambda: pack(ONE, "")[:-30], "its end is missing"),
    "no entry at all": (lambda: zipped(), "has no run in it"),
    "no run": (lambda: pack({}, "hello"), "has no run in it"),
    "a program": (lambda: b"\x7fELF" + bytes(99), "is no zip archive"),
    "nothing": (lambda: b"", "is no zip archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_archive_is_refused(tmp_path: Path, name: str) -> None:
    make, words = HOSTILE[name]
    path = tmp_path / "given.zip"
    path.write_bytes(make())
    with pytest.raises(RefusedError) as refused:
        read(path)
    assert any(words in reason for reason in refused.value.reasons), refused.value.reasons
    assert all(reason.isprintable() and len(reason) < 300 for reason in refused.value.reasons)
    assert [one.name for one in tmp_path.iterdir()] == ["given.zip"]


def test_all_bad_entries_are_named(tmp_path: Path) -> None:
    path = tmp_path / "given.zip"
    path.write_bytes(zipped((_entry("/a"), b""), (_entry("../b"), b""), (_entry(f"{RUN}/record.json"), b"{}")))
    with pytest.raises(RefusedError) as refused:
        read(path)
    assert refused.value.reasons == ["'/a' is an absolute path", "'../b' points outside its folder"]


def test_more_than_fits_is_refused_by_what_the_entries_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 3_000)
    path = tmp_path / "given.zip"
    path.write_bytes(zipped((f"{RUN}/record.json", bytes(3_001)), compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(RefusedError, match=r"would unpack to 3,001 bytes; at most 3,000 are read"):
        read(path)
    path.write_bytes(pack({RUN: {"record.json": bytes(3_000)}}, ""))
    with pytest.raises(RefusedError, match=r"bytes; at most 3,000 are read"):
        read(path)


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.from_regex(r"[0-9a-f]{12}", fullmatch=True),
        st.dictionaries(st.sampled_from(sorted(LARGEST)), st.binary(max_size=50), min_size=1),
        min_size=1,
        max_size=4,
    )
)
def test_what_was_packed_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, runs: dict[str, dict[str, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("zip") / "one.zip"
    path.write_bytes(pack(runs, "what it is"))
    assert read(path) == runs
    assert pack(dict(reversed(runs.items())), "what it is") == path.read_bytes()


@settings(max_examples=50)
@given(st.binary(max_size=200), st.integers(0, 10_000))
@example(b"\x01", 1885)  # an entry that starts before the archive does
def test_no_bytes_do_more_than_be_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes, at: int) -> None:
    whole = pack(ONE, "note")
    at %= len(whole)
    path = tmp_path_factory.mktemp("zip") / "one.zip"
    for content in (
        junk,
        b"PK" + junk,
        whole[:at] + junk + whole[at:],
        whole[:at] + junk[:4] + whole[at + len(junk[:4]) :],
    ):
        path.write_bytes(content)
        with suppress(RefusedError):
            assert set(read(path)) <= {RUN}


@settings(max_examples=50)
@given(st.text())
def test_foreign_text_is_shown_on_one_short_line(text: str) -> None:
    said = shown(text)
    assert said.isascii()
    assert said.isprintable()
    assert len(said) <= 12 * 80


# --- the archive inside: NumPy's -----------------------------------------------------------------------------------------


def _npy(shape: str, content: bytes = b"", descr: str = "<f8") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_npy("(1000000000000,)"), "not of the size that its header states"),
        (_npy("(-1,)", bytes(8)), "no plain array of numbers"),
        (_npy("(1.5,)", bytes(8)), "cannot be read as plain arrays"),
        (_npy("(1,)", b"cos\nsystem\n(S'true'\ntR.", "|O"), "Python objects, which are never read"),
        (_npy("(" + "1," * 4000 + ")", bytes(8)), "cannot be read as plain arrays"),
        (b"\x93NUMPY\x09\x00", "no array of format 1.0"),
        (b"GIF89a", "cannot be read as plain arrays"),
        (b"", "cannot be read as plain arrays"),
    ],
)
def test_an_array_is_never_larger_than_its_bytes(content: bytes, words: str) -> None:
    folder = next(path for path in sorted(RECORDS.iterdir()))
    record = load_record(folder / "record.json")
    with np.load(folder / "per_user.npz") as arrays:
        names = list(arrays)
    whole = zipped(*((f"{name}.npy", content) for name in names))
    with pytest.raises(RecordError, match=words):
        read_users(whole, record)


def test_arrays_that_would_fill_the_memory_are_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = next(path for path in sorted(RECORDS.iterdir()))
    record, content = load_record(folder / "record.json"), (folder / "per_user.npz").read_bytes()
    assert len(read_users(content, record).users) == record.protocol.users_evaluated
    monkeypatch.setattr(user_checks, "MOST_BYTES", 1_000)
    with pytest.raises(RecordError, match=r"would unpack to [0-9,]+ bytes; at most 1,000 are read"):
        read_users(content, record)
