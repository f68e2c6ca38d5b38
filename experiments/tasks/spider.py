"""Spider: a question over a database never seen before, answered in SQL, graded by what the statement returns.

Yu et al., "Spider: A Large-Scale Human-Labeled Dataset for Complex and Cross-Domain Semantic Parsing and Text-to-SQL
Task", EMNLP 2018, arXiv 1809.08887. The prompt has the form of the MTAD paper (arXiv 2407.09722): an instruction, one
worked example, the schema, the question, `SQL:`. The schema is read from the database, with its foreign keys. The
instruction and the example are in our own words, without the marks of one model's template.

Grades of a statement, run as it was written but for what the official scorer changes in both statements: it closes
`> =`, `< =` and `! =`, and puts 2020 for YEAR(CURDATE()):

    execution_accuracy  the rows are the gold statement's, by the rule of the official scorer (test-suite-sql-eval,
                        Zhong et al., EMNLP 2020, arXiv 2010.02840, with --keep_distinct): some order of the columns
                        makes them equal as multisets of rows, or as sequences where the gold statement has "order by".
                        NULL equals NULL, 1 equals 1.0, floats are not rounded. On Spider's one database for each
                        question, not on the distilled suite of several. Looking for an order of the columns ends after
                        20 million cells: then there is none.
    distinct_ignored    the same with every DISTINCT taken out of both statements: the official scorer's default
    authors_match       the paper's own, laxer rule: equal as sets of rows, each a sorted list of its cells
    executes            it returned its rows within the limits
    timed_out           it was stopped
    empty               the gold statement returns no rows: then any statement that returns none is right

Groups: SQL components (ours, not Spider's hardness), the number of these in the gold statement: joins, conditions of
WHERE, GROUP BY, HAVING, ORDER BY, LIMIT, DISTINCT, aggregates, set operations, and nested selects apart from the
operands of those. Counted with sqlglot; a statement that it cannot read has no group.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from experiments.dataset.row_task import Row, RowTask
from experiments.optional import need
from experiments.safety.sqlite import Limits, Rows, SqlError, SqlTimeoutError, execute, read_schema
from experiments.task import Prompt, Turn
from mtad.errors import UserError

_INSTRUCTION = """\
You are a SQL expert. Write the one SQL statement that answers the question on the database with the given schema. \
Here is an example.

Schema:
Table cafe, columns = [*,cafe_id,name,street,seats]
Table visit, columns = [*,visit_id,cafe_id,day,guests]
Foreign_keys = [visit.cafe_id = cafe.cafe_id]
Question: How many guests came to the cafe named Aurora?
SQL: SELECT sum(T2.guests) FROM cafe AS T1 JOIN visit AS T2 ON T1.cafe_id = T2.cafe_id WHERE T1.name = 'Aurora';

Schema:
"""
_LIMITS = Limits()
_GROUPS = {1: "0-1", 2: "2", 3: "3"}  # by the most components that each takes; of like size in the dev set
_QUOTED_OR_DISTINCT = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`|\[[^]]*]|\bdistinct\b""", re.IGNORECASE)
_MOST_CELLS = 20_000_000  # to look at for an order of the columns: about 2 seconds

# How an output is read. All repetitions are bounded, as any text must be read in little time.
_LONGEST = 50_000
_LANGUAGES = {"", "sql", "sqlite"}
_FENCE = re.compile(r"^[ \t]{0,20}(?:`{3,9}|~{3,9})[ \t]{0,20}([\w+#.-]{0,20})[^\n`]{0,99}$", re.MULTILINE)
# "Select", to begin a line that ends in a colon, and "with", but for a table expression, are English.
_SQL = r"""select\b(?![^\n]{0,200}:[*_ \t]{0,9}$)
    | with\s{1,99}(?:recursive\s{1,99})?[\w"]{1,99}(?:\s{0,99}\([^)]{0,999}\))?
      \s{1,99}as\s{0,99}(?:(?:not\s{1,99})?materialized\s{0,99})?\("""
# At the start of a line, or after a colon or a backtick in it; the group is the backtick.
_BEGINNING = re.compile(
    r"^(?:(?:[^\n]{0,200}?:)?[ \t>*_]{0,9} | [^\n]{0,200}?(`)(?:sql(?:ite)?[ ])?)(?=" + _SQL + ")", re.I | re.M | re.X
)
_BLANK_LINE = re.compile(r"\n[ \t\r]{0,99}\n")
_MOST_SEMICOLONS = 100

_OFFICIAL = {"> =": ">=", "< =": "<=", "! =": "!="}
_CURRENT_YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Spider(RowTask):
    """One SELECT statement for a schema and a question.

    The output of a plain prompt ends before its first semicolon, even in a literal, as in the paper's code. An answer
    under a chat template, which may begin with prose, ends by itself, and `statement` finds the end of the SQL.

    Attributes:
        databases: folder with `<db_id>/<db_id>.sqlite`; None: `database` beside the file, or in the folder, of `path`.
    """

    databases: str | None = None
    name: str = field(default="spider", init=False)
    stop: tuple[str, ...] = field(default=(";",), init=False)
    heavy: bool = field(default=True, init=False)
    grouping: str = field(default="number of SQL components (ours)", init=False)

    def check(self) -> None:
        need("sqlglot", "tasks")
        self._folder()
        if sqlite3.sqlite_version_info < (3, 31):
            raise UserError(f"SQLite {sqlite3.sqlite_version} cannot bound its memory; task=spider needs 3.31 or later")

    def made_of(self, rows: Iterable[Row]) -> Iterator[Prompt]:
        self.check()
        yield from super().made_of(rows)

    def prompt(self, row: Row) -> Prompt:
        """Raises UserError also where the gold statement cannot be executed."""
        name, question, gold = row.text("db_id"), row.text("question"), row.text("query")
        place = f"{row.where}: row {row.number}"
        if name in {"", ".."} or Path(name).name != name:
            raise UserError(f"{place}: 'db_id' is no name of a folder: {name[:60]!r}")
        path = self._database(name)
        if not path.is_file():
            raise UserError(f"{place}: there is no database {name!r}: {path} does not exist")
        try:
            schema = _schema(path)
            execute(path, _official(gold), _LIMITS)
        except (UserError, SqlError) as error:
            raise UserError(f"{place}: {error}") from None
        turn = Turn(_INSTRUCTION, document=schema, after=f"\nQuestion: {question.strip()}\nSQL:")
        answer = {"db_id": name, "database": _digest(path).hex()[:12], "sql": gold}
        return Prompt(row.id(self.name), (turn,), answer, group=_group(gold))

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        path = self._database(prompt.answer["db_id"])
        gold, said = _official(prompt.answer["sql"]), _official(statement(text))
        try:
            wanted = execute(path, gold, _LIMITS)
        except SqlError as error:
            raise UserError(f"the gold statement of {prompt.id} cannot be executed any more: {error}") from None
        found, stopped = None, False
        try:
            found = execute(path, said, _LIMITS)
        except SqlTimeoutError:
            stopped = True
        except SqlError:
            pass
        accurate = found is not None and same(wanted, found, _ordered(gold))
        return {
            "execution_accuracy": float(accurate),
            "distinct_ignored": float(found is not None and _same_without_distinct(path, gold, said, accurate)),
            "authors_match": float(found is not None and _unordered_cells(wanted) == _unordered_cells(found)),
            "executes": float(found is not None),
            "timed_out": float(stopped),
            "empty": float(not wanted),
        }

    def origin(self) -> Mapping[str, Any]:
        """With a hash of the databases that the rows name."""
        used = {prompt.answer["db_id"] for prompt in self.prompts()}
        digest = hashlib.sha256(b"".join(_digest(self._database(name)) for name in sorted(used)))
        return {**super().origin(), "databases_sha256": digest.hexdigest()}

    def _database(self, name: str) -> Path:
        return self._folder() / name / f"{name}.sqlite"

    def _folder(self) -> Path:
        """The folder of the databases. Raises UserError."""
        given = self.databases
        if given is None and self.path is None:
            raise UserError("the data set has no databases with it: give their folder with task.databases=")
        source = Path(os.path.expanduser(given or self.path or ""))  # noqa: PTH111  # Path's own raises for an unknown user
        folder = source if given else (source if source.is_dir() else source.parent) / "database"
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder of databases; give it with task.databases=")
        return folder


def statement(text: str) -> str:
    """What an output says in SQL: the first statement, of a fenced block where there is one, without its semicolon.

    What stands before the first fence wins if that one names no language: then it ends a block, and begins none.
    """
    before, *rest = _FENCE.split(text[:_LONGEST])  # then languages and what follows them, in turn
    blocks = sorted(zip(rest[::4], rest[1::4], strict=False), key=lambda block: block[0].lower() not in _LANGUAGES)
    prose = _BLANK_LINE.split(_begun(before), maxsplit=1)[0]
    inside = [_begun(block) for _, block in blocks]
    said = [*inside, prose] if any(rest[:1]) else [prose, *inside]
    return _first(next(filter(None, said), blocks[0][1] if blocks else before))


def _begun(text: str) -> str:
    """From where SQL begins; empty if it does not."""
    found = _BEGINNING.search(text)
    if found is None:
        return ""
    sql = text[found.end() :]
    return sql.split("`")[0] if found[1] else sql


def _first(sql: str) -> str:
    """Up to the semicolon that ends the first statement; one in a literal or a comment does not."""
    with suppress(ValueError):  # NUL or a lone surrogate, which SQLite refuses anyway
        for found in islice(re.finditer(";", sql[: _LIMITS.statement + 1]), _MOST_SEMICOLONS):
            if sqlite3.complete_statement(sql[: found.end()]):
                return sql[: found.start()]
    return sql


def _official(sql: str) -> str:
    """As the official scorer changes both statements before it runs them."""
    for open_, closed in _OFFICIAL.items():
        sql = sql.replace(open_, closed)
    return _CURRENT_YEAR.sub("2020", sql)


def same(wanted: Rows, found: Rows, ordered: bool) -> bool:
    """Whether some order of the columns of `found` makes the rows those of `wanted`."""
    if not wanted and not found:
        return True
    if len(wanted) != len(found) or len(wanted[0]) != len(found[0]):
        return False
    targets, columns = list(zip(*wanted, strict=True)), list(zip(*found, strict=True))
    if ordered:
        return Counter(targets) == Counter(columns)
    if Counter(wanted) == Counter(found):
        return True
    numbers: dict[tuple[object, ...], int] = {}
    kinds = [numbers.setdefault(column, len(numbers)) for column in columns]  # alike for equal columns
    cells = 0

    def fits(chosen: list[int]) -> bool:
        """Whether the columns chosen for the first targets can be extended to all."""
        nonlocal cells
        depth = len(chosen)
        cells += depth * len(wanted)
        if cells > _MOST_CELLS:
            return False
        rows = Counter(zip(*(columns[i] for i in chosen), strict=True))
        if rows != Counter(zip(*targets[:depth], strict=True)):
            return False
        return depth == len(columns) or extends(chosen)

    def extends(chosen: list[int]) -> bool:
        rest = {kinds[i]: i for i in range(len(columns)) if i not in chosen}  # equal columns are tried once
        return any(fits([*chosen, i]) for i in rest.values())

    return extends([])


def _ordered(gold: str) -> bool:
    return "order by" in gold.lower()


def _same_without_distinct(path: Path, gold: str, said: str, accurate: bool) -> bool:
    """`same` for both statements without DISTINCT; `accurate` is what it says of them as they are."""
    plain_gold, plain_said = map(_without_distinct, (gold, said))
    if (plain_gold, plain_said) == (gold, said):
        return accurate
    try:
        return same(execute(path, plain_gold, _LIMITS), execute(path, plain_said, _LIMITS), _ordered(gold))
    except SqlError:
        return False


def _without_distinct(sql: str) -> str:
    return _QUOTED_OR_DISTINCT.sub(lambda found: "" if found[0].lower() == "distinct" else found[0], sql)


def _unordered_cells(rows: Rows) -> set[tuple[str, ...]]:
    return {tuple(sorted(map(repr, row))) for row in rows}


@cache
def _schema(path: Path) -> str:
    """The schema in the prompt's form. Raises UserError."""
    schema = read_schema(path)
    lines = [f"Table {table}, columns = [*,{','.join(columns)}]\n" for table, columns in schema.tables.items()]
    keys = ",".join(f"{table}.{column} = {other}.{there}" for table, column, other, there in schema.keys)
    return f"{''.join(lines)}Foreign_keys = [{keys}]"


@cache
def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _group(gold: str) -> str | None:
    number = components(gold)
    if number is None:
        return None
    return next((name for most, name in _GROUPS.items() if number <= most), "4+")


@cache
def components(gold: str) -> int | None:
    """How many SQL components (ours) a statement has; None if sqlglot cannot read it. Raises UserError."""
    need("sqlglot", "tasks")
    from sqlglot import errors, exp, parse_one

    try:
        tree = parse_one(gold, read="sqlite")
    except errors.SqlglotError:
        return None
    clauses = (exp.Join, exp.Group, exp.Having, exp.Order, exp.Limit, exp.Distinct, exp.AggFunc, exp.SetOperation)
    connectors = [found.find_ancestor(exp.Where, exp.Select) for found in tree.find_all(exp.Connector)]
    conditions = sum(1 + sum(owner is where for owner in connectors) for where in tree.find_all(exp.Where))
    selects, operations = (len(list(tree.find_all(kind))) for kind in (exp.Select, exp.SetOperation))
    return len(list(tree.find_all(*clauses))) + conditions + selects - 1 - operations
