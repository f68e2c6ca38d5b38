"""A row of trace.jsonl: what one text read and committed, so that its forwards can be done again by another pair.

docs/replay.md states the format. Knows steps and rows; refuses to know what a trace is used for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from experiments.identity import published
from experiments.journal import SCHEMA_VERSION, Row
from experiments.plan import Plan
from experiments.variants import Variant
from mtad.generate import Output
from mtad.recording import Noted, Step
from mtad.session import Begin
from mtad.tree import Tree

COPIED = ("run_id", "process_id", "git", "code", "seed", "variant", "decoder", "lossless")
OF_TEXT = ("prompt_id", "group", "turn", "repeat", "prompt_tokens", "finish")
BY_ITSELF = "another library wrote the text: what its forwards read is not known"


def trace_row(plan: Plan, variant: Variant, sample: Row, output: Output) -> Row:
    """The trace beside the row `sample` of the same text."""
    decoder, steps = variant.decoder, output.steps
    return {
        "schema_version": SCHEMA_VERSION,
        **{key: sample[key] for key in COPIED},
        "options": published(variant.options),
        "sampling": asdict(variant.sampling),
        "place": plan.labels.index(variant.label),
        "variant_group": variant.group,
        "joint": decoder.joint,
        "drafts": decoder.drafts,
        "warp": asdict(variant.sampling.warp(decoder.joint)),
        "pair": plan.settings.model,
        "task": plan.settings.task_name,
        **{key: sample[key] for key in OF_TEXT},
        "steps": None if steps is None else [step_row(step) for step in steps],
        "steps_reason": BY_ITSELF if steps is None else None,
    }


def step_row(step: Step) -> dict[str, Any]:
    """A step as JSON data."""
    rounds = [
        {
            "tokens": list(one.tokens),
            "sources": [str(source) for source in one.sources],
            "drafted": one.drafted,
            "accepted": one.accepted,
            "nodes": one.nodes,
        }
        for one in step.rounds
    ]
    return {"reads": list(_reads(step)), "rounds": rounds}


def _reads(step: Step) -> Iterator[dict[str, Any]]:
    """Every read, as what it adds to the tree that the same model has read last in this step."""
    last = {True: (Tree(), 1), False: (Tree(), 1)}
    for note in step.reads:
        for level, nodes in enumerate(_sizes(note)):
            keeps = _shared(*last[note.draft], note.tree, nodes)
            yield {
                "model": "draft" if note.draft else "target",
                "raw": note.raw,
                "grows": None if level or note.begin is None else _grows(note.begin),
                "keeps": keeps,
                "parents": note.tree.parents[keeps:nodes],
                "tokens": note.tree.tokens[keeps:nodes],
            }
            last[note.draft] = (note.tree, nodes)


def _grows(read: Begin) -> dict[str, Any]:
    """What the draft was to be like that this read begins."""
    return {"width": read.growth.width, "draws": read.growth.draws, "levels": read.levels}


def _sizes(note: Noted) -> list[int]:
    """Nodes of the trees that stand for a read: of one drafted in one go, the tree above each of its levels."""
    if not note.whole:
        return [note.nodes]
    depths = note.tree.depths  # level by level
    return [sum(depth <= level for depth in depths) for level in range(max(depths))]


def _shared(before: Tree, read: int, tree: Tree, nodes: int) -> int:
    """How many first nodes the first `nodes` of a tree have in common with the first `read` of the one before."""
    both = min(read, nodes)
    if before is tree:
        return both
    pairs = zip(before.parents[:both], before.tokens[:both], tree.parents[:both], tree.tokens[:both], strict=True)
    return next((node for node, (p, t, parent, token) in enumerate(pairs) if (p, t) != (parent, token)), both)
