"""Reading JSON that others send: whatever the bytes are, the answer is a value or a line that says what is wrong.

Nothing is written, run, or followed out of the folder. Knows bytes and JSON; refuses to know what they mean.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from math import isinf
from pathlib import Path
from typing import Any

MOST_BYTES = 64 * 2**20  # of a line, and of a file that is one object: beyond it something is wrong
MOST_DIGITS = 300  # of a whole number: a float holds no more
MOST_DEPTH = 12  # of folders: a run lies two below the folder of results

Found = tuple[int, dict[str, Any] | str | None]  # number of a line; its object, or what is wrong; None: half written


def folders(place: Path) -> tuple[list[Path], list[str]]:
    """The folders in which a run has left something, and what was not looked at; links are not followed."""
    found, notes = [], []

    def unreadable(error: OSError) -> None:
        notes.append(f"cannot read {error.filename}: {error.strerror}")

    for name, below, files in os.walk(place, onerror=unreadable):
        here = Path(name)
        linked = sorted(one for one in below if (here / one).is_symlink())
        notes += [f"{here / one} is a link, and was not followed" for one in linked]
        deep = len(here.relative_to(place).parts) >= MOST_DEPTH
        if deep and below:
            notes.append(f"{here} was not looked into: it lies more than {MOST_DEPTH} folders deep")
        below[:] = [] if deep else sorted(set(below) - set(linked))
        if not {"samples.jsonl", "summary.json"}.isdisjoint((*below, *files)):
            found.append(here)
    return sorted(found), notes


def one_object(file: Path) -> dict[str, Any] | str:
    """The object of a JSON file, or what is wrong."""
    refused = _refused(file)
    if refused:
        return refused
    try:
        if file.stat().st_size > MOST_BYTES:
            return f"is larger than {MOST_BYTES // 2**20} MiB"
        return _parsed(file.read_bytes())
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def lines(file: Path) -> Iterator[Found]:
    """Every line of a journal. A line that is too long is the last one."""
    refused = _refused(file)
    if refused:
        yield 0, refused
        return
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(MOST_BYTES + 1):
                number += 1
                if len(line) > MOST_BYTES:
                    yield number, f"is longer than {MOST_BYTES // 2**20} MiB"
                    return
                yield number, _parsed(line) if line.endswith(b"\n") else None
    except OSError as error:
        yield 0, f"cannot be read: {error.strerror}"


def _refused(file: Path) -> str | None:
    """Why a file is not opened: behind a link may lie anything, and a pipe would be waited for."""
    try:
        mode = file.lstat().st_mode
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if stat.S_ISREG(mode) else "is a link" if stat.S_ISLNK(mode) else "is no regular file"


def _parsed(content: bytes) -> dict[str, Any] | str:
    try:
        value = json.loads(content, parse_constant=_constant, parse_float=_float, parse_int=_int)
    except (ValueError, RecursionError):  # of bytes that are no UTF-8 too; of brackets a thousand deep
        return "is not JSON with finite numbers"
    return value if isinstance(value, dict) else "is no object"


def _constant(name: str) -> float:
    raise ValueError(name)


def _int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(text)
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(text)
    return value
