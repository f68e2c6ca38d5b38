"""Decoders with one planted fault each, for the checks of the conformance kit."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from baselines.autoregressive import Autoregressive
from baselines.fly import Fly
from baselines.speculative import Speculative
from mtad.counts import Counts
from mtad.decoder import Round, Rounds, Source, Text, Written
from mtad.model import CausalModel
from mtad.rounds import close
from mtad.session import Reader
from mtad.tree import Tree


@dataclass(frozen=True)
class GlobalLuck(Speculative):
    """Draws from Python's global generator."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        p = yield target.read(Tree())
        return Round((p.draw(0, random.random()),), (Source.TARGET,))


@dataclass(frozen=True)
class TooMuch(Autoregressive):
    """Ignores the room: two tokens a round."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        chain = Tree()
        p = yield target.read(chain)
        chain.add(0, p.draw(0, text.luck.last(text.start)))
        p = yield target.read(chain)
        tokens = chain.tokens[1], p.draw(1, text.luck.last(text.start + 1))
        return Round(tokens, (Source.TARGET,) * 2)


@dataclass(frozen=True)
class NoEnd(Autoregressive):
    """Takes another token where an end token came."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        step = yield from super().round(text, target, draft)
        return replace(step, tokens=tuple(25 - token if token in text.eos else token for token in step.tokens))


@dataclass(frozen=True)
class NoResidual(Speculative):
    """One drafted token; p in place of the residual where it is refused."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        chain = Tree()
        q = yield draft.read(chain)
        chain.add(0, q.draw(0, text.luck.draft(text.start, text.start)))
        p = yield target.read(chain)
        odds = np.exp(p.edges(chain)[1] - q.edges(chain)[1])
        node = int(text.luck.accept(text.start, text.start) < odds)
        return close(text, chain, node, partial(p.draw, node))


@dataclass(frozen=True)
class Hoarder(Autoregressive):
    """Counts its rounds in an option."""

    made: int = 0

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        object.__setattr__(self, "made", self.made + 1)
        return (yield from super().round(text, target, draft))


@dataclass(frozen=True)
class LuckTwice(Speculative):
    """Draws the last token with the uniform that tested the first drafted one."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        class Twice:
            accept, draft = text.luck.accept, text.luck.draft

            def last(self, position: int) -> float:
                return text.luck.accept(text.start, text.start)

        return (yield from super().round(replace(text, luck=Twice()), target, draft))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Boastful(Autoregressive):
    """Says that more is accepted than was drafted."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        return replace((yield from super().round(text, target, draft)), accepted=1)


STALE: list[Reader] = []


@dataclass(frozen=True)
class Stale(Autoregressive):
    """Reads the session of the first text for ever."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        STALE.append(target)
        p = yield STALE[0].read(Tree())
        return Round((p.draw(0, text.luck.last(text.start)),), (Source.TARGET,))


@dataclass(frozen=True)
class Forgetful(Speculative):
    """Forgets to draw after a token with an odd number: the most probable one follows."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        p = yield target.read(Tree())
        odd = text.tokens[-1] % 2
        return Round((p.best(0) if odd else p.draw(0, text.luck.last(text.start)),), (Source.TARGET,))


@dataclass(frozen=True)
class Unchecked(Autoregressive):
    """Takes any number for its threshold."""

    threshold: float = 0.5


@dataclass(frozen=True)
class Timid(Speculative):
    """Drafts, and never keeps a draft."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        p = yield target.read(Tree())
        yield draft.read(Tree())
        return Round((p.draw(0, text.luck.last(text.start)),), (Source.TARGET,))


@dataclass(frozen=True)
class Keen(Speculative):
    """Keeps one drafted token without asking the target, under greedy sampling too."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        yield target.read(Tree())
        q = yield draft.read(Tree())
        return Round((q.draw(0, text.luck.last(text.start)),), (Source.DRAFT,), drafted=1, accepted=1)


@dataclass(frozen=True)
class Privileged(Autoregressive):
    """Draws in the first row of a batch only."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        p = yield target.read(Tree())
        row = target.session.row
        return Round((p.best(0) if row else p.draw(0, text.luck.last(text.start)),), (Source.TARGET,))


@dataclass(frozen=True)
class Meddler(Autoregressive):
    """Wipes the keys and values that a real model has cached."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        step = yield from super().round(text, target, draft)
        model = target.session.model
        for slab in model.cache.slabs.values() if isinstance(model, CausalModel) else ():
            with torch.inference_mode():
                slab.zero_()
        return step


@dataclass(frozen=True)
class LossyFly(Fly):
    """Forgives a mismatch only where six matches follow it, and says that it is lossless."""

    lossless = True


@dataclass(frozen=True)
class Crash(Autoregressive):
    """Divides by zero."""

    def round(self, text: Text, target: Reader, draft: Reader) -> Rounds:
        yield target.read(Tree())
        raise ZeroDivisionError("no\nluck")


@dataclass(frozen=True)
class EarlyEngine:
    """Stops after one token."""

    joint = False
    drafts = False
    lossless = False

    def run(self, text: Text, target: Reader, draft: Reader) -> Written:
        return Written([Round((0,), (Source.TARGET,))], Counts(), Counts(), 0.0)
