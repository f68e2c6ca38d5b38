"""Tuning: which trial of each decoder is taken, and what is measured with it.

Trials are variants of an ordinary run over prompts of its own. Speed on a few prompts is noisy, and the fastest of many
trials is partly the luckiest. So the figures of trials choose, and are never results: what they chose is measured anew
on the test prompts. Of a lossy decoder only perplexity and score are asked here, and so few prompts rule a trial out
only by what they show: one prompt more or less is no loss. How much it loses, and whether its texts are as varied as
others, the run itself says.

Knows variants and rows; refuses to know how a run is made (`experiments.runner`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from baselines.autoregressive import Autoregressive
from experiments.baseline import BASELINE
from experiments.comparisons import Comparison, compare_all
from experiments.figure import ratio
from experiments.isolation import findings
from experiments.journal import Row
from experiments.knobs import Search, TuneSettings, find_trials, with_options
from experiments.variants import Variant
from mtad.errors import UserError
from mtad.law import Sampling

METRICS = ("perplexity_ratio", "score_difference")  # by which a trial may lose
SAME, BEST = "same gamma", "best each"  # groups of variants, and titles of tables
RULE = (
    "the fastest admissible trial, in tokens per second of decoding; every trial of a lossless decoder is admissible, "
    "one of a lossy decoder unless the tuning prompts show that it loses too much: that its perplexity is more than "
    "1 + loss times that of autoregressive decoding, or its score more than loss below, by the whole 95 % interval, or "
    "by the value where there is no interval; where none is, the trial that loses least, by the values"
)
CAUTION = "these figures chose and are no results: the prompts are few, and the fastest of many trials is partly lucky"
UNTUNED = "it has none of the knobs, or their values leave no choice"


@dataclass(frozen=True)
class Trial:
    """How a trial did on the tuning prompts, beside autoregressive decoding under the same sampling.

    Attributes:
        perplexity_ratio, score_difference: value, 95 % interval over prompts, or the reason for what is missing.
        loss: the larger of what it loses in perplexity (ratio - 1) and in score, by the values; infinite if its
            perplexity is no number.
    """

    variant: Variant
    tokens_per_second: float | None
    perplexity_ratio: Comparison
    score_difference: Comparison
    loss: float
    admissible: bool


@dataclass(frozen=True)
class Choice:
    """The trials of one variant, and the one that is taken."""

    search: Search
    trials: tuple[Trial, ...]
    best: Trial

    def __str__(self) -> str:
        label, number = self.search.variant.label, self.trials.index(self.best) + 1
        mark = "" if self.best.admissible else "; NONE is admissible, this one loses least"
        options = " ".join(f"{name}={value}" for name, value in _turned(self.search, self.best.variant).items())
        return f"tuned {label}: {options} (trial {number} of {len(self.trials)}{mark})"


def plan_trials(tune: TuneSettings, variants: Sequence[Variant], seed: int) -> list[Search]:
    """The trials of every variant that has knobs. Raises UserError."""
    found = [search for variant in variants if len((search := find_trials(tune, variant, seed)).trials) > 1]
    if not found:
        raise UserError("there is nothing to tune: no variant has any of tune.knobs, or their values leave no choice")
    labels = {variant.label for variant in variants}
    for search in found:
        if (label := _best_label(search.variant)) in labels:
            raise UserError(f"label {label!r} is that of {search.variant.label} as tuned; choose another")
    return found


def trial_variants(searches: Sequence[Search]) -> tuple[Variant, ...]:
    """What the tuning run measures: autoregressive decoding under every sampling that occurs, and all trials."""
    baselines = [_baseline(sampling, label) for sampling, label in _baselines(searches).items()]
    return (*baselines, *(trial for search in searches for trial in search.trials))


def _baselines(searches: Sequence[Search]) -> dict[Sampling, str]:
    """The label of autoregressive decoding under each sampling."""
    samplings = dict.fromkeys(search.variant.sampling for search in searches)
    return {sampling: f"{BASELINE}#{number}" for number, sampling in enumerate(samplings, 1)}


def _baseline(sampling: Sampling, label: str) -> Variant:
    return Variant(label, BASELINE, "baselines.autoregressive.Autoregressive", Autoregressive(), sampling)


def choose(searches: Sequence[Search], rows: Sequence[Row], loss: float) -> list[Choice]:
    """The trial of each variant that `RULE` takes, by the rows of the tuning run."""
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row["variant"], []).append(row)
    baselines = _baselines(searches)
    pairs = [(trial.label, baselines[trial.sampling]) for search in searches for trial in search.trials]
    compared = {(found["decoder"], found["metric"]): found for found in compare_all(rows, pairs)}
    choices = []
    for search in searches:
        trials = tuple(_trial(trial, by_label[trial.label], compared, loss) for trial in search.trials)
        admissible = [trial for trial in trials if trial.admissible]
        if admissible:
            best = max(admissible, key=lambda trial: trial.tokens_per_second or 0)
        else:
            best = min(trials, key=lambda trial: trial.loss)
        choices.append(Choice(search, trials, best))
    return choices


def _trial(
    variant: Variant, rows: Sequence[Row], compared: Mapping[tuple[str, str], Comparison], allowed: float
) -> Trial:
    speed = ratio(sum(len(row["token_ids"]) for row in rows), sum(row["seconds"]["decode"] for row in rows))
    perplexity, score = (compared[variant.label, metric] for metric in METRICS)
    loss = max(_lost(perplexity, "value", inf), _lost(score, "value", 0))
    shown = max(_lost(perplexity, "low", inf), _lost(score, "high", 0))  # the better ends of the intervals
    return Trial(variant, speed, perplexity, score, loss, variant.decoder.lossless or shown <= allowed)


def _lost(found: Comparison, end: str, unknown: float) -> float:
    """How far the value, or that end of its interval if it has one, lies on the worse side of "no difference"."""
    value = found["value"] if found[end] is None else found[end]
    if value is None:
        return unknown
    return float(value - found["null"] if found["better"] == "lower" else found["null"] - value)


def tuned_variants(
    tune: TuneSettings, variants: Sequence[Variant], choices: Sequence[Choice] = ()
) -> tuple[Variant, ...]:
    """What the run measures: every variant with the same gamma, and with the options chosen for it.

    What is the same in both groups, or was not tuned, is measured once and belongs to no group, so it stands in all
    tables. Raises UserError if a decoder refuses the gamma.
    """
    chosen = {choice.search.variant.label: choice.best.variant.decoder for choice in choices}
    measured: list[Variant] = []
    for variant in variants:
        same = variant
        if "gamma" in variant.options:
            same = replace(variant, decoder=with_options(variant, {"gamma": tune.gamma}))
        best = chosen.get(variant.label, same.decoder)
        if best == same.decoder:
            measured.append(same)
        else:
            measured.append(replace(same, group=SAME))
            measured.append(replace(variant, label=_best_label(variant), decoder=best, group=BEST))
    return tuple(measured)


def _best_label(variant: Variant) -> str:
    return f"{variant.label}-best"


def record(
    tune: TuneSettings,
    variants: Sequence[Variant],
    choices: Sequence[Choice],
    rows: Sequence[Row],
    processes: Sequence[Mapping[str, Any]],
    run: str,
) -> dict[str, Any]:
    """What was tried, on which prompts, what was taken and why, and how far the times can be trusted, as JSON data.

    Args:
        variants: as asked for.
        rows: of the tuning run.
        processes: the measuring processes as its environment.json has them.
        run: its name and id; its folder has the rows.
    """
    machines = {process["process_id"]: process.get("machine") for process in processes}
    measured = {variant.label: variant for variant in tuned_variants(tune, variants, choices)}
    tuned = {choice.search.variant.label: choice for choice in choices}
    return {
        "run": run,
        "prompts": list(dict.fromkeys(row["prompt_id"] for row in rows)),
        "code_versions": sorted({row["code"] for row in rows}),
        "machines": len({machines.get(row["process_id"]) or row["process_id"] for row in rows}),
        "isolation": findings([row["isolation"] for row in rows]),
        "trials": tune.trials,
        "gamma": tune.gamma,
        "loss": tune.loss,
        "rule": RULE,
        "caution": CAUTION,
        "decoders": {
            label: {
                "same_gamma": label,
                "best_each": best if (best := _best_label(choice.search.variant)) in measured else label,
                **_choice(choice),
            }
            for label, choice in tuned.items()
        },
        "not_tuned": {variant.label: UNTUNED for variant in variants if variant.label not in tuned},
    }


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "chosen": choice.best.variant.label,
        "options": _turned(choice.search, choice.best.variant),
        "admissible": choice.best.admissible,
        "knobs": {name: list(values) for name, values in choice.search.knobs.items()},
        "combinations": choice.search.combinations,
        "combinations_refused": choice.search.refused,
        "trials": [
            {
                "label": trial.variant.label,
                "options": _turned(choice.search, trial.variant),
                "tokens_per_second": trial.tokens_per_second,
                **_figures(trial.perplexity_ratio),
                **_figures(trial.score_difference),
                "admissible": trial.admissible,
            }
            for trial in choice.trials
        ],
    }


def _figures(found: Comparison) -> dict[str, Any]:
    """The value under the metric's name, its interval, and the reason for what is missing."""
    interval = None if found["low"] is None else [found["low"], found["high"]]
    name = found["metric"]
    return {name: found["value"], f"{name}_interval": interval, f"{name}_reason": found["reason"]}


def _turned(search: Search, variant: Variant) -> Mapping[str, Any]:
    """The options that are knobs."""
    return {name: variant.options[name] for name in search.knobs}
