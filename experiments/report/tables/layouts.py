"""Which tables there are: in the layout of the paper's, one line a variant. Knows experiments; computes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from experiments.baseline import FRONTIER
from experiments.report.results import Results, Run
from experiments.report.tables.approximation import approximation_table
from experiments.report.tables.batches import batch_table
from experiments.report.tables.energy import energy_table
from experiments.report.tables.figures import (
    ACCEPTANCE,
    DISTINCT,
    ENERGY_RATIO,
    HEADING,
    KIND,
    PERPLEXITY,
    PERPLEXITY_RATIO,
    SCORE,
    SCORE_DIFFERENCE,
    SECTIONS,
    SPEEDUP,
    TOKENS_PER_FORWARD,
    TOKENS_PER_ROUND,
    VARIANT,
    Figures,
    against,
    compared_cell,
    dagger,
    name_of,
    notes_of,
    other_law,
    sections_of,
)
from experiments.report.tables.table import Cell, Column, Row, Table, finished, with_best

QUALITY = (PERPLEXITY, PERPLEXITY_RATIO, SCORE, SCORE_DIFFERENCE)
PACE = (TOKENS_PER_ROUND, TOKENS_PER_FORWARD, ACCEPTANCE)
MORE = (  # for CSV only
    Column("speedup_end_to_end", "", ".2f", "higher"),
    Column("judge_perplexity_ratio", "", ".3f", "lower"),
    Column("energy_ratio_net", "", ".3f", "lower"),
    *(
        Column(key, "", "g")
        for key in (
            "tokens_per_second",
            "tokens_per_second_end_to_end",
            "joules_per_token",
            "joules_per_token_net",
            "perplexity_prompt_mean",
            "judge_perplexity",
            "self_bleu",
            "repeated_4",
            "mean_tokens",
            "eos_rate",
            "proven_share",
            "prompts",
            "repeats",
            "tokens",
        )
    ),
)
COMPARED = {  # metric -> better direction
    "judge_perplexity_ratio": "lower",
    "speedup_end_to_end": "higher",
    "energy_ratio_net": "lower",
}
MEASURES = {"distinct_2": "distinct-2", "self_bleu": "self-BLEU"}


def tables(results: Results) -> list[Table]:
    """Every table that these runs have figures for, under names of their own."""
    figures = Figures(results)
    found = [_all_runs(figures, results)]
    for run in results.runs:
        found += [_main(figures, run), *_frontier(run)]
    for experiment in dict.fromkeys(run.summary.get("experiment") for run in results.runs):
        runs = [run for run in results.runs if run.summary.get("experiment") == experiment]
        found += _by_option(figures, runs, experiment)
        if experiment == "table1":
            found.append(_table1(figures, runs))
    for layout in (batch_table, energy_table, approximation_table):
        found += layout(figures, results.runs)
    return list(_named_apart(found))


def _main(figures: Figures, run: Run) -> Table:
    """All variants of a run: quality, speed, energy and acceptance."""
    columns = (*HEADING, VARIANT, KIND, *QUALITY, SPEEDUP, ENERGY_RATIO, *PACE, DISTINCT, *MORE)
    rows = [
        figures.row(run, label, columns, SECTIONS.get(of_label["group"], of_label["group"]))
        for label, of_label in run.summary["decoders"].items()
    ]
    name, rows = _file_name("main", run.name), with_best(columns, _in_sections(rows))
    return finished(
        name, f"{_title(run)}: all decoders", columns, rows, [*against([run]), *notes_of([run]), *_tuning(run)]
    )


def _tuning(run: Run) -> Iterator[str]:
    """Which options were chosen for the run's tuned variants."""
    for found in ((run.summary.get("tuning") or {}).get("decoders") or {}).values():
        chosen = " ".join(f"{name}={value}" for name, value in found["options"].items())
        mark = "" if found["admissible"] else "; it loses more than was allowed, as all of its trials do"
        yield f"{found['best_each']}: {chosen}, chosen on other prompts{mark}"


def _table1(figures: Figures, runs: Sequence[Run]) -> Table:
    """Perplexity against the task's score."""
    columns = (*HEADING, VARIANT, KIND, *QUALITY, DISTINCT, Column("mean_tokens", "mean\ntokens", ".1f"))
    sections = sections_of(runs)
    rows = [figures.row(run, label, columns, sections[run.name]) for run in runs for label in run.summary["decoders"]]
    title = f"Perplexity against score{dagger(*runs)}"
    return finished("table1", title, columns, with_best(columns, rows), [*against(runs), *notes_of(runs)])


def _by_option(figures: Figures, runs: Sequence[Run], experiment: str | None) -> Iterator[Table]:
    """For each option that plots of these runs have along x: one line a value, after the reference."""
    along = {run.name: (run.summary.get("figure") or {}).get("x") for run in runs}
    for x in dict.fromkeys(name for name in along.values() if name):
        drawn = [run for run in runs if along[run.name] == x]
        sections = sections_of(drawn)
        columns = (*HEADING, VARIANT, Column(x, x), *QUALITY, SPEEDUP, *PACE, *_panels(drawn))
        rows = [
            figures.row(run, label, columns, sections[run.name], **{x: _option(value)})
            for run in drawn
            for label, value in _values(figures, run, x)
        ]
        if rows:
            name = _file_name(experiment or "runs", "by", x)
            title = f"{experiment or 'Runs'}{dagger(*drawn)}: by {x}"
            notes = [*against(drawn), *notes_of(drawn)]
            yield finished(name, title, columns, with_best(columns, rows), notes)


def _values(figures: Figures, run: Run, x: str) -> list[tuple[str, Any]]:
    """The variants that have an option, by decoder and value, after the reference; none if no variant has it."""
    found: list[tuple[str, Any]] = []
    reference: list[tuple[str, Any]] = []
    for label in run.summary["decoders"]:
        record = figures.variants[run.name, label]
        value = next((v for key in (f"option.{x}", f"sampling.{x}") if (v := record.get(key)) is not None), None)
        if value is not None:
            found.append((label, value))
        elif label == run.baseline:
            reference.append((label, None))

    def place(one: tuple[str, Any]) -> tuple[str, bool, float, str]:
        number = isinstance(one[1], int | float)
        decoder = run.summary["decoders"][one[0]].get("decoder") or one[0]
        return decoder, not number, one[1] if number else 0.0, str(one[1])

    return [*reference, *sorted(found, key=place)] if found else []


def _panels(runs: Sequence[Run]) -> list[Column]:
    """What else these runs are drawn by."""
    known = {column.key for column in (*QUALITY, SPEEDUP, *PACE)}
    names = dict.fromkeys(str(panel) for run in runs for panel in (run.summary["figure"].get("panels") or ()))
    return [
        next((column for column in (ENERGY_RATIO, DISTINCT) if column.key == name), None)
        or Column(name, name.replace("_", " ").replace(" ", "\n", 1), ".4g", COMPARED.get(name))
        for name in names
        if name not in known
    ]


def _frontier(run: Run) -> Iterator[Table]:
    """How far each lossy decoder lies from plain sampling of the same diversity."""
    distances = (run.summary.get("frontier") or {"distances": []})["distances"]
    metrics = (PERPLEXITY_RATIO, SCORE_DIFFERENCE)
    columns = (VARIANT, Column("at", "its\nvalue", ".3f"), *metrics)
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for found in distances:
        cells = rows.setdefault((MEASURES[found["diversity"]], found["decoder"]), {})
        at = Cell(found["at"], found["reason"] if found["at"] is None else None)
        cells |= {"at": at, found["metric"]: compared_cell(found)}
    if any(found["value"] is not None for found in distances):  # one colder control makes no frontier
        absent = Cell(None, "not compared")
        lines = [
            Row(
                (Cell(label + dagger(run)), *(cells.get(column.key, absent) for column in columns[1:])),
                f"at equal {measure}",
            )
            for (measure, label), cells in rows.items()
        ]
        notes = [
            "ratios and differences: against the best mixture of neighbouring settings of plain sampling",
            *notes_of([run]),
        ]
        name = _file_name(FRONTIER, run.name)
        yield finished(name, f"{_title(run)}: distance from the frontier", columns, _in_sections(lines), notes)


def _all_runs(figures: Figures, results: Results) -> Table:
    """One line a run: its decoder under study, and its fastest ones."""
    fastest = {True: "fastest_lossless", False: "fastest_lossy"}
    columns = (
        Column("run", "run"),
        *HEADING[1:],
        Column("pair", "pair and task"),
        VARIANT,
        PERPLEXITY_RATIO,
        SCORE_DIFFERENCE,
        SPEEDUP,
        ENERGY_RATIO,
        Column("fastest_lossless", "fastest\nlossless"),
        Column("fastest_lossless_speedup", "lossless\nspeed-up", ".2f", "higher"),
        Column("fastest_lossy", "fastest\nlossy"),
        Column("fastest_lossy_speedup", "lossy\nspeed-up", ".2f", "higher"),
    )
    rows = []
    for run in results.runs:
        own = {"pair": Cell(name_of(run))}
        for lossless, key in fastest.items():
            own[key], own[f"{key}_speedup"] = _fastest(figures, run, lossless)
        rows.append(figures.row(run, next(iter(run.summary["decoders"])), columns, "", **own))
    notes = [
        *against(results.runs),
        *notes_of(results.runs),
        *results.notes,
        "the fastest of many is partly luck, which its interval does not know",
    ]
    return finished("runs", f"All runs{dagger(*results.runs)}: the decoder under study", columns, rows, notes)


def _fastest(figures: Figures, run: Run, lossless: bool) -> tuple[Cell, Cell]:
    """Label and speed-up of the fastest variant of a kind, those of the frontier left out."""
    found = [
        (cell.value, label)
        for label, of_label in run.summary["decoders"].items()
        if of_label.get("lossless") is lossless and of_label["group"] != FRONTIER
        if not (lossless and other_law(run, label))
        if isinstance((cell := figures.compared(run, label, SPEEDUP.key)).value, int | float) and not cell.exact
    ]
    if not found:
        absent = Cell(None, "the run compares no such variant")
        return absent, absent
    label = max(found)[1]
    return Cell(label + dagger(run)), figures.compared(run, label, SPEEDUP.key)


def _in_sections(rows: Iterable[Row]) -> list[Row]:
    """Rows of one section side by side, those without a heading first."""
    rows = list(rows)
    order = ["", *dict.fromkeys(row.section for row in rows)]
    return sorted(rows, key=lambda row: order.index(row.section))


def _title(run: Run) -> str:
    first = next(iter(run.summary["decoders"].values()))
    repeats = f", {first['repeats']} repeats" if first.get("repeats", 1) > 1 else ""
    return f"{name_of(run)}, {first['prompts']} prompts{repeats} (run {run.summary['run_id']})"


def _option(value: Any) -> Cell:
    """An option's value; whole numbers without a point."""
    if value is None:
        return Cell(None, "it has no such option")
    if isinstance(value, float) and value == int(value):
        return Cell(int(value))
    return Cell(value if isinstance(value, int | float) and not isinstance(value, bool) else str(value))


def _file_name(*parts: str) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-") for part in parts)


def _named_apart(found: Iterable[Table]) -> Iterator[Table]:
    """The tables, with a number after a name that an earlier one has."""
    taken: set[str] = set()
    for table in found:
        name, number = table.name, 2
        while name in taken:
            name, number = f"{table.name}-{number}", number + 1
        taken.add(name)
        yield replace(table, name=name)
