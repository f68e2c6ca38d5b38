"""Packages that only some runs need: imported where they are used, and missed in one clear line."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from mtad.errors import UserError


def need(module: str, group: str) -> ModuleType:
    """The module, from a package of the optional `group`. Raises UserError if it is not installed."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the package is there, and broken
        raise _absent(module, group) from None


def look_for(package: str, group: str) -> None:
    """Raises UserError if the package is not installed; does not import it."""
    found = find_spec(package)
    if found is None or found.origin is None:  # a mere folder of that name has none
        raise _absent(package, group)


def _absent(module: str, group: str) -> UserError:
    package = module.split(".")[0].replace("_", "-")
    advice = f"pip install 'mtad-bench[{group}]' (in a clone: pip install -e '.[{group}]')"
    return UserError(f"this needs the package {package}: {advice}")
