"""A row of samples.jsonl: one text that one variant wrote, as JSON data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from math import isfinite
from typing import Any

from experiments.identity import published
from experiments.journal import SCHEMA_VERSION, Row
from experiments.prompting import looks_back
from experiments.task import Prompt
from experiments.variants import Variant
from mtad.counts import Counts
from mtad.decoder import Engine, Round
from mtad.ending import Detokenise
from mtad.generate import Output
from mtad.model import Scored

BY_BLOCKS = "a text is too short for an energy counter; see the blocks of energy.jsonl"
REPLAYED = "replayed for its cost: the text is that of the trace, not the pair's own"
NOT_FINITE = "the target gives log-probabilities that are no finite numbers; a dtype with a wider range may mend that"


@dataclass(frozen=True)
class Provenance:
    """What all rows of one measuring process share."""

    run_id: str
    process_id: str
    git: str | None
    code: str
    seed: int
    weights: Mapping[str, str] = field(default_factory=dict)  # of target and draft, in words


def make_row(
    provenance: Provenance,
    variant: Variant,
    prompt: Prompt,
    turn: int,
    repeat: int,
    tokens: Sequence[int],
    output: Output,
    scored: Scored | None,
    ends: Sequence[int],
    isolation: Mapping[str, Any],
) -> Row:
    """The row of a text.

    Seconds are wall clock, phases of decoding by the device's clock; log-likelihoods are natural logs under the target
    at temperature 1. `gaps` are kept of greedy texts of lossless decoders: where one leaves the greedy path, the gap of
    the two largest logits tells float noise from a fault. `prompt_token_ids` are kept where earlier answers
    of the decoder are in them; elsewhere the task gives them. `ends` are those of `token_ends`. Without `scored` the
    text is that of a trace, and says nothing about the pair that has read it.
    """
    log_likelihoods = scored.log_likelihoods.tolist() if scored else []
    greedy = variant.sampling.greedy and variant.decoder.lossless
    return {
        "schema_version": SCHEMA_VERSION,
        **asdict(provenance),
        "variant": variant.label,
        "decoder": variant.name,
        "kind": "engine" if isinstance(variant.decoder, Engine) else "session",
        "lossless": variant.decoder.lossless,
        "options": published(variant.options),
        "sampling": asdict(variant.sampling),
        "prompt_id": prompt.id,
        "group": prompt.group,
        "turn": turn,
        "repeat": repeat,
        "prompt_tokens": len(tokens),
        "prompt_token_ids": list(tokens) if looks_back(prompt, turn) else None,
        "prompt_token_ids_reason": None if looks_back(prompt, turn) else "as the task gives them",
        "token_ids": list(output.tokens),
        "text": output.text if scored else None,
        "text_reason": None if scored else REPLAYED,
        "token_ends": list(ends),
        "finish": output.finish,
        "rounds": [_finite(_round(step)) for step in output.rounds],
        "counts": {
            "target_forwards": output.target.forwards,
            "draft_forwards": output.draft.forwards,
            "target_nodes": output.target.nodes,
            "draft_nodes": output.draft.nodes,
            "drafted": sum(step.drafted for step in output.rounds),
            "accepted": sum(step.accepted for step in output.rounds),
        },
        "seconds": {
            "prefill": output.prefill_seconds,
            "decode": output.decode_seconds,
            **output.phases,
        },
        "reads": {"target": _reads(output.target), "draft": _reads(output.draft)},
        "log_likelihoods": _finite([round(float(value), 6) for value in log_likelihoods]) if scored else None,
        "log_likelihoods_reason": (None if all(map(isfinite, log_likelihoods)) else NOT_FINITE) if scored else REPLAYED,
        "gaps": _finite([round(gap, 6) for gap in scored.gaps.tolist()]) if greedy and scored else None,
        "proof": _finite(_proof(output.rounds)),
        "joules": None,
        "joules_reason": BY_BLOCKS,
        "isolation": dict(isolation),
    }


def token_ends(detokenise: Detokenise, tokens: Sequence[int], text: str) -> list[int]:
    """Where in the text each token ends, so that a reader without the tokenizer can take it apart.

    A token that spells only a part of a character ends where the one before does.
    """
    ends: list[int] = []
    for last in range(len(tokens)):
        pairs = zip(detokenise(tokens[: last + 1]), text, strict=False)
        ends.append(max(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)), ends[-1] if ends else 0))
    return ends


def _reads(counts: Counts) -> dict[str, int]:
    """How many forwards fed how many tokens, by the number of tokens."""
    return {str(nodes): times for nodes, times in sorted(counts.reads.items())}


def _round(step: Round) -> dict[str, Any]:
    return {
        "tokens": len(step.tokens),
        "sources": [str(source) for source in step.sources],
        "drafted": step.drafted,
        "accepted": step.accepted,
        "nodes": step.nodes,
        "proof": asdict(step.proof) if step.proof else None,
        "notes": dict(step.notes),
    }


def _proof(rounds: Sequence[Round]) -> dict[str, Any] | None:
    """How many blocks were proven to be the best; the smallest lead (the gap, nats) and the largest shortfall."""
    proofs = [step.proof for step in rounds if step.proof]
    if not proofs:
        return None
    gap = min((proof.lead for proof in proofs if proof.lead is not None), default=None)
    return {
        "blocks": len(proofs),
        "proven": sum(proof.proven for proof in proofs),
        "decisive": sum(proof.decisive for proof in proofs),
        "gap": gap,
        "gap_reason": "no block has a proven lead over another" if gap is None else None,
        "max_shortfall": max(proof.shortfall for proof in proofs),
    }


def _finite(value: Any) -> Any:
    """JSON data with None for every number that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
