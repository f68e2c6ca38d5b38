"""What a sample can tell: values with 95 % intervals by the bootstrap, p-values, and what it could have detected.

Resampled are units that share nothing: prompts (all variants and repeats of one come along), or rounds of energy. The
bootstrap gives the standard error, of a ratio on the log scale, and all the rest follows from it and Student's t with
n - 1 degrees, so that interval, p and the smallest detectable effect never contradict each other:

- standard error: that of the resampled values, widened by sqrt(n / (n - 1)), since resampling divides by n;
- interval: value -+ t(0.975) errors. A plain percentile interval is too narrow for small n (Hesterberg 2015,
  arXiv 1411.5279);
- p: two-sided, of "no difference"; `holm` corrects a family;
- smallest detectable effect: what one such test at the 5 % level finds with a power of 80 %.

Two ways in: `estimate` takes any statistic of samples; `estimate_of_sums` one of sums over the units, which are
resampled once and serve every comparison that they take part in. Both draw the same units.

Knows arrays; refuses to know rows. What cannot be had is None, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import bootstrap, t

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 4999
FEWEST = 5  # units; of fewer, the spread itself is hardly known
SAME_VALUE = "give the same value"  # ends the reason for no interval where nothing varies
SEED = 0
UNDEFINED = "a division by zero, or too large for a number"

Statistic = Callable[..., np.ndarray]  # arrays [..., units], or sums [..., columns] -> [...]


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
    statistic: Statistic,
    samples: Sequence[np.ndarray],
    paired: bool = True,
    null: float = 1.0,
    unit: str = "prompts",
    undefined: str = UNDEFINED,
) -> Estimate:
    """The statistic of `samples` and its interval.

    Args:
        statistic: vectorised over leading axes; not finite where it is undefined. A ratio is defined where positive.
        samples: arrays [units] that are resampled together if `paired`, each by itself otherwise; the first one's
            length counts as the sample's size.
        null: 1 for a ratio, 0 for a difference.
        unit: what the units are called in reasons.
        undefined: the reason where the statistic is not defined.
    """

    def drawn() -> np.ndarray:
        found = bootstrap(
            samples,
            lambda *resampled, axis: statistic(*resampled),
            paired=paired,
            vectorized=True,
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(SEED),
        )
        return np.asarray(found.bootstrap_distribution)

    return _estimate(float(statistic(*samples)), drawn, len(samples[0]), null, unit, undefined)


@dataclass(frozen=True)
class Sums:
    """Sums over the units of a sample, and over those of each resample; resample i is the same for all samples.

    Attributes:
        whole: [columns].
        drawn: [RESAMPLES, columns].
        units: the sample's size.
    """

    whole: np.ndarray
    drawn: np.ndarray
    units: int


def sums(table: np.ndarray) -> Sums:
    """Of a table [units, columns]."""
    return Sums(table.sum(axis=0), _times(len(table)) @ table, len(table))


def estimate_of_sums(
    statistic: Statistic, samples: Sequence[Sums], null: float = 1.0, unit: str = "prompts", undefined: str = UNDEFINED
) -> Estimate:
    """As `estimate`, paired, for a statistic of the sums [..., columns] of samples of the same units."""
    return _estimate(
        float(statistic(*(sample.whole for sample in samples))),
        lambda: statistic(*(sample.drawn for sample in samples)),
        samples[0].units,
        null,
        unit,
        undefined,
    )


@lru_cache(maxsize=2)
def _times(n: int) -> np.ndarray:
    """How often each resample takes each of n units, float64 [RESAMPLES, n]."""
    picks = np.random.default_rng(SEED).integers(0, n, (RESAMPLES, n))  # those that scipy's bootstrap takes
    cells = picks + n * np.arange(RESAMPLES)[:, None]
    return np.bincount(cells.ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n).astype(float)


def _estimate(value: float, draw: Callable[[], np.ndarray], n: int, null: float, unit: str, undefined: str) -> Estimate:
    """What a value and its resampled values, which `draw` gives if there are units enough, say together."""
    if not np.isfinite(value) or (null == 1 and value <= 0):
        return Estimate(None, reason=undefined)
    if n < FEWEST:
        return Estimate(value, reason=f"no interval: fewer than {FEWEST} {unit}")
    drawn = draw()
    if not np.isfinite(drawn).all() or (null == 1 and (drawn <= 0).any()):
        return Estimate(value, reason=f"no interval: in some resamples {undefined}")
    to, back = (np.log, np.exp) if null == 1 else (np.asarray, np.asarray)
    error = float(np.std(to(drawn), ddof=1)) * float(np.sqrt(n / (n - 1)))
    if error < 1e-12:
        return Estimate(value, reason=f"no interval: all {unit} {SAME_VALUE}")
    critical = float(t.ppf((1 + CONFIDENCE) / 2, n - 1))
    least = (critical + float(t.ppf(POWER, n - 1))) * error
    low, high = (float(back(to(value) + sign * critical * error)) for sign in (-1, 1))
    if not (np.isfinite(high) and np.isfinite(back(least))):
        return Estimate(value, reason="no interval: the spread is too large for a number")
    p = 2 * float(t.sf(abs(to(value) - to(null)) / error, n - 1))
    return Estimate(value, low, high, p, float(back(least)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the p-values of a family, made comparable with one level for all."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected
