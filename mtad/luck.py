"""Counted randomness: a uniform is a function of where it is used, never of how many were drawn before.

So a row can be made again alone, on any device and in any batch, and decoders that are compared share their luck.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

WORDS = 8  # numbers of 64 bits in a digest


class Purpose(IntEnum):
    """What a uniform decides; part of its address."""

    LAST = 0  # the token drawn from the target's law (or its residual), by position alone
    DRAFT = 1  # the draft's own draws
    ACCEPT = 2  # acceptance tests


@dataclass(frozen=True)
class Luck:
    """The uniforms of one generated text.

    Attributes:
        seed: the run's seed.
        prompt: any stable name of the prompt.
        repeat: which of the repeats of that prompt.
    """

    seed: int
    prompt: str
    repeat: int = 0

    def last(self, position: int) -> float:
        """The uniform in [0, 1) for the token at `position` of the text, whatever round it falls into."""
        return self._uniform(Purpose.LAST, position, -1, 0)

    def draft(self, position: int, start: int, index: int = 0) -> float:
        """The `index`-th draft draw for `position`, in a round that began at `start`.

        The start belongs to the address: a joint rule's refusal depends on the uniforms of later positions, and the
        next round must not meet these again.
        """
        return self._uniform(Purpose.DRAFT, position, start, index)

    def accept(self, position: int, start: int, index: int = 0) -> float:
        """The `index`-th acceptance test at `position`, in a round that began at `start`."""
        return self._uniform(Purpose.ACCEPT, position, start, index)

    def _uniform(self, purpose: Purpose, position: int, start: int, index: int) -> float:
        block, place = divmod(index, WORDS)
        address = struct.pack("<6q", self.seed, self.repeat, purpose, position, start, block) + self.prompt.encode()
        return (_words(address)[place] >> 11) / 2**53


@lru_cache(maxsize=16)
def _words(address: bytes) -> tuple[int, ...]:
    """One digest serves several indices, which are mostly asked for one after the other."""
    return struct.unpack(f"<{WORDS}Q", hashlib.blake2b(address, digest_size=8 * WORDS).digest())
