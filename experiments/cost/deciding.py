"""What a decoder's own work on the host costs: everything between two reads, with no read in it.

A text is written twice in step. The first writer waits for its reads as usual. Its shadow is handed the same laws, asks
no model for anything, and only it is timed: it decides, builds trees and keeps the text. Both make the same choices,
because randomness is counted. Commits, which move keys in a real cache, are those of the first writer.

Knows decoders and sessions; refuses to know runs and rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from time import perf_counter

from mtad.ending import Detokenise
from mtad.generate import Output
from mtad.law import Law, Warp
from mtad.loading import Pair
from mtad.serving import serve
from mtad.session import Read, Session

Writing = Generator[Read, Law, Output]
Begin = Callable[[Session, Session, Detokenise], Writing]  # of target, draft, and what turns tokens into text


@dataclass(frozen=True)
class Deciding:
    """Seconds on some texts, and the reads between which they were spent.

    Attributes:
        warps: the laws that were asked for, and how often.
    """

    decide_seconds: float
    commit_seconds: float
    reads: int
    warps: Counter[Warp]

    @property
    def seconds_per_read(self) -> float:
        """Decisions and commits for each forward."""
        return (self.decide_seconds + self.commit_seconds) / self.reads

    @property
    def warp(self) -> Warp:
        """Of most of its reads."""
        return self.warps.most_common(1)[0][0]


def time_decisions(pair: Pair, detokenise: Detokenise, texts: Sequence[Begin]) -> Deciding:
    """Write some texts, each with its shadow, twice; the less disturbed time counts, as for reads.

    Args:
        texts: begins the writing of each text, any number of times.
    """
    both = [[_in_step(pair, detokenise, begin) for _ in range(2)] for begin in texts]
    found = [min(times, key=lambda one: one.decide_seconds + one.commit_seconds) for times in both]
    return Deciding(
        decide_seconds=sum(one.decide_seconds for one in found),
        commit_seconds=sum(one.commit_seconds for one in found),
        reads=sum(one.reads for one in found),
        warps=sum((one.warps for one in found), Counter[Warp]()),
    )


def _in_step(pair: Pair, detokenise: Detokenise, begin: Begin) -> Deciding:
    aside = 0.0  # the search for stop strings, which no decoder is charged for

    def timed(tokens: Sequence[int]) -> str:
        nonlocal aside
        started = perf_counter()
        text = detokenise(tokens)
        aside += perf_counter() - started
        return text

    # The shadow's prompt is read first, into the same cache; from then on only the first writer touches the models.
    shadow = begin(Session(pair.target), Session(pair.draft), timed)
    writer = begin(Session(pair.target), Session(pair.draft), detokenise)
    seconds, output, warps = 0.0, None, Counter[Warp]()
    next(shadow)
    read = next(writer)
    while output is None:
        warps[read.reader.warp] += 1
        law = serve([read])[0]
        started = perf_counter()
        ended = _advance(shadow, law)
        seconds += perf_counter() - started
        step = _advance(writer, law)
        if isinstance(step, Output):
            output = step
        else:
            read = step
        assert isinstance(ended, Output) == (output is not None), "the shadow went another way"
    commits = output.target.commit_seconds + output.draft.commit_seconds
    return Deciding(seconds - aside, commits, output.target.forwards + output.draft.forwards, warps)


def _advance(writing: Writing, law: Law) -> Read | Output:
    """The next read, or the output if the text has ended."""
    try:
        return writing.send(law)
    except StopIteration as end:
        output: Output = end.value
        return output
