"""The JSON Schemas beside this module, and what they say of a value. Knows values; refuses to know files.

`reasoned` is a keyword of ours, a list of names: where one of them is null, or holds a null, `<name>_reason` says why.
Other validators pass over it, and over `unit`, which is for readers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.optional import need

if TYPE_CHECKING:
    from jsonschema import ValidationError

HERE = Path(__file__).parent
SUFFIX = ".schema.json"
NAMES = tuple(sorted(file.name.removesuffix(SUFFIX) for file in HERE.glob(f"*{SUFFIX}")))
SHOWN = 60  # characters of a value that is wrong
EXACT: Mapping[str, set[type]] = {"integer": {int}, "number": {int, float}, "string": {str}, "null": {type(None)}}

Schema = Mapping[str, Any]


def problems(name: str, value: object) -> Iterator[str]:
    """What is wrong with a value under the schema of that name, a line each."""
    for error in sorted(_validator(name).iter_errors(value), key=lambda one: [str(key) for key in one.absolute_path]):
        yield from _lines(error)


@cache
def read_schema(name: str) -> dict[str, Any]:
    """The schema of that name."""
    schema: dict[str, Any] = json.loads((HERE / f"{name}{SUFFIX}").read_text(encoding="utf-8"))
    return schema


@cache
def _validator(name: str) -> Any:
    """Raises UserError where jsonschema is not installed."""
    jsonschema, referencing = need("jsonschema", "report"), need("referencing", "report")
    ours = {"reasoned": _reasoned, "items": _items, "required": _required}
    made = jsonschema.validators.extend(jsonschema.Draft202012Validator, ours)
    known = [(f"{one}{SUFFIX}", referencing.Resource.from_contents(read_schema(one))) for one in NAMES]
    return made(read_schema(name), registry=referencing.Registry().with_resources(known))


def _reasoned(_validator: Any, names: Sequence[str], value: Any, _schema: Schema) -> Iterator[ValidationError]:
    """Our keyword."""
    from jsonschema import ValidationError

    for name in names if isinstance(value, dict) else ():
        found, reason = value.get(name, 0), value.get(f"{name}_reason")
        if (found is None or (isinstance(found, list) and None in found)) and not isinstance(reason, str):
            yield ValidationError(f"{name} is null, and {name}_reason does not say why")


def _items(validator: Any, items: Schema, value: Any, schema: Schema) -> Iterator[ValidationError]:
    """As ever, but for long lists of plain numbers, which are most of a file, all at once."""
    from jsonschema import Draft202012Validator

    if isinstance(value, list) and items.keys() == {"type"}:
        names = [items["type"]] if isinstance(items["type"], str) else items["type"]
        if set(map(type, value)) <= {kind for name in names for kind in EXACT.get(name, ())}:
            return
    yield from Draft202012Validator.VALIDATORS["items"](validator, items, value, schema)


def _required(_validator: Any, names: Sequence[str], value: Any, _schema: Schema) -> Iterator[ValidationError]:
    """As ever, but one error for all keys that are not there."""
    from jsonschema import ValidationError

    if isinstance(value, dict) and (missing := [name for name in names if name not in value]):
        yield ValidationError(f"lacks {', '.join(missing)}")


def _lines(error: ValidationError) -> Iterator[str]:
    """An error in words; of one with two ways to be right, of which one is null, the errors of the other."""
    if error.validator == "anyOf" and error.instance is not None:
        for inner in error.context:
            if inner.schema_path[0] == 0:
                yield from _lines(inner)
        return
    place = ".".join(str(key) for key in error.absolute_path)
    yield f"{place}: {_words(error)}" if place else _words(error)


def _words(error: ValidationError) -> str:
    wanted, value = error.validator_value, shown(error.instance)
    match error.validator:
        case "type":
            return f"{value} is not of type {' or '.join([wanted] if isinstance(wanted, str) else wanted)}"
        case "const":
            return f"{value} is not {json.dumps(wanted)}"
        case "enum":
            return f"{value} is none of {', '.join(map(json.dumps, wanted))}"
        case "minimum":
            return f"{value} is less than {wanted}"
        case "reasoned" | "required":
            return str(error.message)
    return f"{value} breaks the rule {error.validator}: {shown(wanted)}"


def shown(value: object) -> str:
    """A value in one short line of plain characters, whatever it holds."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = json.dumps(value[:SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
