"""What a reader of batches has to know of the meter, and of what was left out. Knows summaries alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LEAST_SECONDS = 10.0  # of a window; a counter that refreshes every 100 ms then errs by a percent
OF = {"gpu": "the GPUs in use", "cpu": "the processor's packages"}
DOUBTS = {
    "cells_disagreeing": "counter and power trace lie more than 5 % apart",
    "cells_throttled": "the GPU's clocks were held back",
}


def left_out_notes(left_out: Mapping[str, str]) -> Iterator[str]:
    """By reason; `left_out` gives that of each name."""
    for reason in dict.fromkeys(left_out.values()):
        names = [name for name, of_name in left_out.items() if of_name == reason]
        yield f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} left out: {reason}"


def metering_notes(batches: Mapping[str, Any]) -> Iterator[str]:
    """`batches` as in a summary."""
    found = batches.get("energy")
    if not found:
        return
    yield (
        f"J/token: gross, of {OF[found['source']]}{', which others use too' if found['shared'] else ''}, prefill "
        f"included; windows of {found['shortest_seconds']:.1f} s or more ({', '.join(found['methods'])})"
    )
    if found["shortest_seconds"] < LEAST_SECONDS:
        yield f"J/token: windows shorter than {LEAST_SECONDS:g} s"
    if found["windows"] < batches["windows"]:
        yield f"J/token: of {found['windows']} of {batches['windows']} windows: {'; '.join(found['failures'])}"
    yield from (f"J/token: not by the counter: {reason}" for reason in found["method_reasons"])
    if found["device_sets"] > 1:
        yield f"MIXED: J/token by batch size is of {found['device_sets']} sets of devices"
    for key, what in DOUBTS.items():
        if found[key]:
            yield f"J/token: in {found[key]} of {found['cells']} measurements {what}"
