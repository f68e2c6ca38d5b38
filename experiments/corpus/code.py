"""Functions of the running Python's standard library (PSF licence), for training and as held-out prompts."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.corpus.document import Document, Segment

# Whole modules whose functions are only ever prompted with.
_HELD_OUT = """
textwrap calendar fractions shlex statistics cmd sched csv configparser heapq bisect colorsys difflib netrc pprint
string graphlib zipapp gettext fileinput getopt filecmp cgi chunk aifc wave mailcap quopri telnetlib poplib nntplib
imaplib timeit trace rlcompleter tabnanny reprlib numbers json.encoder json.decoder html.parser http.cookies
logging.config email.message email.header urllib.robotparser wsgiref.util concurrent.futures.thread importlib.util
unittest.suite xml.dom.pulldom asyncio.queues asyncio.locks
"""
HELD_OUT = frozenset(_HELD_OUT.split())
# Tests, tools, tables, and what is not part of the library.
_EXCLUDED = """
test tests idle_test idlelib lib2to3 turtledemo encodings pydoc_data site-packages lib-dynload ensurepip __phello__
__pycache__
"""
_EXCLUDED_FOLDERS = frozenset(_EXCLUDED.split())
_SOURCE_LENGTH = range(60, 6000)  # characters of a function worth learning
RUN = 20  # a run of so many tokens shared with a held-out function drops a training function


@dataclass(frozen=True)
class Function:
    """A function's dedented source with the module, and the class if it is a method, that it comes from."""

    module: str
    owner: str
    source: str

    @property
    def text(self) -> str:
        """The source under a comment that says where it is from."""
        return f"# {self.module}{'.' if self.owner else ''}{self.owner}\n{self.source}"


def root() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def files() -> list[Path]:
    """The library files used, relative to its root and sorted."""
    found = (path.relative_to(root()) for path in root().rglob("*.py"))
    return sorted(
        path
        for path in found
        if not any(part in _EXCLUDED_FOLDERS or part.startswith("config-") for part in path.parts)
    )


def digest(path: Path) -> str:
    """SHA-256 of a library file."""
    return hashlib.sha256((root() / path).read_bytes()).hexdigest()


def module_name(path: Path) -> str:
    """The dotted name of a library file."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def functions(path: Path) -> Iterator[Function]:
    """The top-level functions and the methods of a library file."""
    try:
        source = (root() / path).read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError):
        return
    lines = source.splitlines()
    for owner, node in _definitions(tree):
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        text = textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno]))
        if len(text) in _SOURCE_LENGTH:
            yield Function(module_name(path), owner, text)


def _definitions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield node.name, inner


def training_functions(paths: Sequence[Path]) -> list[Function]:
    """Functions of those library files that are not held out, each source once."""
    found: dict[str, Function] = {}
    for path in paths:
        if module_name(path) not in HELD_OUT:
            for function in functions(path):
                found.setdefault(function.source, function)
    return list(found.values())


def runs(tokens: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """All runs of ``RUN`` consecutive tokens."""
    return (tuple(tokens[start : start + RUN]) for start in range(len(tokens) - RUN + 1))


def documents(
    functions: Sequence[Function], encode: Callable[[str], Sequence[int]], held_out: Sequence[str]
) -> list[Document]:
    """The functions as training documents, without any function that shares a run of tokens with a held-out text."""
    banned = {run for text in held_out for run in runs(encode(text))}
    return [
        Document("code", (Segment(function.text, True),))
        for function in functions
        if banned.isdisjoint(runs(encode(function.text)))
    ]
