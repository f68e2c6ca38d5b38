"""A journal: a file of JSON lines that loses at most the line in flight when its process is killed.

A row is one write; a torn last line is cut off at the next reading. Also the small rules that all files of a run keep:
one line of JSON, what the disk refuses is a UserError, a file is replaced in one step. Knows rows as mappings with
required keys; refuses to know what was measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mtad.errors import UserError

SCHEMA_VERSION = 1

Row = dict[str, Any]


def to_json(value: object) -> str:
    """One line of JSON; a NaN is a bug of the caller, and raises ValueError."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@contextmanager
def disk(doing: str, path: Path) -> Iterator[None]:
    """What the disk refuses is a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot {doing} {path}: {error.strerror or error}") from None


def replace(file: Path, text: str) -> None:
    """Replace a file in one step. Raises UserError."""
    fresh = file.with_name(f".{file.name}.new")
    with disk("write to", file):
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)


class Journal:
    """Rows of one kind; each has a `schema_version` and all of `keys`."""

    def __init__(self, path: Path, keys: set[str]) -> None:
        self.path = path
        self.keys = keys

    def rows(self) -> list[Row]:
        """All whole rows; a torn last line is cut off the file. Raises UserError."""
        return [self._row(number, line) for number, line in enumerate(self.mend().split(b"\n")[:-1], start=1)]

    def mend(self) -> bytes:
        """Cut off a torn last line, which the next row would go on with; what is left. Raises UserError."""
        with disk("read", self.path):
            content = self.path.read_bytes() if self.path.exists() else b""
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.truncate(self.path, len(whole))
        return whole

    def _row(self, number: int, line: bytes) -> Row:
        """A line of the journal. Raises UserError."""
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        where, anew = f"{self.path}: line {number}", "start over with fresh=true"
        if not isinstance(row, dict) or "schema_version" not in row:
            raise UserError(f"{where} is not a row; delete it, or {anew}")
        if row["schema_version"] != SCHEMA_VERSION:
            raise UserError(f"{where} has schema_version {row['schema_version']!r}, not {SCHEMA_VERSION}; {anew}")
        if not row.keys() >= self.keys:
            raise UserError(f"{where} lacks {min(self.keys - row.keys())}; delete it, or {anew}")
        return row

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row: one write, on the disk when this returns."""
        line = to_json(row).encode() + b"\n"
        with disk("write to", self.path), self.path.open("ab", buffering=0) as journal:
            if journal.write(line) != len(line):
                raise UserError(f"{self.path}: the disk took only a part of a row; the same command resumes")
            os.fsync(journal.fileno())

    def rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the journal in one step."""
        replace(self.path, "".join(to_json(row) + "\n" for row in rows))
