"""From what a run counted and what its parts cost apart from it to the speed-up that follows; pure arithmetic.

Of the run only counts are used: how many reads of how many nodes, tokens, and how deep drafts were accepted. Its
seconds are never looked at. With T and D the seconds of reads of target and draft, h the host's work for each read,
and h_1 that of autoregressive decoding, the baseline is one read of one node a token:

    baseline        T(1) + h_1
    round(gamma)    T'(1 + gamma m) + D'(1) + (gamma - 1) d + (gamma + 1) h
    tokens(gamma)   1 + sum of s_i for i = 1 .. gamma
    break-even      the tokens a round must bring for a speed-up of 1: round / baseline, and the acceptance alpha
                    at which (1 - alpha^(gamma + 1)) / (1 - alpha), an independent chain's mean, brings them

where a prime marks a read after one of the other model, m is the nodes that the target is asked about for each level of
the draft, d the mean cost of the draft's later reads, and s_i the probability that at least i drafted tokens are
accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from experiments.acceptance import acceptance, steps
from experiments.cost.reads import Pace
from experiments.journal import Row

Reads = Mapping[int, int]  # tokens fed in one forward -> how many such forwards

NO_VERIFICATION = "its rounds are not one draft verified by one read"
NO_DRAFT_READS = "its drafts do not come from one read of the draft model for each level"
ENDS_EARLY = "its drafts end early, before gamma tokens"
TOLERANCE = (
    0.1  # of the levels, without a read of their own; of the drafts, that a refused end token may have shortened
)


@dataclass(frozen=True)
class Tally:
    """What a run counted of one decoder.

    Attributes:
        drafts: rounds that drafted something.
        target, draft: reads by size.
        drafted_nodes, drafted_depth: sums over rounds of the nodes that the target was asked about, and of depths.
        gamma: the draft length that the decoder was given; None, for the reason `gamma_reason`, unless each round is
            the one that the formulas price: gamma levels, each from a read of the draft, verified by one read.
        conditional: P(token i accepted | those before it were, and a token i was drafted), i = 1, 2, ...; rounds that
            the end of a text cut count up to there (see `experiments.acceptance`).
    """

    tokens: int
    drafts: int
    target: Reads
    draft: Reads
    drafted_nodes: int
    drafted_depth: int
    gamma: int | None
    conditional: tuple[float, ...]
    gamma_reason: str | None = None


def tally(rows: Sequence[Row]) -> Tally:
    """Count the rows of one variant."""
    target, draft = (_reads(rows, role) for role in ("target", "draft"))
    found = [step for row in rows for step in steps(row)]
    rounds = [step for row in rows for step in row["rounds"]]
    gamma = rows[0]["options"].get("gamma")
    verifies = bool(found) and sum(target.values()) == len(rounds) and not any(step["proof"] for step in rounds)
    figures = acceptance(rows) if verifies else None
    rates = [position["conditional"] for position in figures["per_position"]] if figures else []
    levels = sum(step.drafted for step in found)
    reason = None
    if not (verifies and gamma):
        reason = NO_VERIFICATION
    elif draft and _end_early(rows, int(gamma)):
        reason = ENDS_EARLY
    elif abs(sum(draft.values()) - levels) > TOLERANCE * levels:
        reason = NO_DRAFT_READS
    return Tally(
        tokens=sum(len(row["token_ids"]) for row in rows),
        drafts=len(found),
        target=target,
        draft=draft,
        drafted_nodes=sum(step.nodes for step in found),
        drafted_depth=levels,
        gamma=None if reason else int(gamma),
        conditional=tuple(takewhile(lambda rate: rate is not None, rates)),
        gamma_reason=reason,
    )


@dataclass(frozen=True)
class Costs:
    """What the parts of a decoder's time cost, measured apart from the run.

    Attributes:
        target, draft: seconds of a read by its nodes, and by whether the other model was read before it.
        host_seconds_per_read: decisions and commits of this decoder, spread over its reads.
        baseline_seconds: of a token of autoregressive decoding: a read of one node, and the host's work for it.
    """

    target: Pace
    draft: Pace
    host_seconds_per_read: float
    baseline_seconds: float


def seconds_per_token(counted: Tally, costs: Costs) -> float:
    """Of decoding, predicted from all reads of a run."""
    reads = sum(counted.target.values()) + sum(counted.draft.values())
    forwards = sum(
        _priced(read, pace, counted.drafts)
        for read, pace in ((counted.target, costs.target), (counted.draft, costs.draft))
    )
    return (forwards + reads * costs.host_seconds_per_read) / counted.tokens


def speedup(counted: Tally, costs: Costs) -> float:
    """Predicted tokens per second over those of the baseline."""
    return costs.baseline_seconds / seconds_per_token(counted, costs)


def round_seconds(gamma: int, counted: Tally, costs: Costs) -> float:
    """A round with a draft of `gamma` levels, by the formula above; `counted` gives m and d.

    The first read of a draft is taken to be of one node; d is the mean cost of all others, D(1) where there are none.
    """
    nodes = counted.drafted_nodes / counted.drafted_depth
    later = sum(counted.draft.values()) - counted.drafts
    alone = costs.draft.steady.seconds(1)
    each = (_priced(counted.draft, costs.draft, 0) - counted.drafts * alone) / later if later > 0 else alone
    verifying = costs.target.switched.seconds(1 + gamma * nodes)
    forwards = verifying + costs.draft.switched.seconds(1) + (gamma - 1) * each
    return forwards + (gamma + 1) * costs.host_seconds_per_read


def expected_tokens(gamma: int, conditional: Sequence[float]) -> float:
    """New tokens of a round in the middle of a text; past the measured depth the last conditional rate goes on."""
    joint, tokens = 1.0, 1.0
    for position in range(gamma):
        joint *= conditional[min(position, len(conditional) - 1)]
        tokens += joint
    return tokens


def speedup_at(gamma: int, counted: Tally, costs: Costs) -> float:
    """Predicted speed-up in the middle of a text with another draft length."""
    return expected_tokens(gamma, counted.conditional) * costs.baseline_seconds / round_seconds(gamma, counted, costs)


def best_gamma(counted: Tally, costs: Costs, deepest: int) -> int:
    """The draft length of 1 .. `deepest` with the largest predicted speed-up; the smallest of equals."""
    return max(range(1, deepest + 1), key=lambda gamma: speedup_at(gamma, counted, costs))


def chain_tokens(alpha: float, gamma: int) -> float:
    """Mean new tokens of a round whose drafted tokens are each accepted with probability `alpha`, independently."""
    return sum(alpha**i for i in range(gamma + 1))


def break_even(gamma: int, counted: Tally, costs: Costs) -> tuple[float, float | None]:
    """The tokens that a round must bring for a speed-up of 1, and the alpha that brings them.

    Alpha is 0 if the target's own token is enough, and None if not even full acceptance would be.
    """
    needed = round_seconds(gamma, counted, costs) / costs.baseline_seconds
    return needed, acceptance_for(needed, gamma)


def acceptance_for(tokens: float, gamma: int) -> float | None:
    """The alpha at which `chain_tokens` are so many, by bisection; see `break_even` for the ends."""
    if tokens > gamma + 1:
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chain_tokens(middle, gamma) < tokens else (low, middle)
    return high if tokens > 1 else 0.0


def _end_early(rows: Sequence[Row], gamma: int) -> bool:
    """Whether the decoder itself ends drafts before `gamma` tokens.

    A draft may be short within reach of the text's end, where the limit or the end token cuts it. Elsewhere only a
    drafted end token that the target refused may shorten it; rows do not hold it, so a few such drafts are let pass.
    One that was accepted as a whole, while the text went on, held no end token; nor did an empty one.
    """
    short = rounds = 0
    for row in rows:
        left = len(row["token_ids"])
        for step in row["rounds"]:
            if step["drafted"] < min(gamma, left - 1):
                if step["accepted"] == step["drafted"]:
                    return True
                short += 1
            rounds += 1
            left -= step["tokens"]
    return short > TOLERANCE * rounds


def _reads(rows: Sequence[Row], role: str) -> Reads:
    sizes = sorted({int(size) for row in rows for size in row["reads"][role]})
    return {size: sum(row["reads"][role].get(str(size), 0) for row in rows) for size in sizes}


def _priced(reads: Reads, pace: Pace, switches: int) -> float:
    """Seconds of all reads of a model, of which `switches` came after the other model: the same share of each size."""
    share = min(switches / max(sum(reads.values()), 1), 1.0)
    return sum(
        times * (share * pace.switched.seconds(nodes) + (1 - share) * pace.steady.seconds(nodes))
        for nodes, times in reads.items()
    )
