"""The pass over the texts of a run that measures how far their blocks are from the best ones (`approximation`).

It comes after everything that is timed text by text. Its records stand in a journal of their own, one for each text, so
that it goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import accumulate
from typing import Any

from experiments.approximation import ApproximationSettings, Decided, Yardstick, measurable, spread, was_cut
from experiments.journal import Row
from experiments.process import Process
from experiments.progress import progress, say
from experiments.records import TEXT, settled, text_key
from experiments.stopping import at_once
from mtad.session import Session


def approximate(process: Process) -> None:
    """Measure the rounds of joint decoders' texts that have not been measured under these settings."""
    plan, folder, settings = process.plan, process.plan.folder, process.plan.settings.approximation
    if settings is None:
        return
    known = {text_key(record) for record in folder.approximation.rows() if record["settings"] == asdict(settings)}
    joint = {variant.label for variant in plan.settings.variants if measurable(variant.decoder)}
    rows = [row for row in settled(folder.samples.rows(), plan.cells) if row["variant"] in joint]
    todo = [row for row in rows if text_key(row) not in known]
    if not todo:
        return
    say(f"exact search beside {len(todo)} texts")
    yardsticks = _yardsticks(process, settings)
    process.begin()
    most = plan.settings.max_new_tokens
    with progress(len(rows), len(rows) - len(todo)) as advance:
        for row in todo:
            with at_once():  # the searches beside one text may read thousands of prefixes
                measured = measure_text(yardsticks[row["variant"]], plan.context(row), row, settings, most)
            key = {key: row[key] for key in TEXT}
            folder.approximation.append({**process.stamp, **key, "settings": asdict(settings), **measured})
            advance(row["variant"])


def _yardsticks(process: Process, settings: ApproximationSettings) -> dict[str, Yardstick]:
    """One for each joint decoder, all on one pair of sessions."""
    plan, pair = process.plan, process.bench.pair
    limits = plan.limits(plan.settings.max_new_tokens)
    eos = frozenset[int]() if limits.ignore_eos else limits.eos
    sessions = Session(pair.target), Session(pair.draft)
    return {
        variant.label: Yardstick(variant.decoder, variant.sampling, *sessions, eos, settings.budget)
        for variant in plan.settings.variants
        if measurable(variant.decoder)
    }


def measure_text(
    yardstick: Yardstick, prompt: list[int], row: Row, settings: ApproximationSettings, max_new_tokens: int
) -> Mapping[str, Any]:
    """What approximation.jsonl says of a text: its measured rounds, and how many a stop string has cut."""
    steps = list(decided(row, max_new_tokens))
    cut = [step.index for step in steps if was_cut(yardstick.decoder, step, yardstick.eos)]
    whole = [step.index for step in steps if step.index not in cut]
    chosen = [whole[place] for place in spread(len(whole), settings.rounds)]
    rounds = [asdict(measured) for measured in yardstick.text(prompt, steps, chosen)]
    return {"law": yardstick.law, "rounds": rounds, "cut": len(cut), "of": len(steps)}


def decided(row: Row, max_new_tokens: int) -> Iterator[Decided]:
    """The rounds of a row, with their tokens."""
    ends = accumulate(step["tokens"] for step in row["rounds"])
    for index, (step, end) in enumerate(zip(row["rounds"], ends, strict=True)):
        start = end - step["tokens"]
        yield Decided(index, start, tuple(row["token_ids"][start:end]), step["accepted"], max_new_tokens - start)
