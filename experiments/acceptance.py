"""How much of what a decoder drafted was accepted: figures of one variant, named as in vLLM.

Names and definitions are those of vLLM's per-request acceptance metrics (docs.vllm.ai, "Per-Request Acceptance
Metrics"); what is ours besides says so. Knows rows; refuses to know decoders.

A *step* is a round that drafted something. Where the limit left room for one token only, nothing was drafted, and vLLM
does not count such rounds either. The length of a draft is the depth of its tree, which for a chain is its number of
tokens.

Rows hold what was emitted. If a text ends with an accepted token (end token, stop string), the fate of the next drafted
one is not known: it was neither accepted nor refused. Such a step is *cut* there, and counts in no figure by position
beyond. The plain sums count it with what it emitted; vLLM, which counts before the cut, has more accepted tokens there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.journal import Row

NO_DRAFT = "no round drafted a token"


@dataclass(frozen=True)
class Step:
    """A round that drafted.

    Attributes:
        tokens: emitted, accepted ones and what the target added.
        drafted: depth of the draft.
        accepted: emitted draft tokens.
        nodes: drafted nodes that the target was asked about.
        cut: the text ended with the last accepted token, so what became of the next drafted one is unknown.
    """

    tokens: int
    drafted: int
    accepted: int
    nodes: int
    cut: bool


def acceptance(rows: Sequence[Row]) -> dict[str, Any] | None:
    """The acceptance figures of one variant; None, for the reason `NO_DRAFT`, if it has no step.

    Returns:
        vLLM's num_spec_steps, num_draft_tokens, num_accepted_draft_tokens, draft_acceptance_rate (accepted / drafted),
        acceptance_histogram ([j]: steps that accepted exactly j) and acceptance_histogram_by_draft_length (the same for
        each length of draft). Ours: mean_acceptance_length, emitted tokens per step, for it is what a step yields;
        vLLM's formula 1 + accepted / steps, as mean_acceptance_length_vllm, counts one token too many where a text ends
        with an accepted token, and too few where the target adds several; per_position (see `_position`);
        drafted_nodes_per_step and draft_depth_per_step, for trees.
    """
    found = [step for row in rows for step in steps(row)]
    if not found:
        return None
    count, deepest = len(found), max(step.drafted for step in found)
    drafted, accepted = sum(step.drafted for step in found), sum(step.accepted for step in found)
    lengths = sorted({step.drafted for step in found})
    return {
        "num_spec_steps": count,
        "num_draft_tokens": drafted,
        "num_accepted_draft_tokens": accepted,
        "draft_acceptance_rate": accepted / drafted,
        "mean_acceptance_length": sum(step.tokens for step in found) / count,
        "mean_acceptance_length_vllm": 1 + accepted / count,
        "acceptance_histogram": _histogram(found, deepest),
        "acceptance_histogram_by_draft_length": {
            str(length): _histogram([step for step in found if step.drafted == length], length) for length in lengths
        },
        "per_position": [_position(found, i) for i in range(1, deepest + 1)],
        "drafted_nodes_per_step": sum(step.nodes for step in found) / count,
        "draft_depth_per_step": drafted / count,
    }


def steps(row: Row) -> list[Step]:
    """The steps of one text in order: `drafted` and `accepted` are vLLM's per_step_drafted and per_step_accepted."""
    rounds = row["rounds"]
    return [
        Step(
            tokens=step["tokens"],
            drafted=step["drafted"],
            accepted=step["accepted"],
            nodes=step["nodes"],
            cut=number == len(rounds) and step["accepted"] == step["tokens"],
        )
        for number, step in enumerate(rounds, start=1)
        if step["drafted"]
    ]


def _histogram(found: Sequence[Step], length: int) -> list[int]:
    counts = [0] * (length + 1)
    for step in found:
        counts[step.accepted] += 1
    return counts


def _position(found: Sequence[Step], position: int) -> dict[str, Any]:
    """Acceptance of the token at `position` (from 1) of a draft.

    Returns:
        steps: those whose draft reached the position. tested: of these, those that accepted all before it and were not
        cut there; accepted: of the tested, those that accepted it too; conditional: accepted / tested. joint: share of
        `steps` that accepted so far, P(accepted >= position). It is the product of the conditionals of these steps
        alone, that is, their plain share if none is cut; with cuts it is the product-limit estimate, to which a cut
        step contributes what is known of it (Kaplan and Meier 1958).
    """
    reached = [step for step in found if step.drafted >= position]
    joint: float | None = 1.0
    for i in range(1, position + 1):
        tested = [step for step in reached if step.accepted >= i - 1 and not (step.cut and step.accepted == i - 1)]
        accepted = sum(step.accepted >= i for step in tested)
        conditional = accepted / len(tested) if tested else None
        if joint:  # once it is 0 nothing accepts more, once it is unknown it stays so
            joint = None if conditional is None else joint * conditional
    reason = "no step accepted all before this position and went on"
    return {
        "position": position,
        "steps": len(reached),
        "tested": len(tested),
        "accepted": accepted,
        "conditional": conditional,
        "conditional_reason": reason if conditional is None else None,
        "joint": joint,
        "joint_reason": "every step that came so far was cut" if joint is None else None,
    }
