"""What a sample can tell: values with 95 % intervals by the bootstrap, p-values, and what it could have detected.

Resampled are units that share nothing: prompts (all variants and repeats of one come along), or blocks of energy. Knows
arrays; refuses to know rows. What cannot be had is None, with the reason.

- Interval: percentile bootstrap, expanded for small samples (Hesterberg 2015, arXiv 1411.5279). A plain percentile
  interval of n units is too narrow: it divides the variance by n and takes Student's t of n - 1 degrees for normal. So
  its level is raised to that of a normal interval as wide as the t-interval.
- p: two-sided, of the bootstrap's standard error and Student's t; ratios on the log scale. `holm` corrects a family.
- Smallest detectable effect: the one that such a test at the 5 % level finds with a power of 80 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap, norm, t

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 4999
FEWEST = 5  # units; below, the extremes of a sample hold a mean less often than in 95 % of the cases
SEED = 0

Statistic = Callable[..., np.ndarray]  # arrays [..., units] -> [...]


@dataclass(frozen=True)
class Estimate:
    """A value, its interval, and what stands behind it; what is undefined is None, and `reason` says why.

    Attributes:
        p: two-sided, of the null hypothesis that the value is 1 (ratios) or 0 (differences); not corrected.
        detectable: the smallest effect that the sample could have detected: a ratio > 1, or a distance from 0.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    detectable: float | None = None
    reason: str | None = None


def estimate(
    statistic: Statistic, samples: Sequence[np.ndarray], paired: bool = True, null: float = 1.0, unit: str = "prompts"
) -> Estimate:
    """The statistic of `samples` and its interval.

    Args:
        statistic: vectorised over leading axes; ratios must be positive.
        samples: arrays [units] that are resampled together if `paired`, each by itself otherwise; the first one's
            length counts as the sample's size.
        null: 1 for a ratio, 0 for a difference.
        unit: what the units are called in reasons.
    """
    value = float(statistic(*samples))
    n = len(samples[0])
    if not np.isfinite(value) or (null == 1 and value <= 0):
        return Estimate(None, reason="undefined: a division by zero")
    if n < FEWEST:
        return Estimate(value, reason=f"no interval: fewer than {FEWEST} {unit}")
    found = bootstrap(
        samples,
        lambda *resampled, axis: statistic(*resampled),
        paired=paired,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=expanded(CONFIDENCE, n),
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    drawn = found.bootstrap_distribution
    if not np.isfinite(drawn).all() or (null == 1 and (drawn <= 0).any()):
        return Estimate(value, reason="no interval: undefined in some resamples")
    scale = np.log if null == 1 else np.asarray
    error = float(np.std(scale(drawn), ddof=1)) * _widening(n)
    if error < 1e-12:
        return Estimate(value, reason=f"no interval: all {unit} give the same value")
    p = 2 * float(t.sf(abs(float(scale(np.array(value)) - scale(np.array(null)))) / error, n - 1))
    least = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) + t.ppf(POWER, n - 1)) * error
    low, high = (float(end) for end in found.confidence_interval)
    return Estimate(value, low, high, p, float(np.exp(least)) if null == 1 else least)


def expanded(confidence: float, n: int) -> float:
    """The level at which a percentile interval of n units is as wide as a t-interval of level `confidence`."""
    return 1 - 2 * float(norm.sf(_widening(n) * t.ppf((1 + confidence) / 2, n - 1)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the p-values of a family, made comparable with one level for all."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected


def _widening(n: int) -> float:
    """A bootstrap's variance is that of n degrees of freedom, an unbiased one that of n - 1."""
    return float(np.sqrt(n / (n - 1)))
