"""Finding and reading traces: from trace.jsonl to the texts to be replayed. Changes no byte of what it reads.

Every line is checked by itself, for traces come from elsewhere. Knows the format (docs/replay.md) and token ids;
refuses to know pairs, settings and results.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from experiments.baseline import FRONTIER
from experiments.build import construct
from experiments.journal import SCHEMA_VERSION, Row, disk
from experiments.records import TRACE_KEYS, settled
from experiments.replay.decoder import Asked, Grows, Step
from mtad.decoder import Round, Source
from mtad.errors import UserError
from mtad.growth import Draws
from mtad.law import Sampling
from mtad.options import one_of
from mtad.tree import Tree

NAME = "trace.jsonl"
DEPTH = 2  # folders between results_dir and a run's files
NAMES = ("variant", "variant_group", "prompt_id", "process_id", "run_id", "pair", "task")
OF_QUALITY = "a point of the frontier is there for its texts, and costs what autoregressive decoding costs"
SHOWN = 5  # traces that a message names


@dataclass(frozen=True)
class TracedText:
    """One text of a trace.

    Attributes:
        label: of the variant that wrote it; decoder to lossless are the variant's too.
        place: of the variant among the run's; 0 is the decoder under study.
        variant_group: which of several tables it stands in.
        prompt_tokens: how many the prompt had.
        finish: why it ended.
        steps: in order.
    """

    label: str
    place: int
    variant_group: str
    decoder: str
    options: dict[str, Any]
    sampling: Sampling
    joint: bool
    drafts: bool
    lossless: bool
    prompt_id: str
    group: str | None
    turn: int
    repeat: int
    prompt_tokens: int
    finish: str
    steps: tuple[Step, ...]

    @property
    def length(self) -> int:
        """New tokens."""
        return sum(len(one.tokens) for step in self.steps for one in step.rounds)

    @property
    def positions(self) -> int:
        """Up to the deepest node that was read."""
        written, deepest = 0, self.prompt_tokens + self.length
        for step in self.steps:
            deepest = max(deepest, self.prompt_tokens + written + _depth(step))
            written += sum(len(one.tokens) for one in step.rounds)
        return deepest

    @property
    def ids(self) -> set[int]:
        """All token ids that occur."""
        read = {token for step in self.steps for asked in step.reads for token in asked.tokens}
        return read | {token for step in self.steps for one in step.rounds for token in one.tokens}


@dataclass(frozen=True)
class Trace:
    """The texts of one run.

    Attributes:
        sha256: of the file.
        run_id, pair, task, seed: of the run.
        texts: whole prompts only, in the order in which they were written.
        left_out: variants that are not replayed, with the reason.
    """

    sha256: str
    run_id: str
    pair: str
    task: str
    seed: int
    texts: tuple[TracedText, ...]
    left_out: Mapping[str, str]

    @property
    def labels(self) -> list[str]:
        """The variants, the one under study first."""
        return list(dict.fromkeys(text.label for text in sorted(self.texts, key=lambda text: text.place)))


def find_trace(place: Path) -> Path:
    """The trace that a file, a run's folder, or a folder with exactly one traced run is. Raises UserError."""
    if place.is_file():
        return place
    if not place.is_dir():
        raise UserError(f"there is no trace at {place}: name a trace.jsonl, a run's folder, or a results_dir")
    for depth in range(DEPTH + 1):
        found = sorted(place.glob("*/" * depth + NAME))
        if len(found) == 1:
            return found[0]
        if found:
            named = ", ".join(str(file.parent) for file in found[:SHOWN])
            more = f", and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            raise UserError(f"{place} has {len(found)} runs with a trace; name one: {named}{more}")
    raise UserError(f"no run in {place} has a trace: a run writes one unless trace=false")


def read_trace(file: Path) -> Trace:
    """The texts of a trace. Raises UserError."""
    with disk("read", file):
        content = file.read_bytes()
    *lines, last = content.split(b"\n")
    if _whole(last):
        lines.append(last)
    rows = [_row(line, f"{file}: line {number}") for number, line in enumerate(lines, start=1)]
    sources = {(row["run_id"], row["pair"], row["task"], row["seed"]) for row in rows}
    if len(sources) != 1:
        raise UserError(f"{file} is a trace of {len(sources) or 'no'} runs; it has to be of one")
    run_id, pair, task, seed = sources.pop()
    left_out = {row["variant"]: row["left_out"] for row in rows if row["left_out"]}
    texts = [row for row in rows if row["variant"] not in left_out]
    if not texts:
        raise UserError(f"{file} has nothing to replay: {'; '.join(map(': '.join, left_out.items()))}")
    kept = settled(texts, _cells(texts))
    if not kept:
        raise UserError(f"{file} has no prompt whose texts are all there")
    made = tuple(row["text"] for row in kept)
    return Trace(sha256(content).hexdigest(), run_id, pair, task, seed, made, left_out)


def _whole(line: bytes) -> bool:
    """Whether a line without its end is one: a run may be writing it."""
    try:
        return bool(json.loads(line))
    except ValueError:
        return False


def _cells(rows: Sequence[Row]) -> dict[str, list[tuple[str, int, int]]]:
    """What a whole prompt has: every variant and repeat that the trace has anywhere, every turn of its own."""
    labels, repeats = ({row[key]: None for row in rows} for key in ("variant", "repeat"))
    turns: dict[str, set[int]] = {}
    for row in rows:
        turns.setdefault(row["prompt_id"], set()).add(row["turn"])
    return {prompt: list(product(labels, range(len(repeats)), range(len(of)))) for prompt, of in turns.items()}


def _row(line: bytes, where: str) -> Row:
    """A row of a trace with its `text`, or why it is `left_out`. Raises UserError."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or row.get("schema_version") != SCHEMA_VERSION or not row.keys() >= TRACE_KEYS:
            raise ValueError(f"it has not all keys of schema_version {SCHEMA_VERSION}")
        if not all(isinstance(row[key], str) for key in NAMES):
            raise ValueError(f"{', '.join(NAMES)} should be strings")
        _number(row["seed"])
        left_out = OF_QUALITY if row["variant_group"] == FRONTIER else None
        if row["steps"] is None:
            left_out = str(row["steps_reason"] or "no reads")
        text = None if left_out else _text(row)
        return {**row, "steps": None, "text": text, "left_out": left_out}  # a long trace fits into memory once
    except UserError as error:
        raise UserError(f"{where} is no row of a trace: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:  # whatever stands there
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{where} is no row of a trace: {what}") from None


def _text(row: Row) -> TracedText:
    text = TracedText(
        label=str(row["variant"]),
        place=_number(row["place"]),
        variant_group=str(row["variant_group"]),
        decoder=str(row["decoder"]),
        options=dict(row["options"]),
        sampling=construct("sampling", Sampling, row["sampling"]),
        joint=bool(row["joint"]),
        drafts=bool(row["drafts"]),
        lossless=bool(row["lossless"]),
        prompt_id=str(row["prompt_id"]),
        group=None if row["group"] is None else str(row["group"]),
        turn=_number(row["turn"]),
        repeat=_number(row["repeat"]),
        prompt_tokens=_number(row["prompt_tokens"], least=1),
        finish=str(row["finish"]),
        steps=tuple(map(read_step, row["steps"])),
    )
    if not text.length:
        raise ValueError("it has no tokens")
    if not all(step.rounds for step in text.steps):
        raise ValueError("a step has no rounds")
    if not text.drafts and any(asked.draft for step in text.steps for asked in step.reads):
        raise ValueError("a decoder without a draft model reads the draft model")
    return text


def read_step(step: Mapping[str, Any]) -> Step:
    """A step from JSON data. Raises ValueError, KeyError, TypeError, UserError."""
    return Step(tuple(_reads(step["reads"])), tuple(map(_round, step["rounds"])))


def _reads(reads: Sequence[Mapping[str, Any]]) -> Iterator[Asked]:
    sizes = {True: 1, False: 1}
    for read in reads:
        draft, keeps = {"draft": True, "target": False}[read["model"]], _number(read["keeps"], least=1)
        parents, tokens = tuple(map(_number, read["parents"])), tuple(map(_number, read["tokens"]))
        if keeps > sizes[draft] or len(parents) != len(tokens):
            raise ValueError("a read keeps nodes that were not there, or has nodes without a token")
        if any(parent >= node for node, parent in enumerate(parents, start=keeps)):
            raise ValueError("a node stands before its parent")
        sizes[draft] = keeps + len(tokens)
        yield Asked(draft, bool(read["raw"]), keeps, parents, tokens, _grows(read["grows"]))


def _grows(found: Mapping[str, Any] | None) -> Grows | None:
    if found is None:
        return None
    one_of("draws", found["draws"], Draws)
    return Grows(_number(found["width"], least=1), found["draws"], _number(found["levels"], least=1))


def _round(one: Mapping[str, Any]) -> Round:
    tokens, sources = tuple(map(_number, one["tokens"])), tuple(map(Source, one["sources"]))
    if not tokens or len(sources) != len(tokens):
        raise ValueError("a round has no tokens, or not a source for each")
    return Round(tokens, sources, _number(one["drafted"]), _number(one["accepted"]), _number(one["nodes"]))


def _number(value: object, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{value!r} should be a whole number >= {least}")
    return value


def _depth(step: Step) -> int:
    """Of the deepest node that a step reads, or that a device does which grows whole drafts at once."""
    trees, deepest = [Tree(), Tree()], 0
    for asked in step.reads:
        tree = trees[asked.draft] = asked.grown(trees[asked.draft])
        deepest = max(deepest, *tree.depths[asked.keeps - 1 :], asked.grows.levels - 1 if asked.grows else 0)
    return deepest
