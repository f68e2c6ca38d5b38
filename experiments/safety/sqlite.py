"""SQL that a model wrote, run on a SQLite file: it only reads, within bounded time, memory and result.

Knows SQLite; refuses to know tasks. What is promised, and how, is in docs/safety.md. Reads schemas too.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mtad.errors import UserError, first_line

Rows = list[tuple[object, ...]]

_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})
# Built-in functions without effects. Not among them: random ones, whose results could not be graded twice alike.
FUNCTIONS = frozenset(
    {"avg", "count", "group_concat", "max", "min", "string_agg", "sum", "total"}
    | {"cume_dist", "dense_rank", "first_value", "lag", "last_value", "lead", "nth_value", "ntile", "percent_rank"}
    | {"rank", "row_number"}
    | {"char", "concat", "concat_ws", "format", "glob", "hex", "instr", "length", "like", "lower", "ltrim", "printf"}
    | {"quote", "replace", "rtrim", "substr", "substring", "trim", "typeof", "unicode", "upper"}
    | {"abs", "ceil", "ceiling", "exp", "floor", "ln", "log", "log10", "log2", "mod", "pow", "power", "round", "sign"}
    | {"sqrt", "trunc", "coalesce", "ifnull", "iif", "nullif"}
    | {"current_date", "current_time", "current_timestamp", "date", "datetime", "julianday", "strftime", "time"}
    | {"unixepoch"}
)
# SQLite's own heap for the whole process, temporary tables among it: SQLite knows no limit of one connection, and one
# that was set stays. Nothing else here uses SQLite.
_HEAP = 128 << 20  # bytes
_STEPS_PER_CHECK = 100  # instructions of SQLite's virtual machine
# SQLite asks whether to go on at jumps only, so what stands between two jumps is bounded by the length of the program.
_MOST_INSTRUCTIONS = 5000
_MOST_COLUMNS = 500
# With two arguments SQLite's own take the product of both lengths: seconds for one call.
_TRIMS = {"trim": str.strip, "ltrim": str.lstrip, "rtrim": str.rstrip}
_MOST_MARKS = 100  # characters that a call of these may take away
_CELL = 64  # bytes that a cell takes besides its text


class SqlError(Exception):
    """A statement that gives no rows; the message is SQLite's, or names the limit."""


class SqlTimeoutError(SqlError):
    """A statement that was stopped."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a statement may cost. SQLite can be stopped at some instructions only, so all must be short as well.

    Attributes:
        statement: its length in characters.
        value: bytes of one value and of one row, which bounds what one function call can do: `instr` and `replace` take
            the product of two lengths.
        pattern: bytes of a pattern of LIKE or GLOB, the slowest of all.
        rows, result: of the result, and its bytes.
        steps: instructions of SQLite's virtual machine. This bound is the one that is meant to bind: it counts alike on
            every machine, however busy.
        seconds: what stops the few statements whose single instructions are slow.
        functions: those that may be called, in lower case.
    """

    statement: int = 10_000
    value: int = 10_000
    pattern: int = 100
    rows: int = 100_000
    result: int = 64 << 20
    steps: int = 50_000_000
    seconds: float = 20.0
    functions: frozenset[str] = FUNCTIONS


class _Watch:
    """Stops one statement: its callbacks are what SQLite asks before and while it works."""

    def __init__(self, limits: Limits) -> None:
        self.over = False
        self._limits = limits
        self._checks = limits.steps // _STEPS_PER_CHECK
        self._end = time.monotonic() + limits.seconds

    def late(self) -> bool:
        self.over = self.over or time.monotonic() > self._end
        return self.over

    def progress(self) -> bool:
        """True stops the statement."""
        self._checks -= 1
        self.over = self.over or self._checks < 0
        return self.late()

    def authorise(self, action: int, _: str | None, name: str | None, *__: object) -> int:
        """Asked for all that a statement refers to, while it is compiled."""
        known = action != sqlite3.SQLITE_FUNCTION or (name or "").lower() in self._limits.functions
        allowed = action in _ALLOWED and known and not self.late()
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def execute(path: Path, statement: str, limits: Limits) -> Rows:
    """The rows of one statement that only reads.

    Raises:
        SqlError: it does anything else, is wrong, or takes or yields too much.
    """
    if len(statement) > limits.statement:
        raise SqlError(f"the statement is longer than {limits.statement} characters")
    watch = _Watch(limits)
    connection = _open(path)
    try:
        connection.execute(f"PRAGMA hard_heap_limit = {_HEAP}")
        connection.execute("PRAGMA temp_store = MEMORY")  # sorting and grouping write no files, and count as heap
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.value)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, limits.pattern)
        connection.setlimit(sqlite3.SQLITE_LIMIT_COLUMN, _MOST_COLUMNS)
        connection.setlimit(sqlite3.SQLITE_LIMIT_VDBE_OP, _MOST_INSTRUCTIONS)
        connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        for name, strip in _TRIMS.items():
            connection.create_function(name, 2, partial(_trim, strip), deterministic=True)
        connection.set_authorizer(watch.authorise)
        connection.set_progress_handler(watch.progress, _STEPS_PER_CHECK)
        cursor = connection.execute(statement)
        if cursor.description is None:  # a comment, for one
            raise SqlError("the statement selects nothing")
        return _fetched(cursor, limits)
    # ValueError: NUL or lone surrogates in the statement; MemoryError: the limit of SQLite's heap, or of instructions
    except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
        raise (SqlTimeoutError if watch.over else SqlError)(first_line(error)) from None
    finally:
        connection.close()


def _open(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, neither to the file nor beside it."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.text_factory = lambda text: text.decode(errors="replace")
    return connection


def _trim(strip: Callable[[str, str], str], value: object, marks: object) -> str | None:
    """SQLite's `trim(value, marks)` in time that hardly depends on `marks`."""
    if value is None or marks is None:
        return None
    taken = _as_text(marks)
    if len(taken) > _MOST_MARKS:
        raise ValueError(f"more than {_MOST_MARKS} characters to trim")
    return strip(_as_text(value), taken)


def _as_text(value: object) -> str:
    """As SQLite writes it, but for exponents."""
    if isinstance(value, float):
        value = float(f"{value:.15g}")
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _fetched(cursor: Iterable[tuple[object, ...]], limits: Limits) -> Rows:
    rows: Rows = []
    size = 0
    for row in cursor:
        rows.append(row)
        size += sum(_CELL + (len(cell) if isinstance(cell, str | bytes) else 0) for cell in row)
        if len(rows) > limits.rows or size > limits.result:
            raise SqlError(f"the result has more than {limits.rows} rows or {limits.result} bytes")
    return rows


@dataclass(frozen=True)
class Schema:
    """What a database is made of, in the order in which it was created.

    Attributes:
        tables: columns by table.
        keys: foreign keys: table, column, the table and column that they refer to.
    """

    tables: dict[str, list[str]]
    keys: list[tuple[str, str, str, str]]


_TABLES = "SELECT name, rowid FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
_COLUMNS = f"SELECT t.name, c.name FROM ({_TABLES}) t, pragma_table_info(t.name) c ORDER BY t.rowid, c.cid"
# A key that names no column refers to the primary key.
_KEYS = f"""
SELECT t.name, k."from", k."table",
    coalesce(k."to", (SELECT c.name FROM pragma_table_info(k."table") c WHERE c.pk = k.seq + 1), 'rowid')
FROM ({_TABLES}) t, pragma_foreign_key_list(t.name) k ORDER BY t.rowid, k.id DESC, k.seq
"""


def read_schema(path: Path) -> Schema:
    """The schema of a database file that statements can be run on. Raises UserError if it is none."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such database file")
    for suffix in ("-wal", "-journal"):
        rest = path.with_name(path.name + suffix)
        if rest.is_file() and rest.stat().st_size:
            raise UserError(f"{rest}: changes that are not in the database yet; open it with sqlite3 once and close it")
    connection = _open(path)
    try:
        tables: dict[str, list[str]] = {}
        for table, column in connection.execute(_COLUMNS):
            tables.setdefault(table, []).append(column)
        keys = connection.execute(_KEYS).fetchall()
    except sqlite3.Error as error:
        raise UserError(f"{path}: no SQLite database: {first_line(error)}") from None
    finally:
        connection.close()
    if not tables:
        raise UserError(f"{path}: the database has no tables")
    return Schema(tables, keys)
