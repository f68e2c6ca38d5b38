"""Short ways to write a text on fresh sessions, by models in memory."""

from __future__ import annotations

from collections.abc import Sequence

from mtad.decoder import Decoder
from mtad.ending import Limits
from mtad.feeds import Model
from mtad.generate import Output, generate
from mtad.law import Sampling
from mtad.luck import Luck
from mtad.session import Session

PURE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
GREEDY = Sampling(greedy=True)


def spell(tokens: Sequence[int]) -> str:
    """Token ids as letters: 0 is a, 25 is z, and so on."""
    return "".join(chr(ord("a") + token) for token in tokens)


def write(
    decoder: Decoder,
    target: Model,
    draft: Model,
    prompt: Sequence[int] = (0,),
    limit: int = 8,
    eos: Sequence[int] = (),
    stop: Sequence[str] = (),
    sampling: Sampling = PURE,
    seed: int = 0,
    name: str = "prompt",
    ignore_eos: bool = False,
) -> Output:
    """Generate on fresh sessions."""
    limits = Limits(limit, frozenset(eos), tuple(stop), ignore_eos)
    return generate(decoder, Session(target), Session(draft), prompt, limits, sampling, Luck(seed, name), spell)
