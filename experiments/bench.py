"""A loaded pair that writes texts: timed one by one, scored and graded outside the timed window, and made into rows."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from experiments.isolation import Watch, disturbances
from experiments.journal import Row
from experiments.plan import Plan
from experiments.rows import Provenance, make_row
from experiments.task import Prompt
from experiments.variants import Variant
from mtad.errors import UserError
from mtad.generate import Output, generate
from mtad.loading import speller
from mtad.luck import Luck
from mtad.session import Session

WARM_UP_TOKENS = 32


def stopped(message: str) -> UserError:
    """What ends a run under `strict`."""
    return UserError(f"strict=true: {message}. What was measured is kept; the same command goes on")


class Bench:
    """The pair of a plan and its two sessions, which write all texts of a process."""

    def __init__(self, plan: Plan, provenance: Provenance, watch: Watch) -> None:
        self.plan = plan
        self.provenance = provenance
        self.watch = watch
        self.pair = plan.blueprint.load(plan.device)
        self._detokenise = speller(self.pair.tokenizer)
        self._sessions = Session(self.pair.target), Session(self.pair.draft)

    def warm_up(self) -> None:
        """Let every variant write the beginning of a text that is not recorded."""
        for variant in self.plan.settings.variants:
            self.write(variant, self.plan.prompts[0], 0, min(WARM_UP_TOKENS, self.plan.settings.max_new_tokens))

    def rows(self, prompts: Sequence[Prompt]) -> Iterator[Row]:
        """The rows of every prompt, variants in an order that only seed, prompt and repeat decide.

        What the variants wrote for one prompt and repeat is scored together, after all of it has been written.
        """
        settings = self.plan.settings
        for prompt in prompts:
            for repeat in range(settings.repeats):
                order = sorted(settings.variants, key=attrgetter("label"))
                random.Random(f"{settings.seed} {prompt.id} {repeat}").shuffle(order)
                yield from self._together(prompt, repeat, order)

    def write(self, variant: Variant, prompt: Prompt, repeat: int, max_new_tokens: int | None = None) -> Output:
        """One text, as long as the settings allow unless `max_new_tokens` says less."""
        settings = self.plan.settings
        return generate(
            variant.decoder,
            *self._sessions,
            self.plan.encoded[prompt.id],
            self.plan.limits(max_new_tokens or settings.max_new_tokens),
            variant.sampling,
            Luck(settings.seed, prompt.id, repeat),
            self._detokenise,
        )

    def insist(self, lap: Mapping[str, Any]) -> None:
        """Raises UserError under `strict` if someone disturbed what was just measured."""
        found = disturbances([lap])
        if found and self.plan.settings.strict:
            raise stopped(found[0])

    def _together(self, prompt: Prompt, repeat: int, variants: Sequence[Variant]) -> Iterator[Row]:
        tokens = self.plan.encoded[prompt.id]
        outputs, laps = [], []
        for variant in variants:
            self.watch.start()
            outputs.append(self.write(variant, prompt, repeat))
            laps.append(self.watch.lap())
            self.insist(laps[-1])
        scored = self.pair.target.score([(tokens, output.tokens) for output in outputs])
        for variant, output, scores, lap in zip(variants, outputs, scored, laps, strict=True):
            grades = self.plan.settings.task.grade(prompt, output.text)
            yield make_row(self.provenance, variant, prompt, repeat, len(tokens), output, scores, grades, lap)
