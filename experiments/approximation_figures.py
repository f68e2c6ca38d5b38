"""Figures of the distance between a decoder's blocks and the best ones, from the records of approximation.jsonl.

Means are per block; their intervals are bootstraps over prompts. The mean gap is over proven blocks alone, whose best
block is certain. Unproven ones are those where the target is unsure, so leaving them out flatters the decoder: two
further means over all blocks say between what the truth lies.

Knows records; refuses to know models, decoders and searches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.approximation import NOTHING_ACCEPTED
from experiments.figure import figure, mean
from experiments.intervals import Estimate, estimate_of_sums, sums
from experiments.journal import Row
from experiments.records import text_key

EDGES = (0.0, 0.1, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6)  # of bins of entropy, nats; the last one is open
NOT_ASKED = "not asked for (approximation is null)"
NO_BLOCK = "no block has a gap"
NO_SUCH = "no prompt has such a block"
NOT_JOINT = "only blocks of mtad, mmtad and mjgd are set beside the best ones"
NO_ROUND = "no round was measured"
NO_PROVEN = "no block is proven to be the best"

Block = dict[str, Any]  # a compared block with the round and the prompt that it is of


def approximation(records: Sequence[Row], rows: Sequence[Row], asked: Mapping[str, Any] | None) -> dict[str, Any]:
    """`approximation` of one variant in the summary, with the reason where there is none.

    Args:
        records: of all variants, and of whatever settings.
        rows: those of the variant that count.
        asked: the settings whose records count.
    """
    keys = {text_key(row) for row in rows}
    ours = [record for record in records if record["settings"] == asked and text_key(record) in keys]
    return {
        "approximation": _figures(ours) if ours else None,
        "approximation_reason": None if ours else NOT_JOINT if asked else NOT_ASKED,
    }


def _figures(records: Sequence[Row]) -> dict[str, Any]:
    prompts = list(dict.fromkeys(record["prompt_id"] for record in records))
    rounds = [{**step, "prompt_id": record["prompt_id"]} for record in records for step in record["rounds"]]
    emitted, accepted = ([{**step, **step[name]} for step in rounds if step[name]] for name in ("emitted", "accepted"))
    none = NO_ROUND if not rounds else None if accepted else rounds[0]["accepted_reason"]
    refused = sum(step["accepted_reason"] == NOTHING_ACCEPTED for step in rounds)
    drafts = bool(accepted) or refused > 0
    return {
        "law": records[0]["law"],
        "rounds": len(rounds),
        "rounds_of": sum(record["of"] for record in records),
        "cut": sum(record["cut"] for record in records),
        **figure("nothing_accepted_share", refused / len(rounds) if drafts else None, none),
        **figure("entropy", mean([step["entropy"] for step in rounds]) if rounds else None, NO_ROUND),
        "accepted": {**_blocks(accepted, prompts), **_bound(accepted, prompts)} if accepted else None,
        "accepted_reason": none,
        "emitted": {**_blocks(emitted, prompts), **_forwards(emitted, prompts)} if emitted else None,
        "emitted_reason": None if emitted else NO_ROUND,
        "bins": _bins(emitted, prompts),
    }


def _blocks(blocks: Sequence[Block], prompts: Sequence[str]) -> dict[str, Any]:
    """Of the blocks of one kind, emitted or accepted."""
    found = [block for block in blocks if block["gap"] is not None]
    proven = [block for block in found if block["proven"]]
    lowest = [max(block["gap"], 0.0) for block in found]
    highest = [block["gap"] + block["shortfall"] for block in found]
    return {
        "blocks": len(blocks),
        "left_out": len(blocks) - len(found),  # read anew, a token of theirs falls outside the truncated law
        "length": mean([block["length"] for block in blocks]),
        "proven_share": mean([block["proven"] for block in blocks]),
        **_mean("gap", proven, lambda block: block["gap"], prompts, NO_PROVEN),
        **figure("gap_at_least", mean(lowest) if found else None, NO_BLOCK),
        **figure("gap_at_most", mean(highest) if found else None, NO_BLOCK),
    }


def _bound(blocks: Sequence[Block], prompts: Sequence[str]) -> dict[str, Any]:
    """What the gap is guaranteed to stay below, over the blocks whose gap is averaged."""
    bounded = [block for block in blocks if block["proven"] and block["gap"] is not None and block["bound"] is not None]
    none = next((block["bound_reason"] for block in blocks if block["bound_reason"]), NO_PROVEN)
    return _mean("bound", bounded, lambda block: block["bound"], prompts, none)


def _forwards(blocks: Sequence[Block], prompts: Sequence[str]) -> dict[str, Any]:
    """What the search for the best block costs; unproven ones count with what their budget has cost."""
    return _mean("forwards", blocks, lambda block: block["forwards"], prompts, NO_BLOCK)


def _bins(blocks: Sequence[Block], prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Of the emitted blocks, by the entropy of the target's law before them."""
    found = []
    for low, high in zip(EDGES, (*EDGES[1:], None), strict=True):
        inside = [b for b in blocks if low <= b["entropy"] and (high is None or b["entropy"] < high)]
        if inside:
            found.append(_bin(inside, low, high, prompts))
    return found


def _bin(inside: Sequence[Block], low: float, high: float | None, prompts: Sequence[str]) -> dict[str, Any]:
    """Of the blocks whose entropy is in [low, high)."""
    return {
        "from": low,
        "to": high,
        "blocks": len(inside),
        "proven": sum(block["proven"] for block in inside),
        "entropy": mean([block["entropy"] for block in inside]),
        "surprisal": -mean([block["best_log_p"] for block in inside]),
        "length": mean([block["length"] for block in inside]),
        **_forwards(inside, prompts),
        "most_forwards": max(block["forwards"] for block in inside),
    }


def _mean(
    name: str, blocks: Sequence[Block], value: Callable[[Block], float], prompts: Sequence[str], none: str
) -> dict[str, Any]:
    """The mean per block, and its interval by the bootstrap over prompts, cut at 0: below lies float noise alone."""
    table = np.zeros((len(prompts), 2))
    for block in blocks:
        table[prompts.index(block["prompt_id"])] += (value(block), 1)
    found = estimate_of_sums(_per_block, [sums(table)], null=0.0, undefined=NO_SUCH) if blocks else Estimate(None)
    reason = found.reason if blocks else none
    low = None if found.low is None or found.value is None else max(found.low, min(found.value, 0.0))
    return {name: found.value, f"{name}_low": low, f"{name}_high": found.high, f"{name}_reason": reason}


def _per_block(summed: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(summed[..., 0] / summed[..., 1])
