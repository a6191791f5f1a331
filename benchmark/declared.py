"""What a record would tell of the machine it was made on: paths, which are nobody else's business and no use to them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

_FILES = ("--plugin", "--config", "--out", "--records")
"""Options whose value is a file or folder, absolute or not."""
_START = r"(?:/[^/\s]|~[^\s/]*/|[A-Za-z]:[\\/]|\\\\)"
_ABSOLUTE = re.compile(_START)
_WITHIN = re.compile(rf"(?:^|[\s'\"=:,(\[]){_START}[^\s'\",)\]]*")


def without_folders(command: str) -> str:
    """A command with every file and folder named by its last part: ``--plugin /home/me/new.py`` becomes ``--plugin new.py``.

    Names with a slash that are no paths, as those of models on the Hub, stay. A command that no shell could read is left
    out but for its first word.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return command.split(maxsplit=1)[0]
    shortened, before = [], ""
    for word in words:
        option, equals, value = word.partition("=") if not _ABSOLUTE.match(word) else ("", "", word)
        if equals and (option in _FILES or _ABSOLUTE.match(value)):
            word = f"{option}={_last(value)}"
        elif before in _FILES or _ABSOLUTE.match(word):
            word = _last(word)
        shortened.append(word)
        before = word
    return command if shortened == words else shlex.join(shortened)


def _last(path: str) -> str:
    parts = [part for part in re.split(r"[\\/]", path) if part]
    return parts[-1] if parts else path


def paths_in(values: Any) -> dict[str, str]:
    """Every text in some JSON that names an absolute path: where it stands → the path."""
    return {
        where: found.group().lstrip(" '\"=:,([")
        for where, text in _texts(values, "")
        if (found := _WITHIN.search(text))
    }


def _texts(values: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _texts(value, f"{where}.{key}".lstrip("."))
    elif isinstance(values, list):
        for at, value in enumerate(values):
            yield from _texts(value, f"{where}[{at}]")
    elif isinstance(values, str):
        yield where, values
