"""Token traces: where each token of a text came from, variant by variant.

Knows the rows of a run and its prompts; refuses to know tokenizers (rows say where each token ends) and how a trace is
shown. What models wrote is hostile: `visible` takes away whatever would act on a terminal or turn a line around.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from experiments.journal import Row
from experiments.records import settled
from experiments.report.results import Run
from mtad.errors import UserError

KINDS = {  # where a token came from -> what a reader is told of it
    "draft": "drafted, and accepted by the target",
    "target": "chosen by the target on its own",
    "corrected": "drawn by the target in place of a refused draft token",
    "unrecorded": "written by another library, which does not say",
}
OWN_ANSWERS = "earlier answers are each decoder's own"
NO_PROMPTS = "this run has no prompts.jsonl"
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}  # marks that turn a line around
NOT_PUBLISHED = "the text is not in the results (publish=true leaves it out)"


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens of one round that came from one place.

    Attributes:
        text: empty if the tokens spell nothing by themselves: the end of the text, or a part of a character.
        kind: one of KINDS.
        round: from 0; -1 if no rounds were recorded.
        tokens: how many.
    """

    text: str
    kind: str
    round: int
    tokens: int


@dataclass(frozen=True)
class VariantTrace:
    """One text of one variant.

    Attributes:
        segments: none if the text is not in the results.
        forwards: of the target, its reading of the prompt not counted.
        absent: why there are no segments.
    """

    label: str
    segments: tuple[Segment, ...]
    tokens: int
    forwards: int
    finish: str
    absent: str | None = None

    @property
    def per_forward(self) -> float | None:
        """New tokens per target forward; None of another library that does not count them."""
        return self.tokens / self.forwards if self.forwards else None

    @property
    def kinds(self) -> dict[str, int]:
        """How many tokens came from where, in the order of KINDS."""
        counts = {kind: sum(part.tokens for part in self.segments if part.kind == kind) for kind in KINDS}
        return {kind: count for kind, count in counts.items() if count}


@dataclass(frozen=True)
class Question:
    """What was asked: the text of one turn, or why it is absent; notes say what else the models read."""

    text: str | None
    absent: str | None = None
    notes: tuple[str, ...] = ()


def trace(run: Run, prompt_id: str, turn: int = 0, repeat: int = 0) -> list[VariantTrace]:
    """The texts of all variants after one prompt, in the summary's order. Raises UserError."""
    return trace_rows(run, text_rows(run), prompt_id, turn, repeat)


def text_rows(run: Run) -> list[Row]:
    """The rows that traces are made of. Raises UserError if there are none."""
    rows = run.rows()
    if not rows:
        raise UserError(f"{run.name}: there are no texts beside this summary; name the folder of the run")
    return rows


def trace_rows(run: Run, rows: Sequence[Row], prompt_id: str, turn: int = 0, repeat: int = 0) -> list[VariantTrace]:
    """The same, of rows that have been read already. Raises UserError."""
    asked = [row for row in rows if row["prompt_id"] == prompt_id]
    if not asked:
        raise UserError(unknown(prompt_id, list(dict.fromkeys(row["prompt_id"] for row in rows))))
    cells = {(row["variant"], row["repeat"], row["turn"]) for row in asked}
    counted = settled(asked, {prompt_id: list(cells)})
    found = {row["variant"]: row for row in counted if (row["turn"], row["repeat"]) == (turn, repeat)}
    if not found:
        places = sorted({(row["turn"], row["repeat"]) for row in asked})
        known = ", ".join(f"--turn {known} --repeat {number}" for known, number in places[:6])
        raise UserError(f"{prompt_id} has no turn {turn}, repeat {repeat}; there are: {known}")
    order = [label for label in run.summary["decoders"] if label in found]
    return [_trace(found[label]) for label in order]


def prompt_ids(rows: Sequence[Row]) -> list[str]:
    """The prompts, in the order in which they were measured."""
    return list(dict.fromkeys(row["prompt_id"] for row in rows))


def question(run: Run, prompt_id: str, turn: int = 0) -> Question:
    """What the variants were asked in that turn."""
    prompt = next((row for row in run.rows("prompts") if row["prompt_id"] == prompt_id), None)
    if prompt is None:
        return Question(None, NO_PROMPTS)
    if turn >= len(prompt["turns"]):
        return Question(None, f"prompts.jsonl has no turn {turn} of it")
    notes = []
    if turn:
        replies = [said.get("reply") for said in prompt["turns"][:turn]]
        notes.append(f"turn {turn}; " + (OWN_ANSWERS if None in replies else "after the turns before it"))
    if run.summary.get("prompts_cut"):
        notes.append("prompts too long for the task were cut before models read them; this is the uncut text")
    if run.summary.get("chat"):
        notes.append("models read it in their chat template")
    text = prompt["turns"][turn].get("user")
    return Question(text, prompt.get("left_out_reason") if text is None else None, tuple(notes))


def unknown(prompt_id: str, known: Sequence[str]) -> str:
    """The complaint about a prompt that there is none of, with near names."""
    near = get_close_matches(prompt_id, known, n=3, cutoff=0.5) or known[:3]
    return f"there is no prompt {prompt_id} among the {len(known)} of this run; it has, for instance, {', '.join(near)}"


def visible(text: str) -> str:
    """The text with everything shown that would otherwise act: control characters, marks of direction, surrogates."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    turns = unicodedata.bidirectional(character) in TURNING
    if character in "\n\t" or not (turns or unicodedata.category(character) in ("Cc", "Cs")):
        return character
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"


def _trace(row: Row) -> VariantTrace:
    """Raises UserError if the row does not say where its tokens end."""
    text = row.get("text")
    about = (len(row["token_ids"] or []), row["counts"]["target_forwards"] or 0, str(row["finish"]))
    if text is None:
        return VariantTrace(row["variant"], (), *about, row.get("text_reason") or NOT_PUBLISHED)
    if "token_ends" not in row:
        older = "its rows are from a version that did not record where tokens end"
        raise UserError(f"no trace of {row['variant']}: {older}; measure again with fresh=true")
    return VariantTrace(row["variant"], tuple(_segments(text, row["token_ends"], row["rounds"])), *about)


def _segments(text: str, ends: Sequence[int], rounds: Sequence[Mapping[str, Any]]) -> Iterator[Segment]:
    """Tokens of one round and one source together; what follows the last token's end belongs to it."""
    origins = [(source, number) for number, step in enumerate(rounds) for source in step["sources"]]
    origins = (origins + [("unrecorded", -1)] * len(ends))[: len(ends)]
    start = first = 0
    for place, origin in enumerate(origins, start=1):
        last = place == len(ends)
        if last or origins[place] != origin:
            end = len(text) if last else ends[place - 1]
            kind, number = origin
            yield Segment(text[start:end], kind if kind in KINDS else "unrecorded", number, place - first)
            start, first = end, place
