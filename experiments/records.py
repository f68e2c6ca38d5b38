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


class RunFolder:
    """`<results_dir>/<name>/<run_id>/`, opened by at most one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = path / "samples.jsonl"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. The lock dies with this process and is not inherited by children. Raises UserError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stream = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {error.strerror}") from None
        with stream:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"another process is measuring into {self.path}; wait for it or end it") from None
            yield

    def rows(self) -> list[Row]:
        """All whole rows of the journal; a torn last line is cut off the file. Raises UserError."""
        if not self.samples.exists():
            return []
        content = self.samples.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.samples, len(whole))
        rows = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise UserError(
                    f"{self.samples}: line {number} is not a row; delete it, or start over with fresh=true"
                ) from None
        return rows

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row: one write, on the disk when this returns."""
        line = to_json(row).encode() + b"\n"
        try:
            with self.samples.open("ab", buffering=0) as journal:
                if journal.write(line) != len(line):
                    raise UserError(f"{self.samples}: the disk took only a part of a row; the same command resumes")
                os.fsync(journal.fileno())
        except OSError as error:
            raise UserError(f"cannot write to {self.samples}: {error.strerror}") from None

    def rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace the journal in one step."""
        self._replace(self.samples, "".join(to_json(row) + "\n" for row in rows))

    def clear(self) -> None:
        """Forget the rows and what was made of them."""
        self.rewrite([])
        (self.path / "summary.json").unlink(missing_ok=True)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a JSON file in one step."""
        self._replace(self.path / name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """A JSON file's content, or None if there is none."""
        file = self.path / name
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    def write_yaml(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a YAML file in one step."""
        self._replace(self.path / name, OmegaConf.to_yaml(OmegaConf.create(dict(value))))

    def _replace(self, file: Path, text: str) -> None:
        fresh = file.with_name(f".{file.name}.new")
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)
