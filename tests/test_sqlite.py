"""What SQL written by a model can do on a database file: read it, and nothing else, for a bounded time."""

from __future__ import annotations

import random
import resource
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from experiments.safety.sqlite import FUNCTIONS, Limits, SqlError, SqlTimeoutError, execute, read_schema
from mtad.errors import UserError

LIMITS = Limits(steps=3_000_000)
WIDE = "printf('%9000d', i)"  # a long value
COUNTING = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A database whose path means something else in a URI; nothing in its folder may change."""
    path = tmp_path / "50% of #1?&mode=rwc" / "a b.sqlite"
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE cake (cake_id INTEGER PRIMARY KEY, name TEXT, price REAL);"
        "CREATE TABLE orders (cake_id INTEGER REFERENCES cake, day TEXT);"
        "INSERT INTO cake VALUES (1, 'sponge', 2.5), (2, 'cr' || CAST(x'e8' AS TEXT) || 'me', NULL);"
    )
    connection.executemany("INSERT INTO orders VALUES (1, ?)", [(str(day),) for day in range(1000)])
    connection.commit()
    connection.close()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    yield path
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_reading_works_with_bytes_that_are_no_utf8(path: Path) -> None:
    assert execute(path, "SELECT * FROM cake ORDER BY 1", LIMITS) == [(1, "sponge", 2.5), (2, "cr\ufffdme", None)]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE cake",
        "DELETE FROM cake",
        "UPDATE cake SET price = 0",
        "INSERT INTO cake VALUES (3, 'x', 1)",
        "REPLACE INTO cake VALUES (1, 'x', 1)",
        "CREATE TABLE other (a)",
        "CREATE TEMP TABLE other (a)",
        "CREATE TEMP VIEW other AS SELECT 1",
        "CREATE VIRTUAL TABLE temp.other USING fts5(a)",
        "ALTER TABLE cake ADD COLUMN a",
        "ATTACH DATABASE '{folder}/other.sqlite' AS other",
        "ATTACH DATABASE ':memory:' AS other",
        "DETACH DATABASE main",
        "VACUUM",
        "VACUUM INTO '{folder}/copy.sqlite'",
        "PRAGMA journal_mode = WAL",
        "PRAGMA user_version = 7",
        "PRAGMA writable_schema = ON",
        "PRAGMA hard_heap_limit = 0",
        "PRAGMA temp_store_directory = '{folder}'",
        "SELECT * FROM pragma_user_version(7)",
        "SELECT * FROM pragma_table_info('cake')",
        "BEGIN EXCLUSIVE",
        "REINDEX",
        "ANALYZE",
        "SELECT load_extension('{folder}/extension')",
        "SELECT writefile('{folder}/file', 'x')",
        "SELECT readfile('{folder}/a b.sqlite')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT randomblob(10)",
        "SELECT name FROM cake ORDER BY random()",
        "SELECT zeroblob(1000000000)",
        "SELECT replace(hex(printf('%4000d', 1)), '2', 'aaaa')",
        "SELECT 1; DROP TABLE cake",
        "SELECT 'a' LIKE '" + "%a" * 51 + "'",
        "SELECT " + "(" * 4000 + "1" + ")" * 4000,
        "SELECT " + "(SELECT " * 900 + "1" + ")" * 900,
        "SELECT " + "1+" * 4000 + "1",
        "SELECT 1" + ", 1" * 600,
        "SELECT 1 " + "UNION SELECT 1 " * 600,
        "SELECT * FROM " + ", ".join(f"cake c{i}" for i in range(70)),
        "SELECT '" + "a" * 1_000_000 + "'",
        "SELECT 1 FROM nothing",
        "SELEC 1",
        "-- a comment",
        "",
        " ",
        "\0",
        "SELECT 1\0; DROP TABLE cake",
        "SELECT '\ud800'",
        "\x1b]0;" * 2000,
    ],
    ids=lambda statement: repr(statement[:50]),
)
def test_statements_that_do_not_just_read_fail(path: Path, statement: str) -> None:
    with pytest.raises(SqlError) as raised:
        execute(path, statement.format(folder=path.parent), LIMITS)
    assert not isinstance(raised.value, SqlTimeoutError)


@pytest.mark.parametrize(
    "statement",
    [
        f"{COUNTING} SELECT count(*) FROM n",
        f"{COUNTING} SELECT group_concat('') FROM n",
        f"{COUNTING} SELECT max(i) OVER () FROM n",
        "SELECT count(*) FROM orders a, orders b, orders c, orders d",
        "SELECT 1 FROM " + ", ".join(f"orders o{i}" for i in range(60)) + " WHERE o0.day = 'x' OR o59.day = 'x'",
    ],
)
def test_statements_without_end_are_stopped_after_a_number_of_steps_not_by_the_clock(
    path: Path, statement: str
) -> None:
    with pytest.raises(SqlTimeoutError):
        execute(path, statement, Limits(steps=LIMITS.steps, seconds=float("inf")))


@pytest.mark.parametrize(
    "call",
    [
        f"replace({WIDE}, ' ', 'a') LIKE '%{'a' * 90}b%'",
        f"replace({WIDE}, ' ', 'a') GLOB '*{'[a-z]' * 18}1*'",
    ],
)
def test_slow_instructions_are_stopped_by_the_clock(path: Path, call: str) -> None:
    began = time.monotonic()
    with pytest.raises(SqlTimeoutError):
        execute(path, f"{COUNTING} SELECT count({call}) FROM n WHERE {call}", Limits(seconds=0.2, steps=10**9))
    assert time.monotonic() - began < 5


def letters(number: int, letter: str = "a") -> str:
    """An expression for a text of that many equal letters."""
    return f"replace(printf('%{number}s', ''), ' ', '{letter}')"


@pytest.mark.parametrize(
    ("call", "marks"),
    [
        ("trim(x, y)", f"{letters(8000, 'b')} || 'a'"),  # as SQLite has it: minutes
        ("trim(x, y)", f"{letters(98, 'b')} || 'a'"),
        ("instr(x, y)", f"{letters(4900)} || 'b'"),
        ("replace(x, y, '')", f"{letters(4900)} || 'b'"),
        ("x LIKE y", f"'%' || {letters(90)} || 'b%'"),
        ("x GLOB y", f"'*{'[a-z]' * 19}1*'"),
    ],
)
@pytest.mark.parametrize("calls", [480, 700])
def test_a_statement_that_never_jumps_ends_soon_after_the_clock(path: Path, call: str, marks: str, calls: int) -> None:
    """SQLite does not ask between its calls whether to go on."""
    began = time.monotonic()
    joined = ", ".join([call] * calls) if calls < 500 else " || ".join([call] * calls)
    with suppress(SqlError):
        execute(path, f"SELECT {joined} FROM (SELECT {letters(9900)} x, {marks} y LIMIT 1)", Limits(seconds=0.2))
    assert time.monotonic() - began < 8  # about 1 where nothing else runs


def test_expressions_that_grow_by_being_named_again_are_refused(path: Path) -> None:
    names = ", ".join(f"a{i + 1} AS (SELECT v + v + v AS v FROM a{i})" for i in range(12))
    with pytest.raises(SqlError):
        execute(path, f"WITH a0 AS (SELECT instr(name, 'x') AS v FROM cake), {names} SELECT v FROM a12", LIMITS)


@pytest.mark.parametrize("name", ["trim", "ltrim", "rtrim"])
def test_trimming_is_as_sqlite_does_it(path: Path, name: str) -> None:
    values = ["'xyaxby'", "'éaé'", "''", "NULL", "x'7861'", "2.50", "1.0", "0.1 + 0.2", "-170", "'  x '"]
    marks = ["'xy'", "'é'", "''", "NULL", "0", "' '", "x'78'"]
    own = sqlite3.connect(":memory:")
    for call in [f"{name}({value}, {mark})" for value in values for mark in marks] + [f"{name}('  x ')"]:
        assert execute(path, f"SELECT {call}", LIMITS) == own.execute(f"SELECT {call}").fetchall(), call
    own.close()


@pytest.mark.parametrize(
    "statement",
    [
        f"{COUNTING} SELECT i FROM n",
        f"{COUNTING} SELECT {WIDE} FROM n",
        f"{COUNTING} SELECT {', '.join([WIDE] * 400)} FROM n",
        f"{COUNTING} SELECT {WIDE} s FROM n ORDER BY s",
        f"{COUNTING} SELECT DISTINCT {WIDE} FROM n",
        f"{COUNTING} SELECT count(*) FROM n GROUP BY {WIDE}",
        f"{COUNTING} SELECT group_concat(i) FROM n",
        "WITH a0 AS (SELECT 1 x), "
        + ", ".join(f"a{i + 1} AS (SELECT p.x FROM a{i} p, a{i} q)" for i in range(40))
        + " SELECT * FROM a40",
    ],
    ids=lambda statement: repr(statement[-50:]),
)
def test_bombs_neither_fill_the_memory_nor_yield_a_huge_result(path: Path, statement: str) -> None:
    kilobyte = 1024 if sys.platform == "darwin" else 1  # in units of ru_maxrss
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SqlError):
        execute(path, statement, LIMITS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000 * kilobyte


def test_a_value_longer_than_its_limit_is_never_made(path: Path) -> None:
    assert execute(path, "SELECT printf('%1000000000d', 1)", LIMITS) == [(None,)]
    with pytest.raises(SqlError, match="too big"):
        execute(path, "SELECT group_concat(printf('%1000d', cake_id)) FROM orders", LIMITS)


def test_limits_let_pass_what_just_meets_them(path: Path) -> None:
    counted = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT i FROM n"
    limits = Limits(rows=500, statement=200)
    assert len(execute(path, counted.format(500), limits)) == 500
    assert execute(path, "SELECT 1".ljust(200), limits) == [(1,)]
    for beyond in (counted.format(501), "SELECT 1".ljust(201)):
        with pytest.raises(SqlError):
            execute(path, beyond, limits)


def test_only_listed_functions_may_be_called(path: Path) -> None:
    assert "abs" in FUNCTIONS
    assert execute(path, "SELECT ABS(-1)", LIMITS) == [(1,)]
    with pytest.raises(SqlError, match="not authorized"):
        execute(path, "SELECT abs(-1)", Limits(functions=FUNCTIONS - {"abs"}))


def test_nonsense_raises_nothing_but_sql_errors(path: Path) -> None:
    luck = random.Random(1)
    words = [
        "SELECT",
        "FROM",
        "cake",
        "(",
        ")",
        ",",
        "*",
        "'",
        '"',
        "[",
        "--",
        "/*",
        "\0",
        "\ud800",
        "é",
        "JOIN",
        "1e999",
    ]
    for _ in range(500):
        try:
            execute(path, " ".join(luck.choices(words, k=luck.randrange(30))), LIMITS)
        except SqlError:
            continue


def test_a_schema_has_tables_columns_and_foreign_keys_in_their_order(path: Path) -> None:
    schema = read_schema(path)
    assert schema.tables == {"cake": ["cake_id", "name", "price"], "orders": ["cake_id", "day"]}
    assert schema.keys == [("orders", "cake_id", "cake", "cake_id")]  # the key itself names no column


@pytest.mark.parametrize(("content", "message"), [(b"not SQLite " * 100, "no SQLite database"), (b"", "no tables")])
def test_a_file_that_is_no_database_is_said_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.sqlite"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_schema(file)
    with pytest.raises(UserError, match="no such database file"):
        read_schema(tmp_path / "y.sqlite")


def test_a_database_with_changes_beside_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE late (a)")  # stands in x.sqlite-wal only
    with pytest.raises(UserError, match="changes that are not in the database yet"):
        read_schema(file)
    connection.close()
    assert read_schema(file).tables == {"late": ["a"]}
