"""Where a text ends: the end tokens, the stop strings and the limit, checked on whole blocks.

Knows token ids, and text only to find stop strings in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from mtad.errors import UserError

Detokenise = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Limits:
    """When a text ends.

    Attributes:
        max_new_tokens: at most so many tokens, >= 1.
        eos: ids that end a text; the one met is emitted and counted.
        stop: strings that end a text; the token that completes one is emitted and counted, the text is cut before it.
        ignore_eos: write up to the limit whatever comes (for fixed-length arms).
    """

    max_new_tokens: int
    eos: frozenset[int] = frozenset()
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be >= 1, not {self.max_new_tokens}")
        if "" in self.stop:
            raise UserError("a stop string must not be empty")


class Ending:
    """Cuts one output where it ends.

    Attributes:
        eos: ids that end this text.
        seconds: time spent in turning tokens into text, which no decoder is to be charged for.
    """

    def __init__(self, limits: Limits, detokenise: Detokenise) -> None:
        self.limits = limits
        self.eos = frozenset() if limits.ignore_eos else limits.eos
        self.seconds = 0.0
        self._detokenise = detokenise

    def __call__(self, output: Sequence[int]) -> bool:
        """Whether an output ends with its last token."""
        return bool(output) and (output[-1] in self.eos or self._stopped(output))

    def cut(self, output: Sequence[int], block: Sequence[int]) -> tuple[int, str | None]:
        """How much of `block` after `output` is emitted, and the reason if the text ends there.

        Looks token by token, because what a tokenizer makes of the last bytes may change with the next ones: so a
        text ends at the same token however it was cut into blocks.
        """
        if not block:
            raise RuntimeError("a decoder returned a round without tokens")
        room = self.limits.max_new_tokens - len(output)
        for length in range(1, min(len(block), room) + 1):
            if block[length - 1] in self.eos:
                return length, "eos"
            if self.limits.stop and self._stopped([*output, *block[:length]]):
                return length, "stop"
        return (room, "limit") if len(block) >= room else (len(block), None)

    def text(self, output: Sequence[int]) -> str:
        """The output as text, without the end token and from the first stop string on."""
        if output and output[-1] in self.eos:
            output = output[:-1]
        text = self._detokenise(output)
        return text[: min((text.find(stop) for stop in self.limits.stop if stop in text), default=len(text))]

    def _stopped(self, output: Sequence[int]) -> bool:
        """Whether a stop string stands in the output; only the whole of it, for tails decode differently."""
        if not self.limits.stop:
            return False
        started = perf_counter()
        text = self._detokenise(output)
        self.seconds += perf_counter() - started
        return any(stop in text for stop in self.limits.stop)
