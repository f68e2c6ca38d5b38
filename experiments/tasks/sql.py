"""Text to SQL on small databases never seen in training, graded by what the statement returns."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.safety import sqlite
from experiments.safety.sqlite import Limits, Rows
from experiments.task import Prompt, Task, read_prompts

_DATA = Path(__file__).parent / "data"
_FUNCTIONS = frozenset(
    {"abs", "avg", "coalesce", "count", "date", "ifnull", "iif", "instr", "length", "like", "lower", "ltrim", "max"}
    | {"min", "nullif", "round", "rtrim", "strftime", "substr", "substring", "sum", "total", "trim", "upper"}
)
# Its databases are tiny and its questions plain: no function makes long values, so no instruction has much to do.
_LIMITS = Limits(statement=2000, value=10_000, pattern=100, rows=1000, steps=500_000, functions=_FUNCTIONS)


@dataclass(frozen=True)
class Sql(Task):
    """One SELECT statement for a schema and a question; the output ends before its semicolon."""

    max_new_tokens: int = 80
    name: str = field(default="sql", init=False)
    templated: bool = field(default=False, init=False)
    stop: tuple[str, ...] = field(default=(";",), init=False)

    def prompts(self) -> Sequence[Prompt]:
        """The held-out questions."""
        return _prompts()

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        """Execution accuracy: whether the statement returns the gold statement's rows."""
        path, gold = database(prompt.answer["database"]), prompt.answer["sql"]
        wanted, found = execute(path, gold), execute(path, text)
        if wanted is None:
            raise ValueError(f"the gold statement of {prompt.id} cannot be executed")
        ordered = "order by" in gold.lower()
        correct = found is not None and (found == wanted if ordered else Counter(found) == Counter(wanted))
        return {"execution_accuracy": float(correct)}


@cache
def _prompts() -> tuple[Prompt, ...]:
    return read_prompts(_DATA / "sql.jsonl")


@cache
def _databases() -> TemporaryDirectory[str]:
    """A folder, removed at exit, with all databases."""
    folder = TemporaryDirectory(prefix="mtad-sql-")
    with (_DATA / "databases.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            _create(Path(folder.name), **json.loads(line))
    return folder


def _create(folder: Path, id: str, ddl: list[str], rows: dict[str, list[list[int | str]]]) -> None:
    connection = sqlite3.connect(folder / f"{id}.sqlite")
    with connection:
        for statement in ddl:
            connection.execute(statement)
        for table, values in rows.items():
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values[0]))})", values)
    connection.close()


def database(name: str) -> Path:
    """The SQLite file of a database, made on first use."""
    return Path(_databases().name) / f"{name}.sqlite"


def execute(path: Path, statement: str) -> Rows | None:
    """The rows of a statement, with floats rounded; None if it fails or takes or yields too much."""
    try:
        rows = sqlite.execute(path, statement, _LIMITS)
    except sqlite.SqlError:
        return None
    return [tuple(map(_rounded, row)) for row in rows]


def _rounded(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value
