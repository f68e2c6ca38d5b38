"""Questions about small databases, each with one of several equivalent SQL statements."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from experiments.corpus.dialect import respelled
from experiments.corpus.document import Document, Segment
from experiments.corpus.domains import Column, Table
from experiments.corpus.schema import Schema, schemas

QUESTIONS_PER_DOCUMENT = 5


@dataclass(frozen=True)
class Query:
    """A question and one SQL statement that answers it, without the semicolon."""

    question: str
    sql: str


def prompt(schema: Schema, query: Query) -> str:
    """A schema and one question, ready for the statement."""
    return f"{schema.notation}Question: {query.question}\nSQL:"


def _condition(rng: random.Random, table: Table, owner: str = "") -> tuple[str, str]:
    """A condition on a table in words and in SQL; ``owner`` is the column's qualifier with its dot."""
    column = rng.choice(table.columns[1:])
    if column.is_text:
        text = rng.choice(column.values)
        words = rng.choice((f"with {column.words} {text}", f"whose {column.words} is {text}"))
        return words, f"{owner}{column.name} = '{text}'"
    margin = max(1, (column.high - column.low) // 5)
    value = rng.randint(column.low + margin, column.high - margin)
    words, sign, shift = rng.choice(
        (
            (f"with {column.words} above {value}", ">", 1),
            (f"with {column.words} over {value}", ">", 1),
            (f"with {column.words} below {value}", "<", -1),
            (f"with {column.words} under {value}", "<", -1),
            (f"with {column.words} of at least {value}", ">=", 0),
            (f"with {column.words} of at most {value}", "<=", 0),
        )
    )
    if shift and rng.random() < 0.1:
        return words, f"{owner}{column.name} {sign}= {value + shift}"
    return words, f"{owner}{column.name} {sign} {value}"


def _where(rng: random.Random, table: Table, owner: str = "") -> tuple[str, str]:
    """One condition, or two of them on different columns in either order."""
    words, sql = _condition(rng, table, owner)
    other_words, other_sql = _condition(rng, table, owner)
    if rng.random() < 0.5 or sql.split()[0] == other_sql.split()[0]:
        return words, sql
    link = rng.choice(("and", "and", "or"))
    pair = (sql, other_sql) if rng.random() < 0.75 else (other_sql, sql)
    return f"{words} {link} {other_words}", f" {link.upper()} ".join(pair)


def _number(rng: random.Random, table: Table) -> Column | None:
    columns = [column for column in table.columns if not column.is_text]
    return rng.choice(columns) if columns else None


def _category(rng: random.Random, table: Table) -> Column | None:
    columns = [column for column in table.columns[1:] if column.is_text]
    return rng.choice(columns) if columns else None


def _count(rng: random.Random) -> str:
    return rng.choice(("count(*)", "count(*)", "count(*)", "count(id)"))


def _select(rng: random.Random, table: Table) -> Query:
    """Columns of all rows, or of those under a condition."""
    columns = rng.sample(table.columns, rng.choice((1, 2, 2)))
    words = " and ".join(column.words for column in columns)
    names = ", ".join(column.name for column in columns)
    if rng.random() < 0.25:
        ask = rng.choice((f"List the {words} of all {table.plural}.", f"What is the {words} of every {table.name}?"))
        return Query(ask, f"SELECT {names} FROM {table.name}")
    where, sql = _where(rng, table)
    ask = rng.choice(
        (
            f"Show the {words} of the {table.plural} {where}.",
            f"What is the {words} of {table.plural} {where}?",
            f"Find the {words} of each {table.name} {where}.",
        )
    )
    return Query(ask, f"SELECT {names} FROM {table.name} WHERE {sql}")


def _counting(rng: random.Random, table: Table) -> Query:
    """The number of rows."""
    if rng.random() < 0.25:
        ask = rng.choice((f"How many {table.plural} are there?", f"Count the {table.plural}."))
        return Query(ask, f"SELECT {_count(rng)} FROM {table.name}")
    where, sql = _where(rng, table)
    ask = rng.choice((f"How many {table.plural} {where} are there?", f"Count the {table.plural} {where}."))
    return Query(ask, f"SELECT {_count(rng)} FROM {table.name} WHERE {sql}")


_AGGREGATES = {
    "avg": ("average", "mean"),
    "max": ("highest", "maximum"),
    "min": ("lowest", "minimum"),
    "sum": ("total",),
}


def _aggregate(rng: random.Random, table: Table) -> Query | None:
    """One number over all rows, or over those under a condition."""
    column = _number(rng, table)
    if column is None:
        return None
    function = rng.choice(tuple(_AGGREGATES))
    ask = rng.choice(("What is the", "Find the", "Give the"))
    words = f"{ask} {rng.choice(_AGGREGATES[function])} {column.words} of"
    end = "?" if ask == "What is the" else "."
    if rng.random() < 0.4:
        return Query(f"{words} all {table.plural}{end}", f"SELECT {function}({column.name}) FROM {table.name}")
    where, sql = _where(rng, table)
    return Query(
        f"{words} {table.plural} {where}{end}", f"SELECT {function}({column.name}) FROM {table.name} WHERE {sql}"
    )


def _grouped(rng: random.Random, table: Table) -> Query | None:
    """A count or an aggregate per value of a text column, or the values with enough rows."""
    category, number = _category(rng, table), _number(rng, table)
    if category is None:
        return None
    end = f"FROM {table.name} GROUP BY {category.name}"
    kind = rng.choice(("count", "aggregate", "having"))
    if kind == "aggregate" and number is not None:
        function = rng.choice(("avg", "max", "min"))
        name = rng.choice(_AGGREGATES[function])
        ask = f"For each {category.words}, what is the {name} {number.words} of the {table.plural}?"
        return Query(ask, f"SELECT {category.name}, {function}({number.name}) {end}")
    if kind == "having":
        least = rng.randint(1, 2)
        ask = rng.choice(
            (
                f"Which {category.words} has more than {least} {table.plural}?",
                f"Find each {category.words} with more than {least} {table.plural}.",
            )
        )
        return Query(ask, f"SELECT {category.name} {end} HAVING {_count(rng)} > {least}")
    ask = rng.choice(
        (
            f"How many {table.plural} are there for each {category.words}?",
            f"Show each {category.words} and the number of {table.plural}.",
        )
    )
    return Query(ask, f"SELECT {category.name}, {_count(rng)} {end}")


def _ordered(rng: random.Random, table: Table) -> Query | None:
    """Rows sorted by a number, all or the first few."""
    key = _number(rng, table)
    if key is None:
        return None
    shown = rng.choice([column for column in table.columns if column is not key])
    down = rng.random() < 0.5
    direction = " DESC" if down else rng.choice(("", " ASC"))
    base = f"SELECT {shown.name} FROM {table.name} ORDER BY {key.name}{direction}"
    if rng.random() < 0.5:
        order = "descending" if down else "ascending"
        ask = rng.choice(("List", "Show"))
        return Query(f"{ask} the {shown.words} of all {table.plural} in {order} order of {key.words}.", base)
    extreme, first = ("highest" if down else "lowest"), rng.randint(2, 5)
    return Query(
        f"What is the {shown.words} of the {first} {table.plural} with the {extreme} {key.words}?",
        f"{base} LIMIT {first}",
    )


def _extreme(rng: random.Random, table: Table) -> Query | None:
    """The row with the highest or lowest number, or the rows on one side of the average."""
    key = _number(rng, table)
    if key is None:
        return None
    shown = rng.choice([column for column in table.columns if column is not key])
    base = f"SELECT {shown.name} FROM {table.name}"
    high = rng.random() < 0.5
    if rng.random() < 0.4:
        side, sign = ("above", ">") if high else ("below", "<")
        return Query(
            f"Find the {shown.words} of {table.plural} with {key.words} {side} the average.",
            f"{base} WHERE {key.name} {sign} (SELECT avg({key.name}) FROM {table.name})",
        )
    word, function, direction = ("highest", "max", " DESC") if high else ("lowest", "min", "")
    form = rng.choice(
        (
            f"{base} ORDER BY {key.name}{direction} LIMIT 1",
            f"{base} WHERE {key.name} = (SELECT {function}({key.name}) FROM {table.name})",
        )
    )
    return Query(f"What is the {shown.words} of the {table.name} with the {word} {key.words}?", form)


def _distinct(rng: random.Random, table: Table) -> Query | None:
    """The different values of a text column, or how many there are."""
    column = _category(rng, table)
    if column is None:
        return None
    if rng.random() < 0.5:
        ask = f"How many different values of {column.words} do the {table.plural} have?"
        return Query(ask, f"SELECT count(DISTINCT {column.name}) FROM {table.name}")
    ask = f"List the different values of {column.words} of the {table.plural}."
    return Query(ask, f"SELECT DISTINCT {column.name} FROM {table.name}")


def _from(rng: random.Random, child: Table, parent: Table) -> tuple[str, str, str]:
    """A join in one of several forms, with the qualifiers of the child's and the parent's columns."""
    first, second = (child, parent) if rng.random() < 0.7 else (parent, child)
    if rng.random() < 0.6:
        names = {first.name: "T1", second.name: "T2"}
        tables = f"{first.name} AS T1 JOIN {second.name} AS T2"
    else:
        names = {first.name: first.name, second.name: second.name}
        tables = f"{first.name} JOIN {second.name}"
    c, p = names[child.name], names[parent.name]
    ends = [f"{c}.{parent.name}_id", f"{p}.id"]
    on = " = ".join(ends if first is child else ends[::-1])
    return f"{tables} ON {on}", f"{c}.", f"{p}."


def _join(rng: random.Random, child: Table, parent: Table) -> Query:
    """Child rows with their parent's, or under a condition on it."""
    join, c, p = _from(rng, child, parent)
    mine, theirs = rng.choice(child.columns), rng.choice(parent.columns)
    kind = rng.choice(("pair", "filter", "filter", "reverse", "count"))
    if kind == "pair":
        ask = f"Show the {mine.words} of each {child.name} and the {theirs.words} of its {parent.name}."
        return Query(ask, f"SELECT {c}{mine.name}, {p}{theirs.name} FROM {join}")
    if kind == "reverse":
        where, sql = _where(rng, child, c)
        ask = f"Find the {theirs.words} of the {parent.name} of each {child.name} {where}."
        return Query(ask, f"SELECT {p}{theirs.name} FROM {join} WHERE {sql}")
    where, sql = _where(rng, parent, p)
    if kind == "count":
        ask = f"How many {child.plural} belong to {parent.plural} {where}?"
        return Query(ask, f"SELECT count(*) FROM {join} WHERE {sql}")
    ask = rng.choice(
        (
            f"Find the {mine.words} of the {child.plural} of {parent.plural} {where}.",
            f"Show the {mine.words} of {child.plural} that belong to {parent.plural} {where}.",
        )
    )
    return Query(ask, f"SELECT {c}{mine.name} FROM {join} WHERE {sql}")


def _family(rng: random.Random, child: Table, parent: Table) -> Query:
    """Parents with their number of children, the one with most of them, or those with none."""
    label, key = parent.columns[0], f"{parent.name}_id"
    kind = rng.choice(("count", "most", "none"))
    if kind == "none":
        return Query(
            f"Find the {label.words} of {parent.plural} without any {child.name}.",
            f"SELECT {label.name} FROM {parent.name} WHERE id NOT IN (SELECT {key} FROM {child.name})",
        )
    join, c, p = _from(rng, child, parent)
    group = rng.choice((f"{p}id", f"{c}{key}"))
    if kind == "count":
        ask = f"For each {parent.name}, show its {label.words} and the number of {child.plural}."
        return Query(ask, f"SELECT {p}{label.name}, count(*) FROM {join} GROUP BY {group}")
    ask = f"What is the {label.words} of the {parent.name} with the most {child.plural}?"
    return Query(ask, f"SELECT {p}{label.name} FROM {join} GROUP BY {group} ORDER BY count(*) DESC LIMIT 1")


_SINGLE: tuple[Callable[[random.Random, Table], Query | None], ...] = (
    _select, _select, _select, _counting, _counting, _aggregate, _aggregate, _grouped, _ordered, _extreme, _distinct,
)  # fmt: skip


def query(rng: random.Random, schema: Schema) -> Query:
    """A random question on a schema; where tables are related, about half need both of them."""
    families = schema.families()
    while True:
        if families and rng.random() < 0.5:
            return rng.choice((_join, _join, _family))(rng, *rng.choice(families))
        found = rng.choice(_SINGLE)(rng, rng.choice(schema.tables))
        if found is not None:
            return found


def documents(seed: int, respell: bool = False) -> Iterator[Document]:
    """An endless seeded stream of training documents: a schema and several questions with their statements."""
    rng, dialect = random.Random(f"sql {seed}"), random.Random(f"dialect {seed}")
    for schema in schemas(seed, held_out=False):
        segments = [Segment(schema.notation, False)]
        for _ in range(QUESTIONS_PER_DOCUMENT):
            item = query(rng, schema)
            statement = respelled(dialect, item.sql) if respell else item.sql
            segments += [Segment(f"Question: {item.question}\nSQL:", False), Segment(f" {statement};\n", True)]
        yield Document("sql", tuple(segments))
