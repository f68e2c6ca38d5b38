"""The tables at the end of a run, from its summary alone: figures of every variant, and what they leave open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.baseline import FRONTIER, baseline_of
from experiments.memory_report import memory_notes
from experiments.quality import NO_JUDGE
from experiments.stand_in import drawn, quantized, replay_mark
from experiments.table_approximation import approximation_notes, approximation_tables
from experiments.table_batches import batch_notes, batch_tables
from experiments.table_compared import compared_with, comparison_notes, comparison_table, mark_notes, shown_of
from experiments.table_frontier import distances, frontier_notes, frontier_tables
from experiments.table_style import Summary, number, plain_table, readable, share
from experiments.table_task import task_notes, task_tables

LEAST_SECONDS = 10.0  # of a block of energy


def print_table(summary: Summary, console: Console | None = None) -> None:
    """A table of figures, one of comparisons, and what they leave open; of each group, if there are several."""
    console = readable(console)
    labels = list(summary["decoders"])
    baseline = baseline_of(labels)
    for title, shown in _groups(summary):
        shown = sorted(shown, key=lambda label: -(summary["decoders"][label]["tokens_per_target_forward"] or 0))
        console.print(_figures(summary, shown, title))
        if compared := comparison_table(compared_with(summary, baseline, shown), baseline):
            console.print(compared)
    more = (*approximation_tables(summary), *frontier_tables(summary), *task_tables(summary), *batch_tables(summary))
    for table in more:
        console.print(table)
    with_baseline, away = compared_with(summary, baseline, labels), distances(summary)
    notes = (
        *_notes(summary),
        *mark_notes(summary, [*shown_of(with_baseline), *away]),
        *comparison_notes(with_baseline),
        *approximation_notes(summary),
        *frontier_notes(away),
        *task_notes(summary),
        *batch_notes(summary),
    )
    for note in notes:
        console.print(note, style="dim", markup=False)


def _groups(summary: Summary) -> Iterator[tuple[str, list[str]]]:
    """Title and labels of each table; what belongs to no group stands in all. The frontier has tables of its own."""
    decoders = summary["decoders"].items()
    groups = {label: figures["group"] for label, figures in decoders if figures["group"] != FRONTIER}
    for group in dict.fromkeys(group for group in groups.values() if group) or [""]:
        shown = [label for label, of_label in groups.items() if of_label in ("", group)]
        yield _title(summary) + (f": {group}" if group else ""), shown


def _figures(summary: Summary, labels: Sequence[str], title: str) -> Table:
    """One row a variant, those with the most tokens for each forward of the target first."""
    judged = _judged(summary)
    heads = ["tokens\n/s", "tokens/\nforward", "accep-\ntance", "outside\nforwards", "perple-\nxity"]
    heads += [*(["judge's\nppl."] if judged else []), "score", "dist-\ninct-2", "mean\ntokens", "J/\ntoken"]
    table = plain_table(title, ["variant"], heads)
    for label in labels:
        figures = summary["decoders"][label]
        table.add_row(
            escape(label),
            number(figures["tokens_per_second"], 1),
            number(figures["tokens_per_target_forward"], 2),
            number((figures["acceptance"] or {}).get("draft_acceptance_rate"), 3),
            share(figures["outside_forwards_share"]),
            number(figures["perplexity"], 3),
            *([number(figures["judge_perplexity"], 3)] if judged else []),
            number(figures["score"]["value"], 3),
            number(figures["distinct_2"], 3),
            number(figures["mean_tokens"], 1),
            number(figures["energy"]["joules_per_token"], 3),
        )
    return table


def _judged(summary: Summary) -> bool:
    """Whether a judge has read the texts, or was to."""
    return any(figures["judge_perplexity_reason"] != NO_JUDGE for figures in summary["decoders"].values())


def _title(summary: Summary) -> str:
    figures = next(iter(summary["decoders"].values()))
    prompts, turns, repeats = figures["prompts"], figures["turns"], figures["repeats"]
    same = figures["rows"] == prompts * turns * repeats
    texts = f"{prompts} prompts"
    texts += f", {'' if same else 'up to '}{turns} turns" if turns > 1 else ""
    texts += f", {repeats} repeats" if repeats > 1 else ""
    return f"{summary['model']}, {summary['task']}, {texts} (run {summary['run_id']})"


def _notes(summary: Summary) -> Iterator[str]:
    """What the first table leaves open."""
    figures = list(summary["decoders"].values())
    yield from (f"weights in fewer bits: {line}" for line in quantized(summary.get("weights")))
    if mark := replay_mark(summary.get("replay")):
        yield (
            f"REPLAY: {mark}. Seconds and joules are of these forwards, without what decoders decide between them; "
            f"acceptance and tokens/forward are those of the trace"
        )
    elif random := drawn(summary.get("weights")):
        yield (
            f"STAND-IN: {random}: a forward costs what that shape costs; texts, perplexity, score, acceptance, "
            f"tokens/forward and what follows from them mean nothing"
        )
    score, speed = figures[0]["score"], "speed of decoding, prefill left out"
    outside = "outside forwards: share of decoding that neither model's forwards took"
    if mark:
        yield f"{speed}; {outside}; quality: {score['reason']}"
    else:
        told = f"score: {score['name'] or score['reason']}; perplexity under the target's untruncated law"
        yield f"{told}; {speed}; {outside}"
        yield from sorted({f"perplexity: {row['perplexity_reason']}" for row in figures if row["perplexity"] is None})
    if _judged(summary):
        unread = {row["judge_perplexity_reason"] for row in figures if row["judge_perplexity"] is None}
        yield from sorted(f"judge's ppl.: {reason}" for reason in unread)
        if any(row["judge_retokenised"] for row in figures):
            yield "judge's ppl.: retokenised, per token of the judge's own vocabulary"
    yield from _energy_notes([row["energy"] for row in figures])
    for proven, labels in _by_proof(summary["decoders"]).items():
        yield f"{', '.join(labels)}: {proven:.1%} of the blocks proven to be the most probable ones"
    for label, row in summary["decoders"].items():
        if row["compiled"] is False:
            yield f"{label}: not compiled on this device; a reference {{decoder: hf_static, compile: on}} would be"
        left = row["divergence"]
        if left and left["diverged"]:
            gap = number(left["largest_gap"], 4)
            yield (
                f"{label}: {left['diverged']} of {left['texts']} texts leave the greedy one, where the two largest "
                f"logits lie at most {gap} apart"
            )
        elif left:
            yield f"{label}: all {left['texts']} texts equal the greedy ones"
    tuning = summary.get("tuning") or {}
    for found in tuning.get("decoders", {}).values():
        chosen = " ".join(f"{name}={value}" for name, value in found["options"].items())
        mark = "" if found["admissible"] else "; it loses more than tune.loss, as all of its trials do"
        yield f"{found['best_each']}: {chosen}, chosen on other prompts{mark}"
    yield from memory_notes(summary)
    yield from engine_notes(summary)
    yield from (f"tuning: {finding}" for finding in tuning.get("isolation", ()))
    if len(tuning.get("code_versions", ())) > 1 or tuning.get("machines", 1) > 1:
        yield "MIXED: trials of several versions of the code or several machines"
    yield from summary["isolation"]
    if summary["machines"] > 1:
        yield f"MIXED: rows of {summary['machines']} machines; tokens/s is a blend, ratios hold within each"
    if len(summary["code_versions"]) > 1:
        yield f"MIXED: rows of {len(summary['code_versions'])} versions of the code"


def engine_notes(summary: Summary) -> Iterator[str]:
    """Which models' forwards were not recorded though that was asked for; old summaries know of no engines."""
    each = [item for engines in summary.get("engines", ()) for item in engines.items()]
    yield from dict.fromkeys(f"of the {role}, {runs['fallback']}" for role, runs in each if runs["fallback"])


def _by_proof(decoders: Summary) -> dict[float, list[str]]:
    """The variants that prove their blocks, by the share of those that they have proven."""
    found: dict[float, list[str]] = {}
    for label, row in decoders.items():
        if row["proven_share"] is not None:
            found.setdefault(row["proven_share"], []).append(label)
    return found


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
