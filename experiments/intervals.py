"""Comparisons of two variants with 95 % intervals: the paired bootstrap over prompts.

Repeats are nested: a resampled prompt brings all its repeats along. An interval that cannot be had is None, with why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

CONFIDENCE = 0.95
RESAMPLES = 4999
SEED = 0


@dataclass(frozen=True)
class Totals:
    """Sums over the repeats of each prompt, float64 [prompts]; prompts in the same order for every variant.

    Attributes:
        seconds: of decoding, prefill left out.
        log_likelihood: natural log, under the target's untruncated law; NaN where it is undefined.
        score: NaN-free; `graded` counts the rows that have one.
    """

    tokens: np.ndarray
    seconds: np.ndarray
    seconds_end_to_end: np.ndarray
    log_likelihood: np.ndarray
    score: np.ndarray
    graded: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A value and its interval; what is undefined is None, and `reason` says why."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def speedup(a: Totals, b: Totals) -> Estimate:
    """Tokens per second of decoding, a over b; ratios of sums."""
    return _estimate(_speed_ratio, a.tokens, a.seconds, b.tokens, b.seconds)


def speedup_end_to_end(a: Totals, b: Totals) -> Estimate:
    """The same, prefill included."""
    return _estimate(_speed_ratio, a.tokens, a.seconds_end_to_end, b.tokens, b.seconds_end_to_end)


def perplexity_ratio(a: Totals, b: Totals) -> Estimate:
    """Token-weighted perplexity, a over b."""
    if np.isnan(a.log_likelihood).any() or np.isnan(b.log_likelihood).any():
        return Estimate(None, reason="some tokens have no finite log-likelihood")
    return _estimate(_perplexity_ratio, a.log_likelihood, a.tokens, b.log_likelihood, b.tokens)


def score_difference(a: Totals, b: Totals) -> Estimate:
    """Mean score, a minus b."""
    if not (a.graded.all() and b.graded.all()):
        return Estimate(None, reason="the task gives no score")
    return _estimate(_mean_difference, a.score, a.graded, b.score, b.graded)


def _speed_ratio(
    tokens_a: np.ndarray, seconds_a: np.ndarray, tokens_b: np.ndarray, seconds_b: np.ndarray
) -> np.ndarray:
    return (_sum(tokens_a) / _sum(seconds_a)) / (_sum(tokens_b) / _sum(seconds_b))


def _perplexity_ratio(logp_a: np.ndarray, tokens_a: np.ndarray, logp_b: np.ndarray, tokens_b: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(_sum(logp_b) / _sum(tokens_b) - _sum(logp_a) / _sum(tokens_a)))


def _mean_difference(score_a: np.ndarray, rows_a: np.ndarray, score_b: np.ndarray, rows_b: np.ndarray) -> np.ndarray:
    return _sum(score_a) / _sum(rows_a) - _sum(score_b) / _sum(rows_b)


def _sum(x: np.ndarray) -> np.ndarray:
    return np.asarray(x.sum(axis=-1))


def _estimate(statistic: Callable[..., np.ndarray], *samples: np.ndarray) -> Estimate:
    value = float(statistic(*samples))
    if not np.isfinite(value):
        return Estimate(None, reason="undefined: a division by zero")
    if len(samples[0]) < 2:
        return Estimate(value, reason="no interval: one prompt")
    found = bootstrap(
        samples,
        lambda *resampled, axis: statistic(*resampled),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    low, high = (float(end) for end in found.confidence_interval)
    if not (np.isfinite(low) and np.isfinite(high)):
        return Estimate(value, reason="no interval: undefined in some resamples")
    if np.ptp(found.bootstrap_distribution) < 1e-12:
        return Estimate(value, reason="no interval: every prompt gives the same value")
    return Estimate(value, low, high)
