"""The table of comparisons with the baseline, from a summary: one line for each metric, or for each variant of many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from rich.markup import escape
from rich.table import Table

from experiments.table_style import Summary, plain_table

LEVEL = 0.05
FEW = 6  # compared variants that still get a line for each metric
METRICS = {  # name in the summary -> name in print
    "speedup": "speed-up",
    "perplexity_ratio": "perplexity ratio",
    "judge_perplexity_ratio": "judge perplexity ratio",
    "score_difference": "score difference",
    "energy_ratio": "J/token ratio",
}
WIDEST = 4  # metrics side by side in 100 columns


def compared_with(summary: Summary, baseline: str, labels: Sequence[str]) -> list[Summary]:
    """The comparisons of `labels` with the baseline, in the order of the labels."""
    found = [one for one in summary["comparisons"] if one["reference"] == baseline and one["decoder"] in labels]
    return sorted(found, key=lambda one: labels.index(one["decoder"]))


def comparison_table(compared: Sequence[Summary], baseline: str) -> Table | None:
    """None if nothing can be compared."""
    shown = [found for found in compared if found["metric"] in METRICS and found["value"] is not None]
    metrics = [metric for metric in METRICS if any(found["metric"] == metric for found in shown)]
    if not shown:
        return None
    wide = len({found["decoder"] for found in shown}) > FEW and len(metrics) <= WIDEST
    return _wide(shown, metrics, baseline) if wide else _long(shown, baseline)


def _long(shown: Sequence[Summary], baseline: str) -> Table:
    """One line for each variant and metric."""
    heads = ("value [95 % interval]", "smallest detectable", "p (Holm)")
    table = plain_table(f"Against {baseline}", ["variant", "metric"], heads)
    for before, found in zip([None, *shown], shown, strict=False):
        same = before is not None and before["decoder"] == found["decoder"]
        table.add_row(
            "" if same else escape(found["decoder"]),
            METRICS[found["metric"]],
            escape(interval(found)),
            _detectable(found["detectable"], found["null"]),
            _p(found["p_holm"]),
        )
    return table


def _wide(shown: Sequence[Summary], metrics: Sequence[str], baseline: str) -> Table:
    """One line for each variant; the smallest detectable effects, in the middle of all variants, in the last one."""
    heads = [METRICS[metric].replace(" ", "\n", 1) for metric in metrics]
    table = plain_table(f"Against {baseline}", ["variant"], heads)
    cells = {(found["decoder"], found["metric"]): found for found in shown}
    for label in dict.fromkeys(found["decoder"] for found in shown):
        found = [cells.get((label, metric)) for metric in metrics]
        table.add_row(escape(label), *("-" if one is None else escape(interval(one, 2, ",")) for one in found))
    table.add_section()
    typical = []
    for metric in metrics:
        known = [one for one in shown if one["metric"] == metric and one["detectable"] is not None]
        middle = median(one["detectable"] for one in known) if known else None
        typical.append(_detectable(middle, known[0]["null"] if known else 1, digits=2))
    table.add_row("detectable", *typical)
    return table


def interval(found: Summary, digits: int = 3, comma: str = ", ") -> str:
    """A value and its interval; for the marks see `mark_notes`."""
    sign = "+" if found["null"] == 0 else ""
    if found["null"] == 0 or found["metric"] == "speedup":
        digits = 2
    value = f"{found['value']:{sign}.{digits}f}"
    if found["low"] is None:
        return f"{value} [-]"
    mark = ("*" if _open(found) else "") + ("°" if _lost(found) else "") + ("=" if found["no_loss"] else "")
    return f"{value} [{found['low']:{sign}.{digits}f}{comma}{found['high']:{sign}.{digits}f}]{mark}"


def mark_notes(summary: Summary, shown: Sequence[Summary]) -> Iterator[str]:
    """What the marks at values and intervals mean, as far as they occur."""
    if any(map(_open, shown)):
        yield "*: the interval contains 1, or 0 for a difference: not shown to differ"
    if any(map(_lost, shown)):
        yield f"°: does not hold at {LEVEL} after Holm's correction"
    if any(found["no_loss"] for found in shown):
        margin, before = summary["noninferiority_margin"], summary["margin_stated_before"]
        yield f"=: no loss beyond the margin of {margin:g}" + (
            "" if before else ", which was NOT stated before measuring"
        )
    yield from sorted({f"[-]: {found['reason']}" for found in shown if found["value"] is not None and found["reason"]})


def comparison_notes(compared: Sequence[Summary]) -> Iterator[str]:
    """What the table of comparisons leaves open."""
    tested = [found for found in compared if found["p"] is not None]
    if tested:
        lost = sum(map(_lost, tested))
        yield (
            f"p: corrected by Holm for the {len(tested)} comparisons with {tested[0]['reference']}"
            + (f", after which {lost} no longer hold at {LEVEL}" if lost else "")
            + "; detectable: by one test alone, before that correction, with a power of 80 %"
        )


def shown_of(compared: Sequence[Summary]) -> list[Summary]:
    """Those that the table has a place for."""
    return [found for found in compared if found["metric"] in METRICS]


def _lost(found: Summary) -> bool:
    """Whether the correction takes it back."""
    return found["p"] is not None and found["p_holm"] is not None and bool(found["p"] < LEVEL <= found["p_holm"])


def _open(found: Summary) -> bool:
    """Whether the interval contains "no difference"."""
    return found["low"] is not None and bool(found["low"] <= found["null"] <= found["high"])


def _detectable(least: float | None, null: float, digits: int = 3) -> str:
    if least is None:
        return "-"
    return f"±{least:.2f}" if null == 0 else f"{1 / least:.{digits}f} or {least:.{digits}f}"


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001"
