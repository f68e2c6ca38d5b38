"""Which keys the schemas describe, and which keys of a value they do not: a later version may have added them.

Paths are as in `rounds.[].tokens`: `[]` stands for every element of a list, `*` for every name that is free.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.formats.schema import SUFFIX, read_schema

Place = tuple[str, Mapping[str, Any]]  # the file that a part of a schema is from, and the part


def keys(name: str, value: object) -> Iterator[tuple[str, bool]]:
    """The path of every key of a value, and whether the schema of that name describes it."""
    yield from _keys(_resolved(name, read_schema(name)), value, "")


def described(name: str) -> set[str]:
    """The path of every key that the schema of that name describes."""
    return set(_described(_resolved(name, read_schema(name)), ""))


def _keys(place: Place, value: object, path: str) -> Iterator[tuple[str, bool]]:
    name, schema = place
    if isinstance(value, dict):
        for key, inner in value.items():
            below = _below(schema, key)
            if below is None:
                # A schema that names no keys leaves them all to the writer.
                yield f"{path}{key}", not schema.get("properties")
            else:
                yield path + below[0], True
                yield from _keys(_resolved(name, below[1]), inner, f"{path}{below[0]}.")
    elif isinstance(value, list) and "items" in schema:
        for inner in value:
            yield from _keys(_resolved(name, schema["items"]), inner, f"{path}[].")


def _below(schema: Mapping[str, Any], key: str) -> tuple[str, Mapping[str, Any]] | None:
    """A key as it stands in paths, and the schema of what it holds; None if it is not described."""
    if key in schema.get("properties", {}):
        return key, schema["properties"][key]
    for pattern, inner in schema.get("patternProperties", {}).items():
        if re.search(pattern, key):
            return "*", inner
    return ("*", schema["additionalProperties"]) if "additionalProperties" in schema else None


def _described(place: Place, path: str) -> Iterator[str]:
    name, schema = place
    for key, inner in schema.get("properties", {}).items():
        yield f"{path}{key}"
        yield from _described(_resolved(name, inner), f"{path}{key}.")
    if inner := schema.get("additionalProperties"):
        yield from _described(_resolved(name, inner), f"{path}*.")
    if "items" in schema:
        yield from _described(_resolved(name, schema["items"]), f"{path}[].")


def _resolved(name: str, schema: Mapping[str, Any]) -> Place:
    """A part of a schema with its reference followed; of one that may be null, what it says of the others."""
    schema = schema["anyOf"][0] if "anyOf" in schema else schema
    if "$ref" not in schema:
        return name, schema
    file, _, path = schema["$ref"].partition("#/$defs/")
    name = file.removesuffix(SUFFIX) or name
    return _resolved(name, read_schema(name)["$defs"][path])


def part(name: str, path: str) -> Mapping[str, Any] | None:
    """What the schema of that name says of a key, by its path (all of it by an empty one); None if nothing."""
    place: Place = _resolved(name, read_schema(name))
    for key in path.split(".") if path else ():
        items = place[1].get("items")
        below = (key, items) if key == "[]" and items else _below(place[1], key)
        if below is None:
            return None
        place = _resolved(place[0], below[1])
    return place[1]
