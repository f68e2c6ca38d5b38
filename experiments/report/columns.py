"""Results as columns of fixed types, for Parquet: a column has the same type whatever the run, and null stays null.

The schemas say which: their numbers are numbers, lists of them lists. What is nested deeper, or free, as options and
rounds, is JSON text. Knows results; refuses to know how any figure is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.formats.keys import part
from experiments.journal import Row, disk, to_json
from experiments.records import text_key
from experiments.report.frames import HEADING, comparison_lines, heading, variant_lines
from experiments.report.results import Results, Run

TYPES = {"string": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
FLAT = ("counts", "seconds", "sampling")  # objects of a row whose keys are columns, as in `seconds.decode`


def variants_table(results: Results) -> Any:
    """One line for each variant of each run; columns as those of `variants_frame`."""
    return _table(variant_lines(results), _of_variant)


def comparisons_table(results: Results) -> Any:
    """One line for each comparison of each run; columns as those of `comparisons_frame`."""
    return _table(comparison_lines(results), _of_comparison)


def rows_table(results: Results) -> Any:
    """One line for each text: the run's heading, the keys of its row in samples.jsonl, `score` and `grades`."""
    schema = _columns_of_rows()
    lines = [line for run in results.runs for line in _rows(run)]
    return pa.table({name: _column([line.get(name) for line in lines], kind) for name, kind in schema.items()})


def write_table(table: Any, file: Path) -> None:
    """Write it in one file. Raises UserError."""
    with disk("write to", file):
        pq.write_table(table, file)


def _table(lines: Sequence[Mapping[str, Any]], kind_of: Callable[[str], Any]) -> Any:
    names = dict.fromkeys(name for line in lines for name in line)
    return pa.table({name: _column([line.get(name) for line in lines], kind_of(name)) for name in names})


def _of_variant(name: str) -> Any:
    """The type of a column of variants; JSON text for what the schema leaves free."""
    if name in (*HEADING, "variant"):
        return pa.string()
    if name.startswith("sampling."):
        return _kind(part("samples", name))
    known = part("summary", f"decoders.*.{name}")
    if known is None and name.endswith(("_low", "_high")):
        return pa.float64()
    return _kind(known)


def _of_comparison(name: str) -> Any:
    return pa.string() if name in (*HEADING, "variant") else _kind(part("summary", f"comparisons.[].{name}"))


def _kind(known: Mapping[str, Any] | None) -> Any:
    """The type of what a schema describes; JSON text where that is no single one."""
    if known and "const" in known:
        return pa.int64()  # of the schema itself
    named = [known["type"]] if known and isinstance(known.get("type"), str) else (known or {}).get("type", [])
    kinds = [one for one in named if one != "null"]
    if kinds == ["array"] and known and "items" in known:
        inner = _kind(known["items"])
        return pa.list_(inner) if known["items"].keys() <= {"type"} and "type" in known["items"] else pa.string()
    return TYPES.get(kinds[0], pa.string()) if len(kinds) == 1 else pa.string()


def _columns_of_rows() -> dict[str, Any]:
    """All columns of rows, which are the same for all results."""
    columns = dict.fromkeys(HEADING, pa.string())
    for name, known in (part("samples", "") or {})["properties"].items():
        inner = (part("samples", name) or {}).get("properties", {}) if name in FLAT else {name: known}
        columns |= {f"{name}.{key}" if name in FLAT else name: _kind(one) for key, one in inner.items()}
    return {**columns, "score": pa.float64(), "grades": pa.string()}


def _rows(run: Run) -> list[dict[str, Any]]:
    """The texts of a run with their grades, flattened; none where a summary stands alone."""
    graded = {text_key(record): record["grades"] for record in run.rows("grades")}
    return [{**heading(run), **_flat(row), **_graded(graded.get(text_key(row)))} for row in run.rows()]


def _flat(row: Row) -> dict[str, Any]:
    inner = {f"{name}.{key}": value for name in FLAT for key, value in (row.get(name) or {}).items()}
    return {**{key: value for key, value in row.items() if key not in FLAT}, **inner}


def _graded(grades: Mapping[str, float] | None) -> dict[str, Any]:
    return {"grades": grades, "score": next(iter((grades or {}).values()), None)}


def _column(values: Sequence[Any], kind: Any) -> Any:
    """In a column of text, JSON for what is no text, and half a character that a tokenizer has left as its number."""
    if kind == pa.string():
        texts = [value if value is None or isinstance(value, str) else to_json(value) for value in values]
        values = [text if text is None else text.encode("utf-8", "backslashreplace").decode() for text in texts]
    return pa.array(values, kind)
