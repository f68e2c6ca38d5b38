"""The files of a run: a folder, a lock, a journal of rows, and JSON beside it.

The journal loses at most the row in flight when its process is killed: a row is one write, and a torn last line is cut
off at the next start. Rows of a prompt count only if one process measured all of them, because times pair only within a
process; what it supersedes stays until the replacement is whole, and goes when the journal is compacted.

Knows rows as mappings with a few keys; refuses to know what was measured.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mtad.errors import UserError

SCHEMA_VERSION = 1
KEYS = {"variant", "prompt_id", "repeat", "process_id", "code"}  # what a row must have to be counted

Row = dict[str, Any]
Cell = tuple[str, int]  # (variant, repeat)


def to_json(value: object) -> str:
    """One line of JSON; a NaN is a bug of the caller, and raises ValueError."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def stable_hash(value: object) -> str:
    """A short hash of JSON data, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def settled(rows: Iterable[Row], cells: Iterable[Cell]) -> list[Row]:
    """The rows that count: of each prompt those of the last process that measured all `cells` of it, in order."""
    wanted = set(cells)
    found: dict[str, dict[str, dict[Cell, Row]]] = {}
    for row in rows:
        process = found.setdefault(row["prompt_id"], {}).setdefault(row["process_id"], {})
        process[row["variant"], row["repeat"]] = row
    kept: list[Row] = []
    for processes in found.values():
        whole = [process for process in processes.values() if process.keys() >= wanted]
        if whole:
            kept += [row for cell, row in whole[-1].items() if cell in wanted]
    return kept


@contextmanager
def _disk(doing: str, path: Path) -> Iterator[None]:
    """What the disk refuses is a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot {doing} {path}: {error.strerror or error}") from None


class RunFolder:
    """`<results_dir>/<name>/<run_id>/`, opened by at most one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = path / "samples.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. The lock dies with this process and is not inherited by children. Raises UserError."""
        with _disk("write to", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            stream = (self.path / ".lock").open("w")
        with stream:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"another process is measuring into {self.path}; wait for it or end it") from None
            yield

    def rows(self) -> list[Row]:
        """All whole rows of the journal; a torn last line is cut off the file. Raises UserError."""
        with _disk("read", self.samples):
            if not self.samples.exists():
                return []
            content = self.samples.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):
                os.truncate(self.samples, len(whole))
        return [self._row(number, line) for number, line in enumerate(whole.split(b"\n")[:-1], start=1)]

    def _row(self, number: int, line: bytes) -> Row:
        """A line of the journal. Raises UserError."""
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        where, anew = f"{self.samples}: line {number}", "start over with fresh=true"
        if not isinstance(row, dict) or "schema_version" not in row:
            raise UserError(f"{where} is not a row; delete it, or {anew}")
        if row["schema_version"] != SCHEMA_VERSION:
            raise UserError(f"{where} has schema_version {row['schema_version']!r}, not {SCHEMA_VERSION}; {anew}")
        if not row.keys() >= KEYS:
            raise UserError(f"{where} lacks {min(KEYS - row.keys())}; delete it, or {anew}")
        return row

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row: one write, on the disk when this returns."""
        line = to_json(row).encode() + b"\n"
        with _disk("write to", self.samples), self.samples.open("ab", buffering=0) as journal:
            if journal.write(line) != len(line):
                raise UserError(f"{self.samples}: the disk took only a part of a row; the same command resumes")
            os.fsync(journal.fileno())

    def rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the journal in one step."""
        self._replace(self.samples, "".join(to_json(row) + "\n" for row in rows))

    def clear(self) -> None:
        """Forget the rows and what was made of them."""
        self.rewrite([])
        with _disk("delete", self.path / "summary.json"):
            (self.path / "summary.json").unlink(missing_ok=True)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a JSON file in one step."""
        self._replace(self.path / name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file's object; empty if there is no such file. Raises UserError."""
        file = self.path / name
        try:
            with _disk("read", file):
                value = json.loads(file.read_bytes()) if file.exists() else {}
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise UserError(f"{file} is damaged; delete it, or start over with fresh=true")
        return value

    def write_yaml(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a YAML file in one step."""
        self._replace(self.path / name, OmegaConf.to_yaml(OmegaConf.create(dict(value))))

    def _replace(self, file: Path, text: str) -> None:
        fresh = file.with_name(f".{file.name}.new")
        with _disk("write to", file):
            with fresh.open("w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(file)
