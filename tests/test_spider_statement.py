"""Spider: which SQL an output says, whatever stands around it."""

from __future__ import annotations

import time

import pytest

from experiments.tasks.spider import statement


@pytest.mark.parametrize(
    "text",
    [
        " SELECT 1",
        "\n\nSELECT 1; SELECT 2",
        "SQL: SELECT 1",
        "Sure; here it is:\n```sql\nSELECT 1;\n```\nIt selects one.",
        "```\nSELECT 1",
        "The answer is\n\nSELECT 1;\n\nbecause it is one.",
        " SELECT 1\n```\n",
        "SELECT 1\n```\nThis selects one.\n```\nSELECT 2\n```",
        "Select what is asked for:\n```\nSELECT 1\n```",
        "SELECT 1 is easy; with a name:\n```sql\nSELECT 1\n```",
        "First look:\n```sql\nPRAGMA table_info(a)\n```\nThen:\n```sql\nSELECT 1;\n```",
        "```python\nprint()\n```\n~~~\nSELECT 1\n~~~",
        "Here is the query; it is short.\n```sql\nSELECT 1\n```",
        "With the schema above, we count:\nSELECT 1",
        "With this as the plan, we count:\nSELECT 1",
        "SELECT 1\n\nThis selects one",
        "SELECT 1\n \nQuestion: What else?\nSQL: SELECT 2",
        "The query is: SELECT 1",
        "`SELECT 1`",
        "It is `SELECT 1`, or `SELECT 2`.",
        "```sql SELECT 1```",
        "SQL Query: SELECT 1",
        "**SQL:** SELECT 1",
        "> SELECT 1",
    ],
)
def test_the_first_statement_counts_without_prose_and_fences(text: str) -> None:
    assert statement(text).strip() == "SELECT 1"


@pytest.mark.parametrize("before", ["", "SQL: ", "Here it is:\n", "```sql\n"])
@pytest.mark.parametrize(
    "sql",
    [
        "WITH a AS (\nSELECT 1)\nSELECT * FROM a",
        "with recursive a(x, y) as materialized (\nSELECT 1, 2)\nSELECT * FROM a",
        "SELECT 'a;b', \"c;d\" -- e; f\nFROM t /* g; h */",
        "SELECT `select: a` FROM t",
    ],
)
def test_a_statement_is_whole(before: str, sql: str) -> None:
    assert statement(f"{before}{sql}; SELECT 2") == sql


def test_a_blank_line_ends_no_statement_between_fences() -> None:
    assert statement("```sql\nSELECT 1\n\nFROM t\n```") == "SELECT 1\n\nFROM t\n"


@pytest.mark.parametrize(
    "text",
    [
        "with a (" * 6250,
        "with a (\n" * 6000,
        ("with" + " " * 99) * 500,
        ("with " + "a" * 99 + " " * 99 + "\n") * 250,
        ":" * 50_000,
        "select\n" * 7000,
        ("`" * 3 + "\n") * 12_000,
        "select '" + ";" * 50_000,
        " " * 50_000,
        "SELECT" + "\n \t" * 16_000,
    ],
    ids=lambda text: repr(text[:20]),
)
def test_any_text_is_read_in_little_time(text: str) -> None:
    began = time.monotonic()
    statement(text)
    assert time.monotonic() - began < 2
