"""Code of others that writes texts: a decoder of another package or of a notebook, told from what it was before.

A run's identity holds options, not code, for the code of this project is in every row. What a run's decoder has from
elsewhere must be in its identity: else rows of the code before an edit would pass for rows of the code after it.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from functools import cache
from pathlib import Path
from uuid import uuid4

from experiments.code_version import PACKAGES


@cache
def outside_code(kind: type) -> str | None:
    """A hash of the package that a class is from; of the class's own methods in a notebook; None for ours."""
    package = kind.__module__.partition(".")[0]
    if package in PACKAGES:
        return None
    file = getattr(sys.modules.get(package), "__file__", None)
    return _hash_of(Path(file)) if file and package != "__main__" else _hash(_sources(kind))


def _hash_of(file: Path) -> str:
    files = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    return _hash([part for one in files for part in (str(one.relative_to(file.parent)).encode(), one.read_bytes())])


def _sources(kind: type) -> list[bytes]:
    """What the class says, method by method; something unique where that is not to be had, as at a prompt of Python."""
    found = []
    for value in vars(kind).values():
        if inspect.isfunction(value):
            try:
                found.append(inspect.getsource(value).encode())
            except OSError:  # made by dataclass(), or typed at a prompt
                continue
    return found or [uuid4().bytes]


def _hash(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\0")
    return digest.hexdigest()[:16]
