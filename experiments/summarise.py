"""From the records of a run to its summary. Reads rows only; refuses to know models and tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.acceptance import NO_DRAFT, acceptance
from experiments.baseline import BASELINE, FRONTIER, baseline_of
from experiments.by_group import by_group
from experiments.comparisons import compare_all, correct_together, own_intervals
from experiments.energy_report import Energy
from experiments.figure import figure, mean, ratio
from experiments.frontier import frontier
from experiments.isolation import findings
from experiments.journal import SCHEMA_VERSION, Row, to_json
from experiments.quality import divergence, quality, replayed

# What users would run otherwise: every variant is compared with those of them that are there.
YARDSTICKS = ("speculative", "hf_generate", "hf_static", "hf_assisted")
NO_GROUPS: Mapping[str, str] = {}
VARIANT = ("decoder", "options", "sampling", "kind", "lossless")  # what a row says of the variant that wrote it
DECODE, WHOLE = ("decode",), ("prefill", "decode")
UNTIMED = "this engine's forwards are not timed one by one"
NO_GREEDY = "only lossless decoders under greedy sampling, beside autoregressive decoding under the same"


def summarise(
    rows: Sequence[Row],
    run_id: str,
    model: str,
    task: str,
    labels: Sequence[str],
    processes: Sequence[Mapping[str, Any]] = (),
    margin: float | None = None,
    energy: Energy | None = None,
    groups: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of summary.json.

    Args:
        labels: the decoder under study first, then its references.
        processes: the measuring processes as environment.json has them.
        margin: what still counts as no loss.
        energy: the records of the energy pass.
        groups: of variants, by label (see `Variant`).
    """
    energy, groups = energy or Energy([], labels), groups or {}
    by_label = {label: [row for row in rows if row["variant"] == label] for label in labels}
    pairs = compared(labels, groups)
    decoders = {
        label: {"group": groups.get(label, ""), **_decoder(of_label, rows), "energy": energy.figures(label)}
        for label, of_label in by_label.items()
    }
    measured = {row["process_id"] for row in (*rows, *energy.blocks)}
    known = {process["process_id"]: process for process in processes}
    wrote = [known.get(process_id, {}) for process_id in {row["process_id"] for row in rows}]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "model": model,
        "task": task,
        "code_versions": sorted({row["code"] for row in (*rows, *energy.blocks)}),
        "processes": len(measured),
        "machines": len({known.get(process_id, {}).get("machine", process_id) for process_id in measured}),
        "engines": _distinct(process.get("engines") for process in wrote),
        "torch_threads": _distinct(process.get("torch_threads") for process in wrote),
        "isolation": [
            *findings([row["isolation"] for row in rows]),
            *findings([block["isolation"] for block in energy.blocks], "blocks of energy"),
        ],
        "decoders": decoders,
        "noninferiority_margin": margin,
        # A margin chosen after a look at the figures proves nothing.
        "margin_stated_before": None
        if margin is None
        else all(process.get("noninferiority_margin") == margin for process in wrote),
        "comparisons": correct_together([*compare_all(rows, pairs), *energy.compare(pairs)], margin),
        **frontier(by_label, decoders, margin),
        **by_group(by_label, baseline_of(labels), lambda of_group: _decoder(of_group, ())),
    }


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Every known value once; processes of older versions, or that loaded no pair, have told none."""
    found = {to_json(value): value for value in values if value is not None}
    return [found[key] for key in sorted(found)]


def compared(labels: Sequence[str], groups: Mapping[str, str] = NO_GROUPS) -> list[tuple[str, str]]:
    """The pairs (variant, reference) that are compared, those with one reference together.

    Every variant is compared with the baseline and with the yardsticks; the decoder under
    study (and its tuned form, which follows it) with every reference. Points of a frontier are compared with the
    baseline alone, and nothing with them.
    """
    variants = [label for label in labels if groups.get(label) != FRONTIER]
    baseline = baseline_of(labels)
    group = groups.get(labels[0], "")
    studied = [labels[0], *(label for label in variants[1:2] if group and groups.get(label, group) not in ("", group))]
    references = dict.fromkeys([*variants[1:], *(label for label in variants if label == BASELINE)])
    return [
        (label, reference)
        for reference in references
        for label in (labels if reference == baseline else variants if reference in YARDSTICKS else studied)
        if label != reference
    ]


def _decoder(rows: Sequence[Row], all_rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of one variant."""
    tokens = sum(len(row["token_ids"]) for row in rows)
    rounds = sum(len(row["rounds"]) for row in rows)
    counts = {key: sum(row["counts"][key] for row in rows) for key in rows[0]["counts"]}
    blocks = sum(row["proof"]["blocks"] for row in rows if row["proof"])
    proven = sum(row["proof"]["proven"] for row in rows if row["proof"])
    accepted = acceptance(rows)
    return {
        **{key: rows[0].get(key) for key in VARIANT},  # not all are in rows of the first versions
        **figure("compiled", _compiled(rows[0]), "it is no decoder that might compile its forward"),
        "prompts": len({row["prompt_id"] for row in rows}),
        "turns": max(row["turn"] for row in rows) + 1,  # of the longest prompt
        "repeats": len({row["repeat"] for row in rows}),
        "rows": len(rows),
        "tokens": tokens,
        **_time(rows, tokens, rounds),
        "score": _score(rows),
        "grades": {
            name: mean([row["grades"][name] for row in rows])
            for name in rows[0]["grades"]
            if all(name in row["grades"] for row in rows)
        },
        **quality(rows),
        **figure("tokens_per_target_forward", ratio(tokens, counts["target_forwards"]), "no forward was counted"),
        **figure("tokens_per_round", ratio(tokens, rounds), "no round was counted"),
        "acceptance": accepted,
        "acceptance_reason": None if accepted else NO_DRAFT,
        "counts": counts,
        **figure("proven_share", ratio(proven, blocks), "proves nothing"),
        **_divergence(rows, all_rows),
        "intervals": own_intervals(rows),
    }


def _compiled(row: Row) -> bool | None:
    """Whether an engine compiled its forward; its first round says so."""
    notes: Mapping[str, bool] = row["rounds"][0].get("notes", {}) if row["rounds"] else {}
    return notes.get("compiled")


def _time(rows: Sequence[Row], tokens: int, rounds: int) -> dict[str, Any]:
    """Speed, and where the time of decoding went."""
    phases = {phase: [row["seconds"][phase] for row in rows] for phase in rows[0]["seconds"]}
    seconds = {phase: None if None in values else sum(values) for phase, values in phases.items()}
    decode, whole = (sum(row["seconds"][phase] for row in rows for phase in named) for named in (DECODE, WHOLE))
    target, draft = seconds["target"], seconds["draft"]
    untimed = target is None or draft is None
    outside = None if target is None or draft is None else decode - target - draft
    none = "no time was measured"
    return {
        **figure("tokens_per_second", ratio(tokens, decode), none),
        **figure("tokens_per_second_end_to_end", ratio(tokens, whole), none),
        "seconds": seconds,
        **figure("outside_forwards_share", ratio(outside, decode), UNTIMED if untimed else none),
        **figure(
            "outside_forwards_microseconds_per_round",
            ratio(None if outside is None else outside * 1e6, rounds),
            UNTIMED if untimed else "no round was counted",
        ),
    }


def _divergence(rows: Sequence[Row], all_rows: Sequence[Row]) -> dict[str, Any]:
    """Where a lossless decoder left the texts of greedy autoregressive decoding."""
    baseline = [
        row
        for row in all_rows
        if row["decoder"] == BASELINE and row["sampling"] == rows[0]["sampling"] and row["gaps"] is not None
    ]
    ours = all(row["gaps"] is not None and row["decoder"] != BASELINE for row in rows)
    return {
        "divergence": divergence(rows, baseline) if ours and baseline else None,
        "divergence_reason": None if ours and baseline else NO_GREEDY,
    }


def _score(rows: Sequence[Row]) -> dict[str, Any]:
    """The task's headline score: the first of its grades."""
    scores = [row["score"] for row in rows if row["score"] is not None]
    names = {name for row in rows for name in list(row["grades"])[:1]}
    if replayed(rows):
        return {"name": None, "value": None, "reason": rows[0]["text_reason"]}
    if len(scores) < len(rows) or len(names) > 1:
        reason = (
            "the task gives some texts no score, or none"
            if len(names) < 2
            else f"of several kinds: {', '.join(sorted(names))}"
        )
        return {"name": None, "value": None, "reason": reason}
    return {"name": names.pop(), "value": mean(scores), "reason": None}
