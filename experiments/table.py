"""The tables at the end of a run, from its summary alone; readable at 100 columns, and when piped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.quality import NO_JUDGE
from experiments.report import BASELINE

PIPED_COLUMNS = 100
LEVEL = 0.05
LEAST_SECONDS = 10.0  # of a block of energy
METRICS = {  # of the second table: name in the summary -> name in print
    "speedup": "speed-up",
    "perplexity_ratio": "perplexity ratio",
    "judge_perplexity_ratio": "judge perplexity ratio",
    "score_difference": "score difference",
    "energy_ratio": "J/token ratio",
}
Summary = Mapping[str, Any]


def print_table(summary: Summary, console: Console | None = None) -> None:
    """A table of figures, one of comparisons, and what they leave open."""
    console = readable(console)
    decoders: Mapping[str, Any] = summary["decoders"]
    baseline = BASELINE if BASELINE in decoders else list(decoders)[:2][-1]  # the first reference
    console.print(_figures(summary))
    compared = [found for found in summary["comparisons"] if found["reference"] == baseline]
    shown = [found for found in compared if found["metric"] in METRICS and found["value"] is not None]
    if shown:
        console.print(_comparisons(shown, baseline))
    for note in (*_notes(summary), *_comparison_notes(summary, compared)):
        console.print(note, style="dim", markup=False)


def _figures(summary: Summary) -> Table:
    """One row a variant."""
    judged = _judged(summary)
    heads = ["tokens\n/s", "tokens/\nforward", "accep-\ntance", "outside\nforwards", "perple-\nxity"]
    heads += [*(["judge's\nppl."] if judged else []), "score", "dist-\ninct-2", "mean\ntokens", "J/\ntoken"]
    table = plain_table(_title(summary), ["variant"], heads)
    for label, figures in summary["decoders"].items():
        table.add_row(
            escape(label),
            _number(figures["tokens_per_second"], 1),
            _number(figures["tokens_per_target_forward"], 2),
            _number((figures["acceptance"] or {}).get("draft_acceptance_rate"), 3),
            _share(figures["outside_forwards_share"]),
            _number(figures["perplexity"], 3),
            *([_number(figures["judge_perplexity"], 3)] if judged else []),
            _number(figures["score"]["value"], 3),
            _number(figures["distinct_2"], 3),
            _number(figures["mean_tokens"], 1),
            _number(figures["energy"]["joules_per_token"], 3),
        )
    return table


def _judged(summary: Summary) -> bool:
    """Whether a judge has read the texts, or was to."""
    return any(figures["judge_perplexity_reason"] != NO_JUDGE for figures in summary["decoders"].values())


def _comparisons(shown: Sequence[Summary], baseline: str) -> Table:
    """One row for each variant and metric, against the baseline."""
    heads = ("value [95 % interval]", "smallest detectable", "p (Holm)")
    table = plain_table(f"Against {baseline}", ["variant", "metric"], heads)
    shown = sorted(shown, key=lambda found: [f["decoder"] for f in shown].index(found["decoder"]))
    for before, found in zip([None, *shown], shown, strict=False):
        same = before is not None and before["decoder"] == found["decoder"]
        table.add_row(
            "" if same else escape(found["decoder"]),
            METRICS[found["metric"]],
            escape(_interval(found)),
            _detectable(found),
            _p(found["p_holm"]),
        )
    return table


def readable(console: Console | None) -> Console:
    """The console, or the usual one; of a fixed width where the output is piped."""
    console = console or Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_COLUMNS, file=console.file)


def plain_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """A table with heads of columns of words (left) and of numbers (right)."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), title=escape(title), title_justify="left", title_style="bold")
    for head in left:
        table.add_column(head, no_wrap=True)
    for head in right:
        table.add_column(escape(head), justify="right")
    return table


def _title(summary: Summary) -> str:
    figures = next(iter(summary["decoders"].values()))
    prompts, repeats = figures["prompts"], figures["rows"] // figures["prompts"]
    texts = f"{prompts} prompts" + (f", {repeats} repeats" if repeats > 1 else "")
    return f"{summary['model']}, {summary['task']}, {texts} (run {summary['run_id']})"


def _interval(found: Summary) -> str:
    """A value and its interval; * if that contains "no difference", = if it shows no loss beyond the margin."""
    digits, sign = (2, "+") if found["null"] == 0 else (3, "")
    if found["metric"] == "speedup":
        digits = 2
    value = f"{found['value']:{sign}.{digits}f}"
    if found["low"] is None:
        return f"{value} [-]"
    mark = ("*" if _open(found) else "") + ("=" if found["no_loss"] else "")
    return f"{value} [{found['low']:{sign}.{digits}f}, {found['high']:{sign}.{digits}f}]{mark}"


def _open(found: Summary) -> bool:
    """Whether the interval contains "no difference"."""
    return found["low"] is not None and bool(found["low"] <= found["null"] <= found["high"])


def _detectable(found: Summary) -> str:
    if found["detectable"] is None:
        return "-"
    if found["null"] == 0:
        return f"±{found['detectable']:.2f}"
    return f"{1 / found['detectable']:.3f} or {found['detectable']:.3f}"


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001"


def _notes(summary: Summary) -> Iterator[str]:
    """What the first table leaves open."""
    figures = list(summary["decoders"].values())
    score = figures[0]["score"]
    yield (
        f"score: {score['name'] or score['reason']}; perplexity under the target's untruncated law; speed of decoding, "
        f"prefill left out; outside forwards: share of decoding that neither model's forwards took"
    )
    yield from sorted({f"perplexity: {row['perplexity_reason']}" for row in figures if row["perplexity"] is None})
    if _judged(summary):
        unread = {row["judge_perplexity_reason"] for row in figures if row["judge_perplexity"] is None}
        yield from sorted(f"judge's ppl.: {reason}" for reason in unread)
        if any(row["judge_retokenised"] for row in figures):
            yield "judge's ppl.: retokenised, per token of the judge's own vocabulary"
    yield from _energy_notes([row["energy"] for row in figures])
    for label, row in summary["decoders"].items():
        if row["proven_share"] is not None:
            yield f"{label}: {row['proven_share']:.1%} of the blocks proven to be the most probable ones"
        left = row["divergence"]
        if left and left["diverged"]:
            gap = _number(left["largest_gap"], 4)
            yield (
                f"{label}: {left['diverged']} of {left['texts']} texts leave the greedy one, where the two largest "
                f"logits lie at most {gap} apart"
            )
        elif left:
            yield f"{label}: all {left['texts']} texts equal the greedy ones"
    yield from summary["isolation"]
    if summary["machines"] > 1:
        yield f"MIXED: rows of {summary['machines']} machines; tokens/s is a blend, ratios hold within each"
    if len(summary["code_versions"]) > 1:
        yield f"MIXED: rows of {len(summary['code_versions'])} versions of the code"


def _energy_notes(energy: Sequence[Summary]) -> Iterator[str]:
    """How joules were measured, and what speaks against them."""
    yield from sorted(
        {f"J/token: {row['joules_per_token_reason']}" for row in energy if row["joules_per_token_reason"]}
    )
    if measured := [row for row in energy if row["joules_per_token"] is not None]:
        first, methods = measured[0], _union(measured, "methods")
        what = {"gpu": "the GPUs in use", "cpu": "the processor's packages"}[first["source"]]
        shared = ", which others use too" if any(row["shared"] for row in measured) else ""
        shortest = min(row["shortest_block_seconds"] for row in measured)
        yield (
            f"J/token: gross, of {what}{shared}, prefill included; {first['blocks']} blocks of {shortest:.1f} s or "
            f"more ({', '.join(methods)})"
        )
        if shortest < LEAST_SECONDS:
            yield f"J/token: blocks shorter than {LEAST_SECONDS:g} s"
        if (sets := max(row["device_sets"] for row in measured)) > 1:
            yield f"MIXED: blocks of energy of {sets} sets of devices; J/token is a blend, ratios hold within each"
    yield from (f"J/token: not by the counter: {reason}" for reason in _union(energy, "method_reasons"))
    yield from (f"J/token: {note}" for note in _union(energy, "notes"))
    counts = {
        "blocks_disagreeing": "blocks in which counter and power trace lie more than 5 % apart",
        "blocks_throttled": "blocks in which the GPU's clocks were held back",
        "texts_differing": "texts that came out otherwise than in the timed pass",
    }
    for key, what in counts.items():
        if found := sum(row[key] for row in energy):
            yield f"J/token: {found} {what}"
    yield from (f"J/token: a round does not count: {reason}" for reason in _union(energy, "failures"))


def _union(rows: Sequence[Summary], key: str) -> list[str]:
    """What any row lists under a key."""
    return sorted({entry for row in rows for entry in row[key]})


def _comparison_notes(summary: Summary, compared: Sequence[Summary]) -> Iterator[str]:
    """What the second table leaves open."""
    shown = [found for found in compared if found["metric"] in METRICS]
    if any(map(_open, shown)):
        yield "*: the interval contains 1, or 0 for a difference: not shown to differ"
    if any(found["no_loss"] for found in shown):
        margin, before = summary["noninferiority_margin"], summary["margin_stated_before"]
        yield f"=: no loss beyond the margin of {margin:g}" + (
            "" if before else ", which was NOT stated before measuring"
        )
    yield from sorted({f"[-]: {found['reason']}" for found in shown if found["value"] is not None and found["reason"]})
    tested = [found for found in compared if found["p"] is not None]
    if tested:
        lost = sum(found["p"] < LEVEL <= found["p_holm"] for found in tested)
        yield (
            f"p: corrected by Holm for the {len(tested)} comparisons with {tested[0]['reference']}"
            + (f", after which {lost} no longer hold at {LEVEL}" if lost else "")
            + "; detectable: by one test alone, before that correction, with a power of 80 %"
        )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
