"""The table at the end of a run, from its summary alone; readable at 100 columns, and when piped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.report import BASELINE

PIPED_COLUMNS = 100


def print_table(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """One row a variant; an interval that contains 1 is marked."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPED_COLUMNS, file=console.file)
    decoders: Mapping[str, Any] = summary["decoders"]
    baseline = BASELINE if BASELINE in decoders else list(decoders)[:2][-1]  # the first reference
    score = next(iter(decoders.values()))["score"]["name"]
    table = Table(
        box=box.SIMPLE, padding=(0, 1, 0, 0), title=escape(_title(summary)), title_justify="left", title_style="bold"
    )
    table.add_column("variant", no_wrap=True)
    speed = f"speed-up over {baseline}\n[95 % interval]" if len(decoders) > 1 else "speed-up"
    heads = (
        "tokens\n/s",
        speed,
        "perple-\nxity",
        "score",
        "dist-\ninct-2",
        "tokens/\nforward",
        "accep-\ntance",
        "J/\ntoken",
    )
    for head in heads:
        table.add_column(escape(head), justify="right")
    for label, figures in decoders.items():
        table.add_row(
            escape(label),
            _number(figures["tokens_per_second"], 1),
            escape(_speedup(summary, label, baseline)),
            _number(figures["perplexity"], 3),
            _number(figures["score"]["value"], 3),
            _number(figures["distinct_2"], 3),
            _number(figures["tokens_per_target_forward"], 2),
            _number(figures["acceptance_rate"], 3),
            _number(figures["joules_per_token"], 3),
        )
    console.print(table)
    for note in _notes(summary, baseline, score):
        console.print(note, style="dim", markup=False)


def _title(summary: Mapping[str, Any]) -> str:
    figures = next(iter(summary["decoders"].values()))
    prompts, repeats = figures["prompts"], figures["rows"] // figures["prompts"]
    texts = f"{prompts} prompts" + (f", {repeats} repeats" if repeats > 1 else "")
    return f"{summary['model']}, {summary['task']}, {texts} (run {summary['run_id']})"


def _speedup(summary: Mapping[str, Any], label: str, baseline: str) -> str:
    if label == baseline:
        return "1"
    for found in summary["comparisons"]:
        if (found["decoder"], found["reference"], found["metric"]) == (label, baseline, "speedup"):
            if found["low"] is None:
                return f"{_number(found['value'], 2)} [-]"
            mark = "*" if found["low"] <= 1 <= found["high"] else ""
            return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]{mark}"
    return "-"


def _notes(summary: Mapping[str, Any], baseline: str, score: str | None) -> list[str]:
    """What the table leaves open."""
    figures = list(summary["decoders"].values())
    speed = [
        found for found in summary["comparisons"] if (found["reference"], found["metric"]) == (baseline, "speedup")
    ]
    notes = [f"score: {score}; perplexity under the target's untruncated law; speed of decoding, prefill left out"]
    if any(found["low"] is not None and found["low"] <= 1 <= found["high"] for found in speed):
        notes.append("*: the interval contains 1")
    notes += sorted({f"[-]: {found['reason']}" for found in speed if found["reason"]})
    notes += sorted({f"perplexity: {row['perplexity_reason']}" for row in figures if row["perplexity"] is None})
    if figures[0]["joules_per_token"] is None:
        notes.append(f"J/token: {figures[0]['joules_reason']}")
    proven = {
        label: row["proven_share"] for label, row in summary["decoders"].items() if row["proven_share"] is not None
    }
    notes += [
        f"{label}: {share:.1%} of the blocks proven to be the most probable ones" for label, share in proven.items()
    ]
    if len(summary["code_versions"]) > 1:
        notes.append(f"MIXED: rows of {len(summary['code_versions'])} versions of the code")
    return notes


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
