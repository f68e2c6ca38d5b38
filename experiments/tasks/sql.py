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

from experiments.task import Prompt, Task, read_prompts

_DATA = Path(__file__).parent / "data"
_LONGEST_STATEMENT = 2000  # characters
# SQLite looks at the progress handler between instructions only, so what one instruction can do is bounded by length.
_LONGEST_VALUE = 10_000  # bytes
_LONGEST_PATTERN = 100  # bytes, of LIKE and GLOB
_MOST_ROWS = 1000
_STEPS_PER_CHECK = 1000  # instructions of SQLite's virtual machine
_MOST_CHECKS = 500
_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
_FUNCTIONS = frozenset(
    {"abs", "avg", "coalesce", "count", "date", "ifnull", "iif", "instr", "length", "like", "lower", "ltrim", "max"}
    | {"min", "nullif", "round", "rtrim", "strftime", "substr", "substring", "sum", "total", "trim", "upper"}
)

Rows = list[tuple[object, ...]]


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
    """The rows of a statement that only reads, with floats rounded; None if it fails or takes or yields too much."""
    if len(statement) > _LONGEST_STATEMENT:
        return None
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    checks = iter(range(_MOST_CHECKS))
    connection.set_authorizer(_authorise)
    connection.set_progress_handler(lambda: next(checks, None) is None, _STEPS_PER_CHECK)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _LONGEST_PATTERN)
    try:
        rows = connection.execute(statement).fetchmany(_MOST_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError):  # ValueError: NUL or lone surrogates in the statement
        return None
    finally:
        connection.close()
    return [tuple(map(_rounded, row)) for row in rows] if len(rows) <= _MOST_ROWS else None


def _authorise(action: int, _: str | None, name: str | None, *__: object) -> int:
    """Reading, and functions that neither make long values nor take long."""
    known = action != sqlite3.SQLITE_FUNCTION or (name or "").lower() in _FUNCTIONS
    return sqlite3.SQLITE_OK if action in _ALLOWED and known else sqlite3.SQLITE_DENY


def _rounded(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value
