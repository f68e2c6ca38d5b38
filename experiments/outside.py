"""Code of others that writes texts: a decoder of another package or of a notebook, told from what it was before.

A run's identity holds options, not code, for the code of this project is in every row. What a run's decoder has from
elsewhere must be in its identity: else rows of the code before an edit would pass for rows of the code after it.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from uuid import uuid4

from experiments.code_version import PACKAGES


@cache
def outside_code(kind: type) -> str | None:
    """A hash of the package that a class is from; of the class itself in a notebook; None for ours."""
    package = kind.__module__.partition(".")[0]
    if package in PACKAGES:
        return None
    module = sys.modules.get(package)
    folders = [Path(place) for place in getattr(module, "__path__", ())]  # of a package without __init__.py too
    file = getattr(module, "__file__", None)
    if package == "__main__" or not (folders or file):
        return _hash([part for one in kind.__mro__ if one.__module__ == kind.__module__ for part in _said(one)])
    files = [(folder, one) for folder in folders for one in sorted(folder.rglob("*.py"))] or [
        (Path(str(file)).parent, Path(str(file)))
    ]
    return _hash([part for at, one in files for part in (one.relative_to(at).as_posix().encode(), one.read_bytes())])


def _said(kind: type) -> list[bytes]:
    """Methods and plain values of a class; something unique where sources are not to be had, as at a prompt."""
    found = []
    for name, value in vars(kind).items():
        value = getattr(value, "__func__", getattr(value, "fget", value))  # of static methods, of properties
        if inspect.isfunction(value):
            try:
                found.append(inspect.getsource(value).encode())
            except OSError:
                made = name.startswith("__") and is_dataclass(kind)  # by dataclass(), from the fields
                found += [] if made else [uuid4().bytes]
        elif not name.startswith("__") and isinstance(value, bool | int | float | str | None):
            found.append(f"{name}={value!r}".encode())
    return found


def _hash(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part + b"\0")
    return digest.hexdigest()[:16]
