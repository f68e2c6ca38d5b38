"""Answers of chat models: what they put between fences (``` or ~~~, as in Markdown), without the prose around it.

Knows lines and fences; refuses to know what stands between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_OPENING = re.compile(r"([ \t]{0,20})(`{3,9}|~{3,9})[ \t]*([\w+#.-]{0,20})[^`]*")  # bounded: reads any text in one go


def fenced(text: str, *languages: str) -> str:
    """The first fenced block, closed or not, in one of `languages` or in none named; else any; else the whole text."""
    found = list(blocks(text))
    wanted = [block for language, block in found if language in {"", *languages}]
    return (wanted or [block for _, block in found] or [text])[0]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """The name of the language, in small letters, and the lines of each block."""
    inside: list[str] | None = None
    indent = mark = language = ""
    for line in text.split("\n"):
        if inside is None:
            if opening := _OPENING.fullmatch(line):
                indent, mark, language = opening.groups()
                inside = []
        elif line.strip() and not line.strip().strip(mark[0]) and len(line.strip()) >= len(mark):
            yield language.lower(), "".join(inside)
            inside = None
        else:
            inside.append(line.removeprefix(indent) + "\n")
    if inside is not None:
        yield language.lower(), "".join(inside)
