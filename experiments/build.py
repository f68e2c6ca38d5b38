"""Objects from configurations: the dataclass that a YAML names by `_target_`, with its options checked one by one.

Done here rather than by `hydra.utils.instantiate`, so that a wrong key or value ends in a line that says what is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from hydra.utils import get_class

from mtad.errors import UserError, first_line

PLAIN: dict[object, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


def build(what: str, config: Mapping[str, Any]) -> Any:
    """The dataclass `config["_target_"]` with the other keys as options; `what` names it in messages."""
    path = _mapping(what, config).get("_target_")
    kind = _class_of(what, path)
    if not is_dataclass(kind):
        raise UserError(f"{what}: {path} is not a dataclass")
    return construct(what, kind, {key: value for key, value in config.items() if key != "_target_"})


def missing(config: Mapping[str, Any]) -> str | None:
    """What the dataclass `config["_target_"]` says it lacks here (a package, a device); None if it can be used."""
    return lacking(_class_of("a decoder", config.get("_target_")))


def lacking(kind: type) -> str | None:
    """The same of a class."""
    said = getattr(kind, "missing", None)
    return said() if said else None


def construct(what: str, kind: Any, options: Mapping[str, Any]) -> Any:
    """An instance of the dataclass `kind`. Raises UserError for an unknown or absent key and a wrong type of value."""
    hints = get_type_hints(kind)
    settable = [field for field in fields(kind) if field.init]
    known = [field.name for field in settable]
    values = dict(_mapping(what, options))
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{what} has no option {key!r}; it has: {', '.join(known) or 'none'}")
        check_type(f"{what}: {key}", value, hints[key])
        if hints[key] is float:
            values[key] = float(value)  # tau=1 and tau=1.0 are one option, and one run
        if get_origin(hints[key]) is tuple:
            values[key] = tuple(value)
    needed = [field.name for field in settable if field.default is MISSING and field.default_factory is MISSING]
    if absent := [name for name in needed if name not in values]:
        raise UserError(f"{what} lacks {', '.join(absent)}, which cannot be left out")
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(str(error) if what in str(error) else f"{what}: {error}") from None


def _class_of(what: str, path: object) -> Any:
    if not isinstance(path, str):
        raise UserError(f"{what}: its YAML names no _target_")
    try:
        return get_class(path)
    except (ImportError, ValueError) as error:
        raise UserError(f"{what}: cannot import {path}: {first_line(error)}") from None


def _mapping(what: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{what} must be a mapping, not {value!r}")
    return value


def check_type(name: str, value: object, hint: object) -> None:
    """Raises UserError unless `value` is a `hint`, as far as that is a plain type, or one or None."""
    if NoneType in get_args(hint):
        if value is None:
            return
        hint = next(kind for kind in get_args(hint) if kind is not NoneType)
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise UserError(f"{name} must be a list, as in [2,1], not {value!r}")
        for one in value:
            check_type(f"every entry of {name}", one, item)
        return
    right = PLAIN.get(hint)
    if right and (not isinstance(value, right) or (isinstance(value, bool) and hint is not bool)):
        raise UserError(f"{name} must be {_spoken(hint)}, not {value!r}")


def _spoken(hint: object) -> str:
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}[hint]  # type: ignore[index]
