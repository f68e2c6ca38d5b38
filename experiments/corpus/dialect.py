"""Equivalent spellings of SQL statements, so that the law of a statement has an entropy of its own.

Each choice is made once a statement: letter case of keywords and of functions, alias names and AS, JOIN or INNER JOIN,
the quotes of strings, > 5 or >= 6.
"""

from __future__ import annotations

import random
import re

_KEYWORDS = (
    "SELECT DISTINCT FROM WHERE GROUP BY HAVING ORDER LIMIT JOIN INNER ON AS AND OR NOT IN DESC ASC".split()  # noqa: SIM905
)
_KEYWORD = re.compile(rf"\b({'|'.join(_KEYWORDS)})\b")
_FUNCTION = re.compile(r"\b(count|avg|max|min|sum)\(")
_BOUND = re.compile(r" ([<>]) (\d+)")


def respelled(rng: random.Random, statement: str) -> str:
    """A statement that returns the same rows, in a spelling drawn at random."""
    if rng.random() < 0.35:
        statement = _FUNCTION.sub(lambda found: f"{found[1].upper()}(", statement)
    if rng.random() < 0.3:
        statement = _BOUND.sub(_or_equal, statement)
    if rng.random() < 0.3:
        statement = re.sub(r"\bT([12])\b", lambda found: "ab"[int(found[1]) - 1], statement)
    if rng.random() < 0.35:
        statement = re.sub(r" AS (T[12]|[ab])\b", r" \1", statement)
    if rng.random() < 0.3:
        statement = statement.replace(" JOIN ", " INNER JOIN ")
    if rng.random() < 0.35:
        statement = statement.replace("'", '"')
    if rng.random() < 0.3:
        statement = _KEYWORD.sub(lambda found: found[1].lower(), statement)
    return statement


def _or_equal(found: re.Match[str]) -> str:
    """The same bound on whole numbers with the equality sign."""
    return f" {found[1]}= {int(found[2]) + (1 if found[1] == '>' else -1)}"
