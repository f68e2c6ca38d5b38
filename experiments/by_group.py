"""Figures of the parts of a task, such as the six groups of Spec-Bench: speed, quality, and speed-up over the baseline.

Spec-Bench's own tables (Xia et al., arXiv 2401.07851) give the speed-up for each group and overall, and so do ours. The
intervals are paired bootstraps over a group's prompts, by the same code as those of the whole run, but they are *not*
corrected for many comparisons (`corrected` says so): one of twenty misses by chance. Whoever picks a group by its
figures has not tested anything.

Knows rows; refuses to know tasks, and how the figures of rows are made (`experiments.summarise`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.acceptance import NO_DRAFT
from experiments.comparisons import Comparison, compare_all
from experiments.figure import figure
from experiments.journal import Row

Figures = Callable[[Sequence[Row]], Mapping[str, Any]]

COUNTS = ("prompts", "rows", "tokens")
TAKEN = ("tokens_per_second", "tokens_per_target_forward", "tokens_per_round", "perplexity", "distinct_2")
OF_DRAFTS = ("draft_acceptance_rate", "mean_acceptance_length")
KEPT = ("value", "low", "high", "detectable", "reason", "null", "reference", "confidence")


def by_group(rows: Mapping[str, Sequence[Row]], baseline: str, figures: Figures) -> dict[str, Any]:
    """`groups` of the summary: the figures of each group and variant; empty where no prompt belongs to a group.

    Args:
        rows: of every variant. A row whose `group` is None belongs to no group, and counts in the whole run only.
        baseline: the variant that all are compared with; with itself it has values that say so, and no intervals.
        figures: what the summary says of one variant's rows.
    """
    names = {row["group"] for of_label in rows.values() for row in of_label} - {None}
    return {"groups": {name: _group(name, rows, baseline, figures) for name in sorted(names, key=_in_order)}}


def _in_order(name: str) -> list[str]:
    """By name, numbers in it as numbers: "9 tables" stands before "10 tables"."""
    return [part.zfill(20) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _group(name: str, rows: Mapping[str, Sequence[Row]], baseline: str, figures: Figures) -> dict[str, Any]:
    """The figures of every variant on the prompts of one group."""
    inside = {label: [row for row in of_label if row["group"] == name] for label, of_label in rows.items()}
    compared = compare_all(
        [row for of_label in inside.values() for row in of_label], [(label, baseline) for label in inside]
    )
    return {
        label: {
            **_taken(figures(of_label)),
            **{found["metric"]: _uncorrected(found) for found in compared if found["decoder"] == label},
        }
        for label, of_label in inside.items()
        if of_label
    }


def _taken(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a group: less than of a whole run."""
    accepted = found["acceptance"] or {}
    return {
        **{key: found[key] for key in COUNTS},
        **{key: found[key] for name in TAKEN for key in (name, f"{name}_reason")},
        **{key: value for name in OF_DRAFTS for key, value in figure(name, accepted.get(name), NO_DRAFT).items()},
        **{key: found[key] for key in ("mean_tokens", "eos_rate", "score", "grades")},
    }


def _uncorrected(found: Comparison) -> dict[str, Any]:
    """A comparison without its p-value, which means little among so many."""
    return {**{key: found[key] for key in KEPT}, "corrected": False}
