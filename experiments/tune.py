"""Tuning: which trial of each decoder is taken, and what is measured with it.

Trials are variants of an ordinary run over prompts of its own. Speed on a few prompts is noisy, and the fastest of many
trials is partly the luckiest. So the figures of trials choose, and are never results: what they chose is measured anew
on the test prompts. Of a lossy decoder only perplexity and score are asked here; whether its texts are as varied as
others, the run itself says.

Knows variants and rows; refuses to know how a run is made (`experiments.runner`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from baselines.autoregressive import Autoregressive
from experiments.figure import mean, ratio
from experiments.journal import Row
from experiments.knobs import Search, TuneSettings, find_trials, with_options
from experiments.quality import perplexity
from experiments.report import BASELINE
from experiments.variants import Variant
from mtad.errors import UserError
from mtad.law import Sampling

SAME, BEST = "same gamma", "best each"  # groups of variants, and titles of tables
RULE = (
    "the fastest admissible trial, in tokens per second of decoding; every trial of a lossless decoder is admissible, "
    "one of a lossy decoder if its perplexity is at most 1 + loss times that of autoregressive decoding and its score "
    "at most loss below; where none is, the trial that loses least"
)
CAUTION = "these figures chose and are no results: the prompts are few, and the fastest of many trials is partly lucky"
UNTUNED = "it has none of the knobs, or their values leave no choice"


@dataclass(frozen=True)
class Trial:
    """How a trial did on the tuning prompts, beside autoregressive decoding under the same sampling.

    Attributes:
        loss: the larger of what it loses in perplexity (ratio - 1) and in score; None if its perplexity is no number.
    """

    variant: Variant
    tokens_per_second: float | None
    perplexity_ratio: float | None
    score_difference: float | None
    loss: float | None
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
    baselines = {sampling: by_label[label] for sampling, label in _baselines(searches).items()}
    choices = []
    for search in searches:
        baseline = baselines[search.variant.sampling]
        trials = tuple(_trial(trial, by_label[trial.label], baseline, loss) for trial in search.trials)
        admissible = [trial for trial in trials if trial.admissible]
        if admissible:
            best = max(admissible, key=lambda trial: trial.tokens_per_second or 0)
        else:
            best = min(trials, key=lambda trial: inf if trial.loss is None else trial.loss)
        choices.append(Choice(search, trials, best))
    return choices


def _trial(variant: Variant, rows: Sequence[Row], baseline: Sequence[Row], allowed: float) -> Trial:
    tokens = sum(len(row["token_ids"]) for row in rows)
    speed = ratio(tokens, sum(row["seconds"]["decode"] for row in rows))
    ours, theirs = perplexity(rows), perplexity(baseline)
    worse = ratio(ours, theirs) if theirs else None
    scores = [_score(rows), _score(baseline)]
    better = None if None in scores else scores[0] - scores[1]  # type: ignore[operator]
    loss = None if worse is None else max(worse - 1, -(better or 0))
    admissible = variant.decoder.lossless or (loss is not None and loss <= allowed)
    return Trial(variant, speed, worse, better, loss, admissible)


def _score(rows: Sequence[Row]) -> float | None:
    """The mean score; None if the task leaves a text without one."""
    scores = [row["score"] for row in rows]
    return None if None in scores else mean(scores)


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
    tune: TuneSettings, variants: Sequence[Variant], choices: Sequence[Choice], prompts: Sequence[str], run: str
) -> dict[str, Any]:
    """What was tried, on which prompts, what was taken and why, as JSON data.

    Args:
        variants: as asked for.
        prompts: ids of the tuning prompts.
        run: name and id of the tuning run, whose folder has the rows.
    """
    measured = {variant.label: variant for variant in tuned_variants(tune, variants, choices)}
    tuned = {choice.search.variant.label: choice for choice in choices}
    return {
        "run": run,
        "prompts": list(prompts),
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
                "perplexity_ratio": trial.perplexity_ratio,
                "score_difference": trial.score_difference,
                "admissible": trial.admissible,
            }
            for trial in choice.trials
        ],
    }


def _turned(search: Search, variant: Variant) -> Mapping[str, Any]:
    """The options that are knobs."""
    return {name: variant.options[name] for name in search.knobs}
