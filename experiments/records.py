"""The files of a run: a folder, a lock, journals of rows, and JSON beside them.

Rows of a prompt count only if one process measured all of them, because times pair only within a process; what such a
set supersedes stays until the replacement is whole, and goes when the journal is compacted.

Knows rows as mappings with a few keys; refuses to know what was measured.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

from omegaconf import OmegaConf

from experiments.journal import Journal, Row, disk, replace
from mtad.errors import UserError

TEXT = ("variant", "prompt_id", "turn", "repeat", "process_id")  # what tells one text of a run from another
SAMPLE_KEYS = {*TEXT, "code", "reads", "gaps", "isolation"}
JUDGE_KEYS = {*TEXT, "judge"}
GRADE_KEYS = {*TEXT, "grader", "grades"}
APPROXIMATION_KEYS = {*TEXT, "settings", "rounds"}
ENERGY_KEYS = {"kind", "process_id", "code"}
TRACE_KEYS = {*TEXT, "code", "pair", "task", "warp", "prompt_tokens", "steps"}
BATCH_KEYS = {"window", "variant", "batch_size", "items", "process_id", "code"}

Cell = tuple[str, int, int]  # (variant, repeat, turn)


def stable_hash(value: object) -> str:
    """A short hash of JSON data, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def text_key(record: Row) -> tuple[str, ...]:
    """What a text is told apart by."""
    return tuple(str(record[key]) for key in TEXT)


def settled(rows: Iterable[Row], cells: Mapping[str, Sequence[Cell]]) -> list[Row]:
    """The rows that count: of each prompt those of the last process that measured all `cells` of it, in order."""
    found: dict[str, dict[str, dict[Cell, Row]]] = {}
    for row in rows:
        process = found.setdefault(row["prompt_id"], {}).setdefault(row["process_id"], {})
        process[row["variant"], row["repeat"], row["turn"]] = row
    kept: list[Row] = []
    for prompt, processes in found.items():
        wanted = set(cells.get(prompt, ()))
        whole = [process for process in processes.values() if wanted and process.keys() >= wanted]
        if whole:
            kept += [row for cell, row in whole[-1].items() if cell in wanted]
    return kept


class RunFolder:
    """`<results_dir>/<name>/<run_id>/`, opened by at most one process at a time.

    Attributes:
        samples: a row for each text.
        judge: a row for each text that a judge model scored.
        grades: a row for each text that the task has graded.
        teacher: a row for each text of the task whose probability under the target was asked for.
        approximation: a row for each text whose blocks were set beside the best ones.
        prompts: a row for each prompt.
        exports: files for other tools.
        energy: a row for each block of texts under a meter, and for each idle spell.
        batches: a row for each window of texts that a variant has written at a batch size.
        trace: a row for each text: what was read and committed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = Journal(path / "samples.jsonl", SAMPLE_KEYS)
        self.judge = Journal(path / "judge.jsonl", JUDGE_KEYS)
        self.grades = Journal(path / "grades.jsonl", GRADE_KEYS)
        self.teacher = Journal(path / "teacher.jsonl", {"id", "process_id"})
        self.approximation = Journal(path / "approximation.jsonl", APPROXIMATION_KEYS)
        self.prompts = Journal(path / "prompts.jsonl", {"prompt_id"})
        self.energy = Journal(path / "energy.jsonl", ENERGY_KEYS)
        self.batches = Journal(path / "batches.jsonl", BATCH_KEYS)
        self.trace = Journal(path / "trace.jsonl", TRACE_KEYS)
        self.exports = path / "exports"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. The lock dies with this process and is not inherited by children. Raises UserError."""
        with disk("write to", self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            stream = (self.path / ".lock").open("w")
        with stream:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"another process is measuring into {self.path}; wait for it or end it") from None
            yield

    def clear(self) -> None:
        """Forget the rows and what was made of them."""
        self.samples.rewrite([])
        judged = (self.judge, self.grades, self.teacher, self.approximation)
        journals = [journal.path for journal in (*judged, self.prompts, self.energy, self.batches, self.trace)]
        with disk("delete", self.exports):
            if self.exports.exists():
                rmtree(self.exports)
        for file in (*journals, *(self.path / f"{name}.json" for name in ("summary", "cost"))):
            with disk("delete", file):
                file.unlink(missing_ok=True)

    def keep(self, rows: Sequence[Row]) -> None:
        """Drop all other texts, with their traces."""
        self.samples.rewrite(rows)
        names = {text_key(row) for row in rows}
        if traced := self.trace.rows():
            self.trace.rewrite([row for row in traced if text_key(row) in names])

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a JSON file in one step."""
        replace(self.path / name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file's object; empty if there is no such file. Raises UserError."""
        file = self.path / name
        try:
            with disk("read", file):
                value = json.loads(file.read_bytes()) if file.exists() else {}
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise UserError(f"{file} is damaged; delete it, or start over with fresh=true")
        return value

    def write_yaml(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a YAML file in one step."""
        replace(self.path / name, OmegaConf.to_yaml(OmegaConf.create(dict(value))))
