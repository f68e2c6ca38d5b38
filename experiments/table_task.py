"""Tables and notes of what is special to a task, from a summary: its groups, figures of its own, its prompts' origin.

Knows summaries; refuses to know rows and tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil
from textwrap import fill
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.baseline import FRONTIER
from experiments.table_style import PIPED_COLUMNS, Summary, number, plain_table

WIDEST = 9  # characters of a line of a head
BETWEEN = 2  # characters between columns
EDGES = 3  # characters at the edges of a table and after its first column
LARGE = 1000  # from which on a figure has one digit after its point
HASH_SHOWN = 12  # characters

Part = Mapping[str, Summary]  # a group of prompts, or all of them: the figures of each variant
Lines = Mapping[str, Sequence[str]]  # of a table: the cells beside each label


def task_tables(summary: Summary) -> Iterator[Table]:
    """By group the speed-up (tokens/s of a variant alone) and the score; figures of the task that are no mean."""
    parts, baseline, by = _parts(summary), _baseline(summary), summary.get("grouping", "group")
    if parts and baseline:
        speedups = _by_part(summary, lambda figures: figures["speedup"]["value"], 2)
        yield from _tables(f"Speed-up over {baseline} by {by}", [*parts], speedups, _prompts(parts))
    elif parts:
        speeds = _by_part(summary, lambda figures: figures["tokens_per_second"], 1)
        yield from _tables(f"Tokens/s by {by}", [*parts], speeds, _prompts(parts))
    if _scored(parts):
        scores = _by_part(summary, lambda figures: figures["score"]["value"], 3)
        yield from _tables(f"Score by {by}", [*parts], scores, _prompts(parts))
    if names := _own_names(summary):
        own = {label: [_own_cell(_own(summary, label).get(name)) for name in names] for label in _shown(summary)}
        yield from _tables("Figures of the task", names, own)


def task_notes(summary: Summary) -> Iterator[str]:
    """What these tables leave open, how probable the target finds the task's texts, and where the prompts come from."""
    parts = _parts(summary)
    if baseline := _baseline(summary):
        yield f"groups: speed-up of decoding over {baseline}; 95 % intervals in summary.json, not corrected"
        yield from sorted({f"groups: {reason}" for part in parts.values() for reason in _missing(part, baseline)})
    if _scored(parts):
        yield from _score_notes(parts)
    for name in _own_names(summary):
        found = [_own(summary, label).get(name, {}) for label in _shown(summary)]
        yield from sorted({f"{name}: {one['reason']}" for one in found if one.get("reason")})
    if too_long := summary.get("prompts_too_long"):
        yield f"{len(too_long)} prompts were too long for the pair and left out (skip_long=true)"
    if cut := summary.get("prompts_cut"):
        yield f"{cut} prompts lost the end of their document (task.max_prompt_tokens)"
    if teacher := summary.get("teacher_forced"):
        yield _teacher_note(teacher)
    if origin := summary.get("task_origin"):
        yield _origin_note(origin)


def _shown(summary: Summary) -> list[str]:
    """The variants; points of a frontier are left to its own tables."""
    return [label for label, figures in summary["decoders"].items() if figures["group"] != FRONTIER]


# -- groups ----------------------------------------------------------------------------------------------------


def _baseline(summary: Summary) -> str | None:
    """The variant that the others are compared with in every group; None where there are no groups, or no others."""
    groups = (summary.get("groups") or {}).values()
    references = {figures["speedup"]["reference"] for group in groups for figures in group.values()}
    return references.pop() if references and len(_shown(summary)) > 1 else None


def _missing(part: Part, baseline: str) -> Iterator[str]:
    """Why a speed-up, or its interval, is missing."""
    for found in (figures["speedup"] for label, figures in part.items() if label != baseline):
        if found["reason"]:
            yield ("-: " if found["value"] is None else "") + found["reason"]


def _parts(summary: Summary) -> dict[str, Part]:
    """The groups, and after them the whole run; empty without groups."""
    groups = summary.get("groups") or {}
    wanted = (_baseline(summary), "speedup")
    speedups = {one["decoder"]: one for one in summary["comparisons"] if (one["reference"], one["metric"]) == wanted}
    itself = {"value": 1.0}  # of the baseline
    decoders = summary["decoders"].items()
    overall = {label: {**figures, "speedup": speedups.get(label, itself)} for label, figures in decoders}
    return {**groups, "overall": overall} if groups else {}


def _by_part(summary: Summary, value: Callable[[Summary], float | None], digits: int) -> Lines:
    """A figure of every variant in every part."""
    parts = _parts(summary).values()
    return {
        label: [number(value(part[label]) if label in part else None, digits) for part in parts]
        for label in _shown(summary)
    }


def _prompts(parts: Mapping[str, Part]) -> Lines:
    """How many prompts each part has."""
    return {"prompts": [str(max(figures["prompts"] for figures in part.values())) for part in parts.values()]}


def _scored(parts: Mapping[str, Part]) -> bool:
    return any(figures["score"]["value"] is not None for part in parts.values() for figures in part.values())


def _score_notes(parts: Mapping[str, Part]) -> Iterator[str]:
    """What the scores measure, and why some are missing; parts of which the same can be said together."""
    said: dict[str, dict[str, None]] = {}
    for name, part in parts.items():
        for figures in part.values():
            said.setdefault(figures["score"]["name"] or f"- ({figures['score']['reason']})", {})[name] = None
    for what, names in said.items():
        yield f"score by group: {what}" + (f": {', '.join(names)}" if len(said) > 1 else "")


# -- figures of the task ---------------------------------------------------------------------------------------


def _own(summary: Summary, label: str) -> Mapping[str, Any]:
    """The figures that the task has made of a variant's rows, by their names."""
    return summary["decoders"][label].get("task_figures") or {}


def _own_names(summary: Summary) -> list[str]:
    return list(dict.fromkeys(name for label in _shown(summary) for name in _own(summary, label)))


def _own_cell(found: Mapping[str, Any] | None) -> str:
    """A value and its standard error."""
    if found is None or found["value"] is None:
        return "-"
    digits = 3 if abs(found["value"]) < LARGE else 1
    error = found.get("stderr")
    return number(found["value"], digits) + ("" if error is None else f" ±{number(error, digits)}")


# -- tables ----------------------------------------------------------------------------------------------------


def _tables(title: str, heads: Sequence[str], lines: Lines, last: Lines | None = None) -> Iterator[Table]:
    """A table, or several where its columns are too many for the terminal; `last` are lines below a rule."""
    last = last or {}
    every = [*lines.items(), *last.items()]
    wrapped = [_wrapped(head) for head in heads]
    widths = [
        max(map(len, (*head.split("\n"), *(cells[column] for _, cells in every))))
        for column, head in enumerate(wrapped)
    ]
    room = PIPED_COLUMNS - max(len(label) for label in ("variant", *lines, *last)) - EDGES
    for columns in _side_by_side(widths, room):
        table = plain_table(title, ["variant"], [wrapped[column] for column in columns])
        for label, cells in lines.items():
            table.add_row(escape(label), *(cells[column] for column in columns))
        if last:
            table.add_section()
        for label, cells in last.items():
            table.add_row(escape(label), *(cells[column] for column in columns))
        yield table
        title += " (continued)" * (not title.endswith("(continued)"))


def _side_by_side(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """The columns in groups that fit, at least one in each."""
    taken: list[int] = []
    for column, width in enumerate(widths):
        if taken and sum(widths[i] + BETWEEN for i in taken) + width + BETWEEN > room:
            yield taken
            taken = []
        taken.append(column)
    yield taken


def _wrapped(head: str) -> str:
    """A name in short lines; a longer word is cut into equal pieces."""
    words = (piece for word in head.replace("_", " ").split() for piece in _pieces(word))
    return fill(" ".join(words), WIDEST, break_on_hyphens=False)


def _pieces(word: str) -> Iterator[str]:
    length = ceil(len(word) / ceil(len(word) / (WIDEST - 1))) if len(word) > WIDEST else WIDEST
    for start in range(0, len(word), length):
        yield word[start : start + length] + ("-" if start + length < len(word) else "")


# -- notes -----------------------------------------------------------------------------------------------------


def _teacher_note(found: Mapping[str, Any]) -> str:
    """How probable the target finds texts that it did not write, and how many these are."""
    figures = {name: value for name, value in found.items() if not name.endswith("_reason")}
    said = ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in figures.items())
    reasons = {found[f"{name}_reason"] for name, value in figures.items() if value is None}
    return f"teacher-forced: {'; '.join([said, *sorted(reasons)])}"


def _plain(value: float | None) -> str:
    return str(value) if isinstance(value, int) else number(value, 3)


def _origin_note(origin: Mapping[str, Any]) -> str:
    """Where the prompts come from, and under which licence."""
    named = [origin[key] for key in ("id", "subset", "file") if origin.get(key)]
    revision, sha256 = origin.get("revision"), origin.get("sha256")
    said = [
        " ".join(named),
        f"revision {revision}" if revision else "",
        f"sha256 {sha256[:HASH_SHOWN]}" if sha256 else "",
        f"split {origin['split']}" if origin.get("split") else "",
        f"{origin['rows']} rows" if origin.get("rows") else "",
    ]
    return f"prompts: {', '.join(filter(None, said)) or '-'}; licence: {origin.get('licence') or 'not stated'}"
