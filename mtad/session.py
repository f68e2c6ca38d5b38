"""A session: one model, its cache, and one text, with three verbs: `open`, `read`, `commit`.

- `open(prompt)` starts a text and reads all of the prompt but its last token, in chunks.
- `read(tree)` asks for the law after every node of a tree. It is a request, served by `mtad.serving`, so that the reads
  of many texts can share one forward. Only nodes not read before are computed: the session keeps a trie of the paths
  it has read since the last commit, and any tree is looked up in it by token values.
- `commit(tokens)` appends to the text and keeps the keys of the longest read path that spells these tokens. Target
  and draft may have read different trees; committed tokens that a model has not read are fed before its next tree.

Knows token ids only. Refuses to know how a forward is computed (`Model`), and what is decided upon the laws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mtad.clock import Span
from mtad.counts import Counts
from mtad.feeds import Feed, Growing, Model
from mtad.growth import Grown, Growth
from mtad.law import RAW, Law, Warp
from mtad.stacked import stacked
from mtad.tree import Tree

PREFILL_CHUNK = 512
SLOTS = 64  # room for the paths of so many read nodes; doubled at need
TREE_ROOM = 256  # cache positions reserved for the trees of a round; larger ones make the cache grow on the way

_NOTHING = Law(None, np.zeros((0, 0)))


class Session:
    """One text on one row of a model's cache. Not thread-safe; a new `open` starts afresh."""

    def __init__(self, model: Model, row: int = 0) -> None:
        self.model = model
        self.row = row
        self.text: list[int] = []
        self.version = 0  # counts commits, so that readers know when their rows are stale
        self.counts = Counts()
        self._kept = 0  # text tokens whose keys are in the cache
        self._paths = np.zeros((SLOTS, SLOTS), dtype=bool)  # per slot: the slots > 0 on its path, by slot - 1
        self._forget()

    def _forget(self) -> None:
        self._chunks: list[torch.Tensor] = []  # logits of the root, then of every read node, in order of reading
        self._slots: dict[tuple[int, int], int] = {}  # (parent slot, token) -> slot; slot 0 is the root
        self._depths = [0]

    def open(self, prompt: Sequence[int], room: int = 0) -> None:
        """Start a text of up to `room` new tokens; reads all but the last token of `prompt` in chunks.

        Raises ValueError for an empty prompt.
        """
        if not prompt:
            raise ValueError("a prompt needs at least one token")
        self.text, self._kept, self.counts = list(prompt), 0, Counts()
        self.version += 1
        self._forget()
        self.model.reserve(len(prompt) + room + TREE_ROOM)
        while self._kept < len(prompt) - 1:
            end = min(self._kept + PREFILL_CHUNK, len(prompt) - 1)
            self.model.prefill([self._feed_text(self._kept, end)])
            self._kept = end

    def read(self, tree: Tree) -> Read:
        """Ask for the raw law (temperature 1, nothing cut off) after every node of `tree`; see `Reader` for others."""
        return Reader(self, RAW).read(tree)

    def commit(self, tokens: Sequence[int]) -> None:
        """Append `tokens` to the text; ``commit([])`` only drops what was read below the root.

        If every token was read, the law after the last one is kept too, and the next read need not feed it again.
        """
        start = self.model.mark()
        self._commit(tokens)
        self.counts.commit(Span(start, self.model.mark()))

    def _commit(self, tokens: Sequence[int]) -> None:
        path = [0]
        for token in tokens:
            slot = self._slots.get((path[-1], token))
            if slot is None:
                break
            path.append(slot)
        if self._chunks and len(path) > 1:
            sources = [self._kept + slot - 1 for slot in path[1:]]
            if sources != list(range(self._kept, self._kept + len(sources))):
                self.model.move(self.row, sources, self._kept)
        root = self._logits(path[-1]) if self._chunks and len(path) == len(tokens) + 1 else None
        self._kept += len(path) - 1
        self.text.extend(tokens)
        self.version += 1
        self._forget()
        if root is not None:
            self._chunks.append(root)

    # -- what `serve` and `Reader` use -------------------------------------------------------------------------

    def slots(self, tree: Tree) -> list[int]:
        """The slot of every node of a tree that has been read."""
        slots = [0]
        for node in range(1, len(tree)):
            slots.append(self._slots[slots[tree.parents[node]], tree.tokens[node]])
        return slots

    def feed(self, tree: Tree) -> Feed | None:
        """Enter the nodes of `tree` not read before, and return what has to be computed for them, if anything."""
        first = len(self._depths)
        tokens = self._enter(tree)
        length, read = len(self.text), len(self._depths) - 1
        pending = length - self._kept
        positions = [length - 1 + depth for depth in self._depths[first:]]
        if not pending:
            if not tokens:
                return None
            sees = self._paths[first : read + 1, :read]
            return Feed(self.row, length + first - 1, tokens, positions, length, sees, len(tokens))
        if pending == 1:  # the root and, as nothing has been read yet, all nodes
            sees = self._paths[: read + 1, :read]
            return Feed(
                self.row, length - 1, [self.text[-1], *tokens], [length - 1, *positions], length, sees, len(tokens) + 1
            )
        text = self._feed_text(self._kept, length)
        sees = np.zeros((pending + read, pending + read), dtype=bool)
        sees[:pending, :pending] = text.sees
        sees[pending:, :pending] = True
        sees[pending:, pending:] = self._paths[1 : read + 1, :read]
        return Feed(
            self.row, text.start, text.tokens + tokens, text.positions + positions, text.known, sees, len(tokens) + 1
        )

    def _enter(self, tree: Tree) -> list[int]:
        """Enter the nodes not read before as slots; returns their tokens."""
        tokens: list[int] = []
        slots = [0]
        for parent, token in zip(tree.parents[1:], tree.tokens[1:], strict=True):
            key = (slots[parent], token)
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = len(self._depths)
                if slot == len(self._paths):
                    self._paths = np.pad(self._paths, (0, slot))
                self._paths[slot] = self._paths[key[0]]
                self._paths[slot, slot - 1] = True
                self._depths.append(self._depths[key[0]] + 1)
                tokens.append(token)
            slots.append(slot)
        return tokens

    def _feed_text(self, start: int, end: int) -> Feed:
        """Text tokens start..end."""
        new = end - start
        sees = np.tri(new, dtype=bool)
        return Feed(self.row, start, self.text[start:end], list(range(start, end)), start, sees, 1)

    def receive(self, logits: torch.Tensor) -> None:
        """Take the logits of the last feed."""
        self._kept = len(self.text)
        self._chunks.append(logits)

    def feed_root(self) -> Feed:
        """What has to be computed for the law after the text, its last token at least; drops what was read before."""
        self._kept = min(self._kept, len(self.text) - 1)
        self.version += 1
        self._forget()
        feed = self.feed(Tree())
        assert feed is not None
        return feed

    def receive_draft(self, grown: Grown) -> None:
        """Take the logits of the text's end, and of the nodes of all levels but the last, void ones included."""
        self._kept = len(self.text)
        self._chunks = grown.logits
        (levels, width), above = grown.tokens.shape, [0]
        while len(self._paths) <= levels * width:
            self._paths = np.pad(self._paths, (0, len(self._paths)))
        for level in range(levels - 1):
            slots = range(1 + level * width, 1 + (level + 1) * width)
            parents = [above[parent] for parent in grown.parents[level].tolist()]
            self._paths[slots] = self._paths[parents]
            self._paths[slots, range(slots.start - 1, slots.stop - 1)] = True
            self._depths += [level + 1] * width
            nodes = zip(slots, parents, grown.tokens[level].tolist(), grown.scores[level].tolist(), strict=True)
            # Of equal siblings the first bears the children of all: its keys are those of the others.
            above = [
                slot if score == -np.inf else self._slots.setdefault((parent, token), slot)
                for slot, parent, token, score in nodes
            ]

    def chunks(self, start: int) -> list[torch.Tensor]:
        """Logits by chunk of reading, from chunk number `start` on; rows in order of slots."""
        return self._chunks[start:]

    def _logits(self, slot: int) -> torch.Tensor:
        for chunk in self._chunks:
            if slot < len(chunk):
                return chunk[slot : slot + 1].clone()
            slot -= len(chunk)
        raise IndexError(slot)


class Reader:
    """A session seen through a warp: what a decoder's round is given. Laws already warped are not warped again."""

    def __init__(self, session: Session, warp: Warp) -> None:
        self.session = session
        self.warp = warp
        # Looked up once, for it is asked before every draft.
        self._growing = session.model if warp.top_k and isinstance(session.model, Growing) else None
        self._version = -1
        self._chunks = 0
        self._rows = 0
        self._held = _NOTHING  # the law of all rows, and after arrays have grown some spare ones

    def read(self, tree: Tree) -> Read:
        """Ask for the law after every node of `tree`: ``law = yield reader.read(tree)``."""
        return Read(self, tree)

    @property
    def raw(self) -> Reader:
        """The same session under the untruncated law at temperature 1."""
        return self if self.warp == RAW else Reader(self.session, RAW)

    @property
    def grows(self) -> bool:
        """Whether a whole draft can be asked for at once, by `Grow`."""
        return self._growing is not None and self._growing.grows()

    def fresh(self) -> list[torch.Tensor]:
        """Logits that have been read and not warped yet."""
        if self._version != self.session.version:
            self._version, self._chunks, self._rows = self.session.version, 0, 0
        return self.session.chunks(self._chunks)

    def add(self, law: Law) -> None:
        """Take the law of the first fresh logits."""
        self._held = stacked(self._held, self._rows, law) if self._rows else law
        self._rows, self._chunks = self._rows + len(law), self._chunks + 1

    def law(self, tree: Tree) -> Law:
        """The law after every node of a tree whose read has been served."""
        for chunk in self.fresh():
            self.add(self.warp(chunk))
        slots = self.session.slots(tree)
        # A tree read alone and in order, the common case, needs no copy of its rows.
        return self._held.part(0, len(slots)) if slots == list(range(len(slots))) else self._held.take(slots)


@dataclass(frozen=True)
class Read:
    """A request for the law after every node of `tree`; yielded by rounds, answered by `mtad.serving.serve`."""

    reader: Reader
    tree: Tree


@dataclass(frozen=True)
class Begin(Read):
    """A read that begins a draft, of `levels` levels at most, which some models could grow at once.

    Attributes:
        growth: how its levels are chosen.
    """

    growth: Growth
    levels: int


@dataclass(frozen=True)
class Grow(Begin):
    """A request for a whole draft below the text, answered by `Drafted`; or, where the model cannot, as `Read` is.

    Attributes:
        uniforms: float64 [levels, growth.width].
    """

    uniforms: np.ndarray
