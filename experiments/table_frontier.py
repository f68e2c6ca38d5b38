"""The tables of the frontier, from a summary: its points, and how far lossy decoders lie from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.table_compared import interval
from experiments.table_style import Summary, number, plain_table

KNOBS = {"temperature": "T", "top_p": "top-p"}
MEASURES = {"distinct_2": "distinct-2", "self_bleu": "self-BLEU"}


def frontier_tables(summary: Summary) -> Iterator[Table]:
    """Two tables, or none if the run has no frontier."""
    frontier = summary.get("frontier")
    if frontier:
        yield _points(frontier["points"])
        yield _distances(frontier["distances"])


def distances(summary: Summary) -> list[Summary]:
    """The distances of a run; none without a frontier."""
    return list((summary.get("frontier") or {"distances": []})["distances"])


def frontier_notes(found: Sequence[Summary]) -> Iterator[str]:
    """What these tables leave open."""
    absent = [(one["decoder"], one["reason"]) for one in found if one["value"] is None and one["reason"]]
    yield from (f"frontier: {label}: {reason}" for label, reason in dict.fromkeys(absent))
    if found:
        tested = sum(one["p"] is not None for one in found)
        yield (
            f"frontier: mixtures of neighbouring settings, nothing extrapolated; p of its {tested} distances corrected "
            f"by Holm together"
        )


def _points(points: Sequence[Summary]) -> Table:
    """One row for each setting of each sweep, in the knob's order."""
    title = "Frontier: autoregressive decoding along temperature and top-p"
    table = plain_table(title, ["sweep", "variant"], ["perplexity", "score", *MEASURES.values()])
    for before, point in zip([None, *points], points, strict=False):
        same = before is not None and before["knob"] == point["knob"]
        if before is not None and not same:
            table.add_section()
        table.add_row(
            "" if same else KNOBS[point["knob"]],
            escape(point["variant"]),
            *(number(point[name], 3) for name in ("perplexity", "score", *MEASURES)),
        )
    return table


def _distances(distances: Sequence[Summary]) -> Table:
    """One row for each decoder and measure of diversity."""
    heads = ("its value", "perplexity ratio", "score difference")
    table = plain_table("Distance from the frontier at equal diversity", ["variant", "diversity"], heads)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for found in distances:
        rows.setdefault((found["decoder"], found["diversity"]), {})[found["metric"]] = found
    shown = ""
    for (label, measure), of_metric in rows.items():
        at = next(iter(of_metric.values()))["at"]
        cells = (of_metric.get(metric) for metric in ("perplexity_ratio", "score_difference"))
        table.add_row(
            "" if label == shown else escape(label),
            MEASURES[measure],
            number(at, 3),
            *("-" if one is None or one["value"] is None else escape(interval(one)) for one in cells),
        )
        shown = label
    return table
