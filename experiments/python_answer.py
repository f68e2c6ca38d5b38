"""The Python program that a text of a model stands for: a function's continuation, or the function anew, amid prose.

Knows Python's grammar; refuses to know what the function is for, and runs nothing.
"""

from __future__ import annotations

import ast
import re
import warnings

from experiments.fences import blocks, fenced

_LONGEST = 100_000  # characters that are parsed; what is longer stays as it is
_CUTS = 8
_NAMES = ("python", "python3", "py", "")
_CODE = re.compile(r"^(?:from [\w.]+ import |import \w|(?:async )?def \w|class \w|@\w)", re.MULTILINE)
_FENCE_WITH_CODE = re.compile(r"^(```(?:python|py)?)[ \t]*(?=(?:from|import|def|async|class) )", re.MULTILINE)
_FENCE_AFTER_TEXT = re.compile(r"^(?=[ \t]*[^\s`])([^`\n]+)(```\w{0,20})[ \t]*$", re.MULTILINE)
_FUTURE = re.compile(r"^from __future__ import .*\n?", re.MULTILINE)
_DRAFT = "</think>"


def solution(prompt: str, name: str, text: str) -> str:
    """A chat model may continue the prompt or write the function anew, in a fenced block or without.

    A new function still finds the prompt's imports and helpers.
    """
    beginning = re.compile(rf"^(async )?def {re.escape(name)}\b", re.MULTILINE)
    text = text.rpartition(_DRAFT)[2]
    words = text.lstrip()
    indented = text.removesuffix(words).endswith((" ", "\t")) and not words.startswith(("```", "~~~"))
    text = _FENCE_AFTER_TEXT.sub(r"\1\n\2", _FENCE_WITH_CODE.sub(r"\1\n", text))
    goes_on = prompt + text.split("\n```", 1)[0]
    if indented and parsed(goes_on):
        program = goes_on
    elif (anew := _anew(beginning, name, text)) is not None:
        program = f"{beginning.split(prompt, maxsplit=1)[0]}\n{anew}"
    elif indented:
        program = goes_on
    else:
        program = prompt + fenced(text, *_NAMES)
    return "".join(line.rstrip("\n") + "\n" for line in _FUTURE.findall(program)) + _FUTURE.sub("", program)


def parsed(text: str) -> ast.Module | None:
    """Its tree, or None where it is no Python, or too much of it."""
    tree = _read(text)
    return tree if isinstance(tree, ast.Module) else None


def _read(text: str) -> ast.Module | int | None:
    """Its tree, else the line where it stops being Python, as far as that is known."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(text) if len(text) <= _LONGEST else None
    except SyntaxError as error:
        return error.lineno
    except (ValueError, RecursionError, MemoryError):
        return None


def _anew(beginning: re.Pattern[str], name: str, text: str) -> str | None:
    """The program that defines the function, if one does: the last that gives it a body, after others' helpers."""
    first = beginning.search(text)
    if first is None:
        return None
    before = text.partition("\n```")[0]
    closed = re.match(r"\n```[ \t]*(\n|$)", text[len(before) : len(before) + 80])
    if closed and first.start() < len(before) and "```" not in before and "~~~" not in before:
        return _bare(beginning, before + "\n")  # a fence that closes what was never opened
    found = [block for language, block in blocks(text) if language in _NAMES]
    defining = [number for number, block in enumerate(found) if beginning.search(block)]
    if not defining:
        other = fenced(text)
        return _bare(beginning, other if beginning.search(other) else text)
    whole = [number for number in defining if _has_body(name, found[number])]
    chosen = (whole or defining[:1])[-1]
    return "".join(_helpers(name, block) for block in found[:chosen]) + _bare(beginning, found[chosen])


def _has_body(name: str, block: str) -> bool:
    """Whether the function does more than to document itself; an expression alone, such as `...`, does nothing."""
    tree = parsed(block)
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            rest = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            return any(not isinstance(step, ast.Pass | ast.Expr) for step in rest)
    return False


def _helpers(name: str, block: str) -> str:
    """The imports, functions and classes of a block, without the function itself."""
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    tree, lines, found = parsed(block), block.split("\n"), ""
    for node in tree.body if tree else ():
        if isinstance(node, kinds) and getattr(node, "name", None) != name:
            start = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", ()))])
            found += "\n".join(lines[start - 1 : node.end_lineno]) + "\n"
    return found if parsed(found) else ""


def _bare(beginning: re.Pattern[str], text: str) -> str:
    """The code in a text that has prose around it: from its first line of code, up to where it is none any more."""
    if parsed(text) or len(text) > _LONGEST:
        return text
    found = beginning.search(text)
    starts = [match.start() for match in _CODE.finditer(text) if found is None or match.start() <= found.start()]
    for start in [*starts[:_CUTS], *([found.start()] if found else [])]:
        lines = text[start:].split("\n")
        for _ in range(_CUTS):
            tree = _read("\n".join(lines))
            if isinstance(tree, ast.Module):
                if beginning.search("\n".join(lines)):
                    return "\n".join(lines) + "\n"
                break
            if not tree or len(lines) < 2:
                break
            lines = lines[: min(tree, len(lines)) - 1]
            while lines and not lines[-1].strip():
                lines.pop()
    return text
