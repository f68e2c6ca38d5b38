"""The texts of the benchmark: an ordinary tuned run, prompt by prompt in random order, and what its rows say.

Of each variant its speed, its quality, and the time outside model forwards; of pairs of variants ratios by the paired
bootstrap over prompts. Which options count as best was chosen on tuning prompts, which these are none of.

Knows runs and rows; refuses to know how aims are judged and how tables look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.baseline import BASELINE
from experiments.benchmark.bandwidth import read_bandwidth
from experiments.benchmark.estimates import NOT_TIMED, Known, known, not_worse, of_rows, unknown
from experiments.benchmark.options import BEST, JOINT, BenchOptions
from experiments.comparisons import FIGURES, Figure, compare_all
from experiments.cost.arithmetic import Arithmetic, arithmetic
from experiments.isolation import findings
from experiments.journal import Row
from experiments.plan import Plan, prepare
from experiments.records import settled
from experiments.runner import run, tuned
from experiments.scoring import with_grades
from experiments.settings import Settings
from mtad.errors import UserError

UNTRAINED = "the weights are random, so that nothing useful is accepted and no text means anything"
NO_DRAFT = "the draft model is not used"
QUALITY = ("perplexity_ratio", "score_difference")


def _outside(row: Row) -> float | None:
    """Seconds between forwards: decisions on the host, and commits."""
    decide, commit = row["seconds"]["decide"], row["seconds"]["commit"]
    return None if decide is None else float(decide + commit)


def _per_forward(role: str) -> Figure:
    return Figure(
        lambda row: None if row["seconds"][role] is None else row["seconds"][role] * 1e3,
        lambda row: row["counts"][f"{role}_forwards"] or None,
        np.asarray,
        1,
    )


OUTSIDE = {
    "share_outside_forwards": Figure(_outside, lambda row: row["seconds"]["decode"], np.asarray, 1),
    "microseconds_outside_forwards_per_round": Figure(
        lambda row: None if (seconds := _outside(row)) is None else seconds * 1e6,
        lambda row: float(len(row["rounds"])),
        np.asarray,
        1,
    ),
    "milliseconds_per_target_forward": _per_forward("target"),
    "milliseconds_per_draft_forward": _per_forward("draft"),
}


def is_random(settings: Settings) -> bool:
    """Whether the pair, or one model of it, was never trained."""
    return any(spec.weights is not None for spec in (settings.target, settings.draft))


def measured(settings: Settings, options: BenchOptions) -> dict[str, Any]:
    """Make, finish or reuse the run, and summarise it for the benchmark. Raises UserError."""
    untrained = is_random(settings)
    if untrained:
        kept = tuple(variant for variant in settings.variants if variant.name not in options.only_trained)
        settings = replace(settings, variants=kept, tune=None)
    settings = tuned(settings)
    run(settings)
    plan = prepare(settings)
    rows = with_grades(settled(plan.folder.samples.rows(), plan.cells), plan.folder.grades.rows())
    labels = _labels(settings, options)
    ratios = [_ratio(rows, labels, first, second, untrained) for first, second in options.ratios]
    bandwidth, reached = _bandwidth(plan, rows, options)
    variants = [_variant(rows, variant.label, untrained) for variant in settings.variants]
    return {
        "run": f"{settings.name}/{plan.id}",
        "prompts": len(plan.prompts),
        "prompts_too_long": len(plan.too_long),
        "max_new_tokens": settings.max_new_tokens,
        "sampling": {variant.label: vars(variant.sampling) for variant in settings.variants}[BASELINE],
        "tuning": _tuning(settings),
        "labels": labels,
        "untrained": UNTRAINED if untrained else None,
        "isolation": findings([row["isolation"] for row in rows]),
        "variants": variants,
        "ratios": ratios,
        "bandwidth": bandwidth,
        "figures": {one["name"]: one["speed"] for one in ratios}
        | {"autoregressive / bandwidth": reached}
        | _largest(variants),
        "quality": {name: quality_of(ratios, name) for name in labels},
    }


def _labels(settings: Settings, options: BenchOptions) -> dict[str, str]:
    """The variant that a name stands for: a label itself, or "best" and a decoder's name, or "best joint"."""
    labels = {variant.label: variant.label for variant in settings.variants}
    if settings.tuning is None:
        return labels
    chosen = settings.tuning["decoders"]
    best = {f"{BEST}{label}": one["best_each"] for label, one in chosen.items()}
    candidates = [name for name in options.joint if name in chosen]
    if candidates:
        best[JOINT] = chosen[max(candidates, key=lambda name: _chosen_speed(chosen[name]))]["best_each"]
    return labels | best


def _chosen_speed(one: Mapping[str, Any]) -> tuple[bool, float]:
    """Of the trial that was chosen, on the tuning prompts; those that lose too much come last."""
    trial = next(trial for trial in one["trials"] if trial["label"] == one["chosen"])
    return one["admissible"], trial["tokens_per_second"] or 0.0


def _tuning(settings: Settings) -> dict[str, Any] | None:
    """What was chosen, and on how many prompts."""
    if settings.tuning is None:
        return None
    decoders = settings.tuning["decoders"]
    return {
        "prompts": len(settings.tuning["prompts"]),
        "rule": settings.tuning["rule"],
        "loss": settings.tuning["loss"],
        "gamma_same": settings.tuning["gamma"],
        "chosen": {label: {"trials": len(one["trials"]), **one["options"]} for label, one in decoders.items()},
        "admissible": {label: one["admissible"] for label, one in decoders.items()},
    }


def _ratio(rows: Sequence[Row], labels: Mapping[str, str], first: str, second: str, untrained: bool) -> dict[str, Any]:
    """Speed of one variant over another's, and what it loses or gains in quality beside it."""
    name = f"{first} / {second}"
    absent = next((one for one in (first, second) if one not in labels), None)
    if absent:
        reason = UNTRAINED if untrained else f"there is no {absent} in this run"
        return {"name": name, "of": None, "over": None, "speed": unknown(reason), **dict.fromkeys(QUALITY)}
    pair = labels[first], labels[second]
    both = [row for row in rows if row["variant"] in pair]
    prompts = len({row["prompt_id"] for row in both})
    found = {one["metric"]: known(one, prompts, "prompts") for one in compare_all(both, [pair])}
    if untrained:
        found |= dict.fromkeys(QUALITY, unknown(UNTRAINED))
    return {"name": name, "of": pair[0], "over": pair[1], "speed": found["speedup"]} | {
        metric: found[metric] for metric in QUALITY
    }


def quality_of(ratios: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """The verdict on a variant's quality beside autoregressive sampling; None where it was not compared with it."""
    found = next((one for one in ratios if one["name"] == f"{name} / {BASELINE}" and one["of"]), None)
    return None if found is None else not_worse(found["perplexity_ratio"], found["score_difference"])


def _variant(rows: Sequence[Row], label: str, untrained: bool) -> dict[str, Any]:
    """One variant's own figures."""
    own = [row for row in rows if row["variant"] == label]
    quality = ("perplexity", "score")
    return {
        "label": label,
        "kind": own[0]["kind"],
        "options": own[0]["options"],
        **{
            name: unknown(UNTRAINED) if untrained and name in quality else of_rows(FIGURES[name], own, "not measured")
            for name in ("tokens_per_second", "tokens_per_target_forward", *quality)
        },
        **{name: of_rows(figure, own, _why_not(name, own)) for name, figure in OUTSIDE.items()},
    }


def _why_not(name: str, rows: Sequence[Row]) -> str:
    """Why a figure of `OUTSIDE` may be missing."""
    drafts = any(row["counts"]["draft_forwards"] for row in rows)
    return NO_DRAFT if name == "milliseconds_per_draft_forward" and not drafts else NOT_TIMED


def _largest(variants: Sequence[Mapping[str, Any]]) -> dict[str, Known]:
    """The worst of our variants, those that read through sessions, by what they spend outside forwards and on drafting.

    A draft step is a level of a draft as it is grown while texts are written, whatever its width.
    """
    ours = [one for one in variants if one["kind"] == "session"]
    found = {}
    for key, name in (
        ("share_outside_forwards", "largest share outside forwards"),
        ("microseconds_outside_forwards_per_round", "largest microseconds outside forwards per round"),
        ("milliseconds_per_draft_forward", "largest draft step, milliseconds"),
    ):
        worst = max(ours, key=lambda one: one[key]["value"] or 0.0)
        found[name] = {**worst[key], "of": worst["label"]}
    return found


def _bandwidth(plan: Plan, rows: Sequence[Row], options: BenchOptions) -> tuple[dict[str, Any], Known]:
    """What the device's memory gives, and which share of it autoregressive decoding makes use of."""
    if plan.device.type != "cuda":
        reason = "asked of a GPU only: a processor's caches may hold a small pair"
        return {"gigabytes_per_second": None, "reason": reason}, unknown(reason)
    found = read_bandwidth(plan.device, options.bandwidth_bytes, options.bandwidth_repeats)
    try:
        model = arithmetic(plan.blueprint.target.config, plan.blueprint.target.dtype)
    except UserError as error:
        return found, unknown(str(error))
    own = [row for row in rows if row["variant"] == BASELINE]
    return found, of_rows(used(model, found["gigabytes_per_second"] * 1e9), own)


def used(model: Arithmetic, bytes_per_second: float) -> Figure:
    """The seconds that reading weights and cache takes at full bandwidth, over those that decoding took."""

    def ideal(row: Row) -> float:
        tokens = len(row["token_ids"])
        return tokens * model.bytes(1, row["prompt_tokens"] + tokens / 2) / bytes_per_second

    return Figure(ideal, lambda row: row["seconds"]["decode"], np.asarray, 1)
