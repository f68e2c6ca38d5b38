"""Tasks whose prompts are rows of a data set: on the hub, or in local files, read by the same code (`datasets`).

Knows files and rows; refuses to know what a row means.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from experiments.dataset.reading import Table, read
from experiments.task import Prompt, Task
from mtad.errors import UserError


class Row:
    """A row of a data set.

    Attributes:
        number: from 1; the blank lines of a JSON file do not count.
        where: the file, or the data set on the hub, for messages.
    """

    def __init__(self, values: Mapping[str, Any], number: int, where: str) -> None:
        self.values = values
        self.number = number
        self.where = where

    def text(self, key: str) -> str:
        """A string. Raises UserError."""
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.wrong(key, "no text", value)
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings, at least one. Raises UserError."""
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "no list of texts", value)
        return value

    def id(self, task: str) -> str:
        """The row's own `id`, else its number in the task."""
        own = self.values.get("id")
        return f"{task}/{self.number}" if own is None else str(own)

    def get(self, key: str) -> Any:
        """Whatever stands there, or None."""
        return self.values.get(key)

    def wrong(self, key: str, what: str, value: object) -> UserError:
        """The error for a field that is absent or of another kind."""
        if value is None:
            there = ", ".join(name for name, value in self.values.items() if value is not None)
            return UserError(f"{self.where}: row {self.number} has no field {key!r}; it has: {there or 'none'}")
        return UserError(f"{self.where}: row {self.number}: {key!r} is {what}: {str(value)[:60]!r}")


@dataclass(frozen=True, kw_only=True)
class RowTask(Task):
    """A task made of the rows of a data set.

    Attributes:
        id, subset, revision: data set on the hub, its configuration, and branch, tag or commit.
        path: a local file (jsonl, json, txt, parquet, also .gz) or a folder with one for the split; wins over `id`.
            A JSON field whose every value looks like a date is read as dates, thus is no text, and numbers beyond 64
            bits lose digits.
        split: of the data set; in a folder, the file of that name.
        max_new_tokens: the longest output.
        max_prompt_tokens: longer prompts lose the end of their document; None: nothing is cut.
        licence, citation: of the data.
    """

    hint: ClassVar[str] = ""  # where the data is, for a task without `id`

    id: str | None = None
    subset: str | None = None
    revision: str | None = None
    path: str | None = None
    split: str = "test"
    max_new_tokens: int = 128
    max_prompt_tokens: int | None = 512
    licence: str = ""
    citation: str = ""

    @abstractmethod
    def prompt(self, row: Row) -> Prompt:
        """What a row asks. Raises UserError."""

    def made_of(self, rows: Iterable[Row]) -> Iterable[Prompt]:
        """The prompts of all rows, in their order; one each unless overridden."""
        return (replace(self.prompt(row), place=f"row {row.number} of {row.where}") for row in rows)

    def order(self, prompts: list[Prompt]) -> list[Prompt]:
        """Shuffled, always alike."""
        random.Random(0).shuffle(prompts)
        return prompts

    def prompts(self) -> Sequence[Prompt]:
        found = list(self.made_of(self.rows()))
        if not found:
            raise UserError(f"{self._table().where}: none of its {len(self._table().rows)} rows makes a prompt")
        return self.order(found)

    def rows(self) -> Iterator[Row]:
        """All rows. Raises UserError."""
        table = self._table()
        return (Row(values, number, table.where) for number, values in enumerate(table.rows, 1))

    def origin(self) -> Mapping[str, Any]:
        return {**self._table().origin, "licence": self.licence, "citation": self.citation}

    def _table(self) -> Table:
        return read(self.id, self.subset, self.revision, self.path, self.split, self.hint)
