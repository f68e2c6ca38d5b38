"""Writes the held-out prompts of the embedded tasks: ``python -m experiments.corpus.heldout``."""

from __future__ import annotations

import ast
import itertools
import json
import platform
import random
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.corpus import arithmetic, code, sql
from experiments.corpus.domains import Table
from experiments.corpus.schema import Schema, schemas

SEED = 20_240_709
PROMPTS = 200
QUESTIONS_PER_DATABASE = 5
LEAST_TABLES = 3  # of a database, and
LEAST_STATEMENT = 75  # characters of a gold statement: the pair finds smaller ones too easy
DATA = Path(__file__).parents[1] / "tasks" / "data"
MANIFEST = Path(__file__).parent / "stdlib_manifest.json"

Row = dict[str, Any]


def arithmetic_prompts() -> list[Row]:
    """Word problems whose number combinations are never trained on."""
    found: dict[str, Row] = {}
    for problem in arithmetic.problems(SEED, held_out=True):
        found.setdefault(problem.key, {"text": problem.prompt, "answer": {"number": problem.result}})
        if len(found) == PROMPTS:
            break
    return list(found.values())


def databases() -> Iterator[tuple[Schema, list[str], list[tuple[str, list[list[int | str]]]]]]:
    """Schemas never trained on, each with its DDL and with rows for its tables."""
    rng = random.Random(SEED)
    for schema in schemas(SEED, held_out=True):
        if len(schema.tables) < LEAST_TABLES:
            continue
        sizes = {table.name: rng.randint(9, 14) if table.parent else rng.randint(7, 9) for table in schema.tables}
        yield (
            schema,
            [_ddl(table) for table in schema.tables],
            [(table.name, _rows(rng, table, sizes)) for table in schema.tables],
        )


def _ddl(table: Table) -> str:
    columns = [f"{column.name} {'TEXT' if column.is_text else 'INTEGER'}" for column in table.columns]
    columns += [f"{table.parent}_id INTEGER"] if table.parent else []
    return f"CREATE TABLE {table.name} (id INTEGER PRIMARY KEY, {', '.join(columns)})"


def _rows(rng: random.Random, table: Table, sizes: dict[str, int]) -> list[list[int | str]]:
    """Rows whose numbers do not repeat in a column where the range allows it, so that orders have no ties."""
    size = sizes[table.name]
    columns: list[list[int | str]] = [list(range(1, size + 1))]
    for column in table.columns:
        numbers = range(column.low, column.high + 1)
        if column.is_text:
            columns.append([rng.choice(column.values) for _ in range(size)])
        elif len(numbers) >= size:
            columns.append([*rng.sample(numbers, size)])
        else:
            columns.append([rng.choice(numbers) for _ in range(size)])
    if table.parent:
        columns.append([rng.choice(range(1, sizes[table.parent] + 1)) for _ in range(size)])
    return [list(row) for row in zip(*columns, strict=True)]


def sql_prompts() -> tuple[list[Row], list[Row]]:
    """The databases and questions on them; the gold statements yield something, and the same in any scan order."""
    made: list[Row] = []
    prompts: list[Row] = []
    rng = random.Random(SEED)
    for schema, ddl, rows in itertools.islice(databases(), PROMPTS // QUESTIONS_PER_DATABASE):
        name = f"db{len(made):02d}"
        made.append({"id": name, "ddl": ddl, "rows": dict(rows)})
        chosen: dict[str, sql.Query] = {}
        while len(chosen) < QUESTIONS_PER_DATABASE:
            query = sql.query(rng, schema)
            if len(query.sql) >= LEAST_STATEMENT and _telling(ddl, rows, query.sql):
                chosen.setdefault(query.question, query)
        prompts += [
            {"text": sql.prompt(schema, query), "answer": {"database": name, "sql": query.sql}}
            for query in chosen.values()
        ]
    return made, prompts


def _telling(ddl: list[str], rows: list[tuple[str, list[list[int | str]]]], statement: str) -> bool:
    with sqlite3.connect(":memory:") as connection:
        for text in ddl:
            connection.execute(text)
        for table, values in rows:
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values[0]))})", values)
        found = connection.execute(statement).fetchall()
        connection.execute("PRAGMA reverse_unordered_selects = ON")
        again = connection.execute(statement).fetchall()
    if (found != again) if "ORDER BY" in statement else (sorted(found) != sorted(again)):
        return False
    return any(value not in (None, 0) for row in found for value in row)


def code_prompts() -> list[Row]:
    """Held-out functions cut after the first statements of their bodies."""
    found = [
        row
        for path in code.files()
        if code.module_name(path) in code.HELD_OUT
        for function in code.functions(path)
        if (row := _cut(function)) is not None
    ]
    unique = {row["answer"]["code"]: row for row in found}
    return random.Random(SEED).sample(sorted(unique.values(), key=lambda row: str(row["text"])), PROMPTS)


def _cut(function: code.Function) -> Row | None:
    """The function cut after its docstring and first statement, if both parts have a suitable length."""
    (node,) = ast.parse(function.source).body
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    documented = ast.get_docstring(node) is not None
    if len(node.body) < 2 + documented:
        return None
    last = node.body[documented].end_lineno or 0
    lines = function.source.splitlines()
    prompt = "\n".join([function.text.splitlines()[0], *lines[:last]])
    answer = "\n" + "\n".join(lines[last:])
    if len(prompt) > 600 or not 80 <= len(answer) <= 280 or "\n\n\n" in answer:
        return None
    return {"text": prompt, "answer": {"code": answer}}


def manifest() -> Row:
    """Which standard-library files the code corpus was made from."""
    return {
        "python": platform.python_version(),
        "licence": "Python Software Foundation License Version 2. Copyright (c) 2001-2023 Python Software Foundation; "
        "All Rights Reserved",
        "files": {path.as_posix(): code.digest(path) for path in code.files()},
    }


def _write(name: str, rows: Iterable[Row]) -> None:
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    (DATA / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Writes every held-out file and the manifest of the standard library."""
    DATA.mkdir(exist_ok=True)
    made, questions = sql_prompts()
    _write("databases.jsonl", made)
    for task, prompts in (("sql", questions), ("arithmetic", arithmetic_prompts()), ("code", code_prompts())):
        random.Random(SEED).shuffle(prompts)
        _write(f"{task}.jsonl", ({"id": f"{task}-{index:03d}", **row} for index, row in enumerate(prompts)))
    MANIFEST.write_text(json.dumps(manifest(), indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
