"""The files of a published board: texts and pictures written all together or not at all, and stale pictures removed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from prunebench.benchmark.progress import Report
from prunebench.datasets.files import atomic_file
from prunebench.leaderboard.board import Board
from prunebench.leaderboard.pictures import BITMAP, DARK, FOLDER, LIGHT, pictures_of
from prunebench.leaderboard.plots import draw

LIST = "pictures.json"
"""Beside the pictures: the file names and sha256 of those that a build wrote, hence may remove."""


def drawn(board: Board, report: Report) -> dict[str, bytes]:
    """The files of a board's pictures by name; ``report(done, total, what)`` as they get done."""
    pictures = pictures_of(board)
    found = {}
    for at, picture in enumerate(pictures.every):
        report(at, len(pictures.every), picture.name)
        for ending in (LIGHT, DARK, BITMAP):
            found[picture.name + ending] = draw(picture, pictures.methods, ending)
    return found


def names(board: Board) -> list[str]:
    """The file names of a board's pictures."""
    return [name for picture in pictures_of(board).every for name in picture.files]


def publish(out: Path, texts: Mapping[str, str], pictures: Mapping[str, bytes]) -> None:
    """Write all files, or after an error none; then remove the pictures that an earlier build wrote and this did not.

    All is written before the first file takes its name, so that only a kill while they do leaves some of each board, which
    `check` finds. A picture that was changed since it was built is nobody's to remove, as is any other file.
    """
    folder = out / FOLDER
    stale = {name: sha256 for name, sha256 in listed(out).items() if name not in pictures}
    (folder if pictures else out).mkdir(parents=True, exist_ok=True)
    contents = {out / name: text.encode() for name, text in texts.items()}
    contents |= {folder / name: content for name, content in pictures.items()}
    if pictures:
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(pictures.items())}
        contents[folder / LIST] = (json.dumps(sums, indent=1) + "\n").encode()
    with ExitStack() as stack:
        for path, content in contents.items():
            file = stack.enter_context(atomic_file(path, overwrite=True)).buffer
            file.write(content)
            file.flush()
    for name, sha256 in stale.items():
        path = folder / name
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
            path.unlink()
    if stale and not pictures:
        (folder / LIST).unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def listed(out: Path) -> dict[str, str]:
    """File name → sha256 of the pictures that the last build wrote; none where the list is not one of ours."""
    try:
        sums = json.loads((out / FOLDER / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(sums, dict):
        return {}
    return {name: str(sha256) for name, sha256 in sums.items() if _is_picture(name)}


def _is_picture(name: str) -> bool:
    return Path(name).name == name and name.endswith((LIGHT, BITMAP))
