"""The table of batches at the end of a run: throughput, latency and energy by batch size. Knows summaries alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.batch_notes import left_out_notes, metering_notes
from experiments.figure import counted
from experiments.table_style import Summary, number, plain_table, share

HEADS = ["batch", "tokens\n/s", "speed-up\non batch 1", "speed-up on\nreference", "latency\ns, mean", "p95", "row\nuse"]
HEADS += ["J/\ntoken"]


def batch_tables(summary: Summary) -> Iterator[Table]:
    """One, if windows were measured."""
    found = summary.get("batches")  # not in summaries of the first versions
    if not found or not found["decoders"]:
        return
    windows = counted(found["windows"], "window")
    table = plain_table(f"Batches: {windows}, schedule {found['schedule']}", ["variant"], HEADS)
    for label, sizes in found["decoders"].items():
        for place, one in enumerate(sizes):
            table.add_row(
                "" if place else escape(label),
                str(one["batch_size"]),
                number(one["tokens_per_second"], 1),
                _with_interval(one["speedup_over_single"]),
                _with_interval(one["speedup"]),
                number(one["latency_mean_seconds"], 2),
                number(one["latency_p95_seconds"], 2),
                share(one["row_use"]),
                number(one["joules_per_token"], 3),
            )
        table.add_section()
    yield table


def batch_notes(summary: Summary) -> Iterator[str]:
    """What the table leaves open."""
    found = summary.get("batches")
    if not found:
        return
    yield from (f"batches: {note}" for note in left_out_notes(found["left_out"]))
    every = {(label, one["batch_size"]): one for label, sizes in found["decoders"].items() for one in sizes}
    if not every:
        yield f"batches: {found['reason']}"
        return
    yield (
        f"batches: tokens/s of whole windows, prefill included; [95 %] over windows; reference: "
        f"{next(iter(every.values()))['reference']} at the same size; latency: from entering a row to the end, the "
        f"queue before it left out; row use: share of the time that rows held a text"
    )
    yield from sorted({f"batches: J/token: {one['joules_per_token_reason']}" for one in every.values()} - {NONE})
    if no_interval := {one["tokens_per_second_low_reason"] for one in every.values()} - {None}:
        yield from sorted(f"batches: {reason}" for reason in no_interval)
    yield from (f"batches: {note}" for note in metering_notes(found))
    if not summary.get("replay"):  # whose texts are the same whatever is computed
        yield from _equality(every)
    yield from found["isolation"]
    if len(found["code_versions"]) > 1:
        yield f"MIXED: windows of {len(found['code_versions'])} versions of the code"


NONE = "batches: J/token: None"


def _equality(every: Mapping[tuple[str, int], Mapping[str, Any]]) -> Iterator[str]:
    """How many texts are not those that the run wrote alone."""
    texts, differing, unexplained = (
        sum(one[key] for one in every.values()) for key in ("texts", "texts_differing", "texts_unexplained")
    )
    if not differing:
        yield f"batches: all {texts} texts are those written alone"
        return
    yield (
        f"batches: {differing} of {texts} texts leave those written alone, {differing - unexplained} of them where "
        f"less than the logits' tolerance decides"
    )
    for (label, size), one in every.items():
        if one["texts_unexplained"]:
            yield f"UNEXPLAINED: {one['texts_unexplained']} texts of {label} at batch {size} leave those written alone"


def _with_interval(found: Mapping[str, Any]) -> str:
    low, high = found["low"], found["high"]
    interval = "" if low is None or high is None else f" [{low:.2f},{high:.2f}]"
    return number(found["value"], 2) + interval
