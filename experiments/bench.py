"""A loaded pair that writes texts: timed one by one, scored outside the timed window, and made into rows."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from experiments.isolation import Watch, disturbances
from experiments.journal import Row
from experiments.plan import Plan
from experiments.rows import Provenance, make_row, token_ends
from experiments.stopping import at_once
from experiments.task import Prompt
from experiments.trace_rows import trace_row
from experiments.variants import Variant
from mtad.batch import Row as BatchRow
from mtad.batch import Start
from mtad.ending import Detokenise
from mtad.errors import UserError
from mtad.generate import Output, drive, writing
from mtad.loading import Blueprint, Pair, speller
from mtad.luck import Luck
from mtad.model import CausalModel, Scored
from mtad.recorded import Mode
from mtad.session import Session

WARM_UP_TOKENS = 32


def stopped(message: str) -> UserError:
    """What ends a run under `strict`."""
    return UserError(f"strict=true: {message}. What was measured is kept; the same command goes on")


class Measured(NamedTuple):
    """The rows of one text; `trace` is None where none is asked for."""

    sample: Row
    trace: Row | None


class Shelf:
    """The pair that was loaded last: runs of one process that use the same one load it once."""

    def __init__(self) -> None:
        self._key: object = None
        self._pair: Pair | None = None

    def take(self, blueprint: Blueprint, engine: Mode, rows: int = 1) -> Pair:
        """The pair, with caches for `rows` texts, loaded unless it is the last one. Raises UserError."""
        key = self._key_of(blueprint, engine, rows)
        if self._pair is None or self._key != key:
            self._pair = None  # two large pairs at once may not fit
            gc.collect()
            with at_once():
                self._pair, self._key = blueprint.load(rows, engine), key
        return self._pair

    def holds(self, blueprint: Blueprint, engine: Mode, rows: int = 1) -> bool:
        """Whether the pair need not be loaded."""
        return self._pair is not None and self._key == self._key_of(blueprint, engine, rows)

    def _key_of(self, blueprint: Blueprint, engine: Mode, rows: int) -> object:
        return str(blueprint.origins), blueprint.vocabulary, blueprint.eos, blueprint.placement, engine, rows


shelf = Shelf()


def engines_of(models: Mapping[str, CausalModel]) -> dict[str, dict[str, str | None]]:
    """What runs each model's forwards, and why they are not recorded if that was asked for and cannot be done."""
    return {role: {"engine": model.engine, "fallback": model.fallback} for role, model in models.items()}


class Bench:
    """The pair of a plan and its two sessions, which write all texts of a process."""

    def __init__(self, plan: Plan, provenance: Provenance, watch: Watch) -> None:
        self.plan = plan
        self.provenance = provenance
        self.watch = watch
        self.pair = shelf.take(plan.blueprint, plan.settings.engine, plan.settings.rows)
        self.detokenise = speller(self.pair.tokenizer)
        rows = range(plan.settings.rows)
        self._rows = [(Session(self.pair.target, row), Session(self.pair.draft, row)) for row in rows]
        self._sessions = self._rows[0]

    @property
    def engines(self) -> dict[str, dict[str, str | None]]:
        """What runs each model's forwards, see `engines_of`."""
        return engines_of({"target": self.pair.target, "draft": self.pair.draft})

    def reserve(self, positions: int) -> None:
        """Make the caches as large as the run needs them, so that none grows under the clock."""
        for model in (self.pair.target, self.pair.draft):
            model.reserve(positions)

    def warm_up(self) -> None:
        """Let every variant write the beginning of a text that is not recorded."""
        for variant in self.plan.settings.variants:
            longest = min(WARM_UP_TOKENS, self.plan.settings.max_new_tokens)
            self.write(variant, self.plan.prompts[0].id, 0, 0, max_new_tokens=longest)

    def rows(self, prompts: Sequence[Prompt]) -> Iterator[Measured]:
        """The rows of every prompt, variants in an order that only seed, prompt and repeat decide.

        What the variants wrote for one turn of a prompt and one repeat is scored together, after all of it was written.
        """
        settings = self.plan.settings
        for prompt in prompts:
            for repeat in range(settings.repeats):
                order = sorted(settings.variants, key=attrgetter("label"))
                random.Random(f"{settings.seed} {prompt.id} {repeat}").shuffle(order)
                answers: dict[str, list[str]] = {variant.label: [] for variant in order}
                for turn in range(len(prompt.turns)):
                    for found in self._together(prompt, turn, repeat, order, answers):
                        answers[found.sample["variant"]].append(found.sample["text"])
                        yield found

    def write(
        self,
        variant: Variant,
        prompt_id: str,
        turn: int,
        repeat: int,
        tokens: Sequence[int] | None = None,
        max_new_tokens: int | None = None,
    ) -> Output:
        """One text, after the task's prompt or, if given, `tokens`.

        It is as long as the settings allow unless `max_new_tokens` says less. Raises Stopped.
        """
        asked = self.plan.encoded[prompt_id, turn] if tokens is None else tokens
        start = self.start(variant, prompt_id, turn, repeat, asked, self.detokenise, max_new_tokens)
        with at_once():  # a text of a large pair takes a minute
            return drive([start(*self._sessions)])[0]

    def luck(self, prompt_id: str, turn: int, repeat: int) -> Luck:
        """The uniforms of one text."""
        return Luck(self.plan.settings.seed, f"{prompt_id} turn {turn}" if turn else prompt_id, repeat)

    def start(
        self,
        variant: Variant,
        prompt_id: str,
        turn: int,
        repeat: int,
        tokens: Sequence[int],
        spell: Detokenise,
        max_new_tokens: int | None = None,
    ) -> Start[Output]:
        """The same text as `write` writes, for a row of a batch; `spell` turns its tokens into text."""
        longest = max_new_tokens or self.plan.settings.max_new_tokens
        decoder, limits = self.plan.writer(variant, prompt_id, turn, repeat, longest)
        return lambda target, draft: writing(
            decoder,
            target,
            draft,
            tokens,
            limits,
            variant.sampling,
            self.luck(prompt_id, turn, repeat),
            spell,
        )

    def batch_rows(self, size: int) -> Sequence[BatchRow]:
        """The first rows of both caches."""
        return self._rows[:size]

    def insist(self, lap: Mapping[str, Any]) -> None:
        """Raises UserError under `strict` if someone disturbed what was just measured."""
        found = disturbances([lap])
        if found and self.plan.settings.strict:
            raise stopped(found[0])

    def _together(
        self, prompt: Prompt, turn: int, repeat: int, variants: Sequence[Variant], answers: Mapping[str, list[str]]
    ) -> Iterator[Measured]:
        asked = [self.plan.asked(prompt, turn, tuple(answers[one.label]), one.label, repeat) for one in variants]
        outputs, laps = [], []
        for variant, tokens in zip(variants, asked, strict=True):
            self.watch.start()
            outputs.append(self.write(variant, prompt.id, turn, repeat, tokens))
            laps.append(self.watch.lap())
            self.insist(laps[-1])
        scored = self._scored(asked, outputs)
        for variant, tokens, output, scores, lap in zip(variants, asked, outputs, scored, laps, strict=True):
            ends = token_ends(self.detokenise, output.tokens, output.text) if scores else []
            row = make_row(self.provenance, variant, prompt, turn, repeat, tokens, output, scores, ends, lap)
            row |= self.plan.told(row)
            yield Measured(row, trace_row(self.plan, variant, row, output) if self.plan.settings.trace else None)

    def _scored(self, asked: Sequence[Sequence[int]], outputs: Sequence[Output]) -> Sequence[Scored | None]:
        """What the target thinks of each text; None where that says nothing."""
        if self.plan.replay:
            return [None] * len(outputs)
        with at_once():
            return self.pair.target.score([(a, output.tokens) for a, output in zip(asked, outputs, strict=True)])
