"""Several texts on the rows of one pair, under the schedule "continuous": a text that ends leaves its row to the next.

Reads of the draft model are answered first, until no text waits for it; then the target answers all in one forward.
So texts keep in step, although each has its own length, tree and accepted length. A text that enters is prefilled by
itself, while the others wait. Once the queue is empty, the text of the last row in use moves to a row that falls free
before it, so that forwards have no more rows than there are texts.

Knows generators of reads, and sessions; refuses to know what they write.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Generic, TypeVar

from mtad.feeds import Model
from mtad.law import Law
from mtad.serving import serve
from mtad.session import Read, Session

SCHEDULE = "continuous"

T = TypeVar("T")
Row = tuple[Session, Session]  # of the target and of the draft
Start = Callable[[Session, Session], Generator[Read, Law, T]]  # puts a text on a row


@dataclass(frozen=True)
class Stay:
    """When a text was on its row, in seconds from the start of the batch.

    Attributes:
        entered: before its prefill.
        ended: when it was whole.
    """

    entered: float
    ended: float

    @property
    def seconds(self) -> float:
        """The text's latency: prefill included, and all waiting for others once it is on a row; none before that."""
        return self.ended - self.entered


@dataclass
class Batch(Generic[T]):
    """What was written together.

    Attributes:
        outputs: in the order of the queue.
        stays: of each.
        seconds: from the start of the first text to the end of the last.
        target_forwards, draft_forwards: shared ones count once; prefill is not counted.
    """

    outputs: list[T] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    seconds: float = 0.0
    target_forwards: int = 0
    draft_forwards: int = 0


def write_batch(queue: Iterable[Start[T]], rows: Sequence[Row], clock: Callable[[], float] = perf_counter) -> Batch[T]:
    """Write all texts of `queue`, as many at a time as there are `rows`; the lowest rows are filled first.

    Args:
        queue: asked for the next text only when a row is free, so that it may go on as long as there is time.
        rows: sessions of the same two models, each with a row of its own, to which it returns at the end.
        clock: seconds.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError("a batch needs at least one row")
    return _Schedule(queue, rows, clock).run()


class _Schedule(Generic[T]):
    """The state of one batch."""

    def __init__(self, queue: Iterable[Start[T]], rows: Sequence[Row], clock: Callable[[], float]) -> None:
        self._queue = iter(queue)
        self._rows = list(rows)
        self._clock = clock
        self._texts: dict[int, tuple[int, float, Generator[Read, Law, T]]] = {}  # row: number, entered, text
        self._waiting: dict[int, Read] = {}
        self._ended: dict[int, tuple[T, Stay]] = {}
        self._entered = 0
        self._forwards = {"target": 0, "draft": 0}

    def run(self) -> Batch[T]:
        self._begun = self._clock()
        homes = [(session, session.row) for both in self._rows for session in both]
        try:
            for row in range(len(self._rows)):
                self._enter(row)
            while self._waiting:
                self._answer()
        finally:
            for session, row in homes:
                session.row = row
        seconds = self._clock() - self._begun
        whole = [self._ended[number] for number in range(self._entered)]
        forwards = self._forwards["target"], self._forwards["draft"]
        return Batch([output for output, _ in whole], [stay for _, stay in whole], seconds, *forwards)

    def _enter(self, row: int) -> None:
        """Give a free row to the next text, and to the next again if that one ends without a read."""
        for start in self._queue:
            entered = self._clock() - self._begun
            self._texts[row] = self._entered, entered, start(*self._rows[row])
            self._entered += 1
            if not self._resume(row, None):
                return

    def _resume(self, row: int, law: Law | None) -> bool:
        """Let a text go on to its next read; whether it has ended instead."""
        number, entered, text = self._texts[row]
        try:
            self._waiting[row] = next(text) if law is None else text.send(law)
            return False
        except StopIteration as end:
            self._ended[number] = end.value, Stay(entered, self._clock() - self._begun)
            del self._texts[row]
            return True

    def _answer(self) -> None:
        """One forward, for all texts that wait for the draft, or if none does, for all others."""
        drafting = [row for row in self._waiting if self._asks_draft(self._waiting[row])]
        served = sorted(drafting or self._waiting)
        reads = [self._waiting.pop(row) for row in served]
        sessions = [read.reader.session for read in reads]
        before = [session.counts.forwards for session in sessions]
        laws = serve(reads)
        new = (session.counts.forwards - known for session, known in zip(sessions, before, strict=True))
        self._forwards["draft" if drafting else "target"] += max(new)  # 0 where nothing had to be computed
        for row, law in zip(served, laws, strict=True):
            if self._resume(row, law):
                self._enter(row)
        self._close_up()

    def _close_up(self) -> None:
        """Move texts from the last rows in use to free ones before them."""
        while self._texts and (last := max(self._texts)) >= len(self._texts):
            free = min(set(range(last)) - self._texts.keys())
            for session, other in zip(self._rows[last], self._rows[free], strict=True):
                session.model.copy(session.row, other.row)
                session.row, other.row = other.row, session.row
            self._rows[last], self._rows[free] = self._rows[free], self._rows[last]
            self._texts[free], self._waiting[free] = self._texts.pop(last), self._waiting.pop(last)

    def _asks_draft(self, read: Read) -> bool:
        target, draft = (session.model for session in self._rows[0])
        model: Model = read.reader.session.model
        return model is draft and model is not target
