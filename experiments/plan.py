"""A plan: what a run will measure, after every check that needs no weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import torch

from experiments.build import lacking
from experiments.doctor.slurm import check_tasks
from experiments.identity import run_id
from experiments.journal import Row
from experiments.prompting import Prompting, looks_back, prompting
from experiments.records import Cell, RunFolder
from experiments.redact import redact
from experiments.settings import Settings
from experiments.stopping import at_once
from experiments.task import Prompt
from experiments.threads import set_threads
from experiments.variants import Variant
from mtad.attention import check_trees
from mtad.decoder import Decoder, Engine
from mtad.ending import Limits
from mtad.errors import UserError
from mtad.loading import Blueprint, inspect_pair
from mtad.placement import Placement, find_placement


@dataclass(frozen=True)
class Plan:
    """A run whose every check that needs no weights has passed.

    Attributes:
        prompts: those to be measured, in the task's order.
        too_long: names of prompts that were left out because the pair cannot read them.
        prompting: how they are put to the model.
        encoded: token ids of each turn, by prompt id and turn, as far as these depend on no answer.
    """

    settings: Settings
    blueprint: Blueprint
    prompts: Sequence[Prompt]
    too_long: list[str]
    prompting: Prompting
    encoded: dict[tuple[str, int], list[int]]
    id: str
    folder: RunFolder

    @cached_property
    def cells(self) -> dict[str, list[Cell]]:
        """What each prompt is done with, by its id: every variant, every repeat, every turn."""
        repeats = range(self.settings.repeats)
        return {prompt.id: list(product(self.labels, repeats, range(len(prompt.turns)))) for prompt in self.prompts}

    @property
    def replay(self) -> Mapping[str, Any] | None:
        """Whose reads are done again, and on which weights, as JSON data; None where decoders write by themselves."""
        return None

    def writer(
        self, variant: Variant, prompt_id: str, turn: int, repeat: int, max_new_tokens: int
    ) -> tuple[Decoder, Limits]:
        """What writes a text of at most so many tokens, and when it ends."""
        return variant.decoder, self.limits(max_new_tokens)

    def told(self, row: Row) -> Row:
        """What else is known of the text of a row."""
        return {}

    def asked(self, prompt: Prompt, turn: int, answers: Sequence[str], label: str = "", repeat: int = 0) -> list[int]:
        """Token ids of a turn, after what the decoder has answered to those before."""
        known = self.encoded.get((prompt.id, turn))
        return self.prompting.encode(prompt, turn, answers) if known is None else known

    @property
    def placement(self) -> Placement:
        """Where the pair goes."""
        return self.blueprint.placement

    @property
    def device(self) -> torch.device:
        """Where the target takes its input."""
        return self.placement.device

    @property
    def labels(self) -> list[str]:
        """The variants, the decoder under study first."""
        return [variant.label for variant in self.settings.variants]

    @property
    def weights(self) -> dict[str, Any]:
        """Where the weights came from, as JSON data."""
        weights: dict[str, Any] = redact({role: asdict(origin) for role, origin in self.blueprint.origins.items()})
        return weights  # a folder may bear its user's name

    def context(self, row: Row) -> list[int]:
        """Token ids of what a row's text stands after."""
        known: list[int] | None = row["prompt_token_ids"]
        return self.encoded[row["prompt_id"], row["turn"]] if known is None else known

    def lengths(self, prompt: Prompt) -> list[int | None]:
        """Tokens of what each turn is answered after; None where that depends on answers."""
        found = [self.encoded.get((prompt.id, turn)) for turn in range(len(prompt.turns))]
        return [None if tokens is None else len(tokens) for tokens in found]

    def limits(self, max_new_tokens: int) -> Limits:
        """When a text ends."""
        settings = self.settings
        stop = settings.task.chat_stop if self.prompting.chat else settings.task.stop
        return Limits(max_new_tokens, self.blueprint.eos, stop, settings.ignore_eos)


def changed(settings: Settings, **options: Any) -> Settings:
    """The settings with some changed, in `config` as well: config.yaml states what is done."""
    return replace(settings, **options, config={**settings.config, **options})


def split(settings: Settings, held: int) -> tuple[Settings, Settings]:
    """The run, and one on the last `held` prompts of the task, which the run leaves out. Raises UserError.

    A run without a limit takes all the others.
    """
    size = len(settings.task.prompts())
    first = size - held
    if (settings.limit or 1) > first:
        wanted = f"limit={settings.limit}" if settings.limit else "at least one"
        raise UserError(
            f"task {settings.task_name} has {size} prompts, too few for {wanted} and another {held} for tuning"
        )
    return changed(settings, limit=settings.limit or first), changed(settings, skip=first, limit=held)


@at_once()
def prepare(settings: Settings) -> Plan:
    """Find the models, take the prompts, and check that they fit. Raises UserError."""
    check_tasks(os.environ)
    placement = place(settings)
    for variant in settings.variants:
        if reason := lacking(type(variant.decoder)):
            raise UserError(f"decoder {variant.name} cannot run here: {reason}")
        if placement.ranks > 1 and isinstance(variant.decoder, Engine):
            raise UserError(f"{variant.name} is an engine, which tp_plan=auto cannot lead: leave it out")
    return plan_of(settings, inspect_pair(settings.target, settings.draft, settings.dtype, placement))


def place(settings: Settings) -> Placement:
    """Where the pair is to be; torch's threads are set, before anything is computed. Raises UserError."""
    placement = find_placement(settings.device, settings.device_map, settings.draft_device, settings.tp_plan)
    set_threads(settings.threads)
    return placement


def plan_of(settings: Settings, blueprint: Blueprint) -> Plan:
    """What is to be asked of a pair that was found: the prompts, checked to fit. Raises UserError."""
    everything = settings.task.prompts()
    _check_ids(settings.task_name, everything)
    positions = blueprint.max_positions
    how = prompting(settings.task, blueprint.tokenizer, settings.chat, positions - settings.max_new_tokens)
    prompts, encoded, too_long = _taken(everything[settings.skip :], settings, how, positions)
    longest = max(map(len, encoded.values()), default=0) + settings.max_new_tokens
    for source in (blueprint.target, blueprint.draft):
        check_trees(source.name, source.config, longest)
    name = run_id(settings, blueprint, prompts, how, encoded)
    folder = RunFolder(settings.results_dir / settings.name / name)
    return Plan(settings, blueprint, prompts, too_long, how, encoded, name, folder)


class TooLongError(UserError):
    """A prompt that the pair cannot read and answer."""


def _check_ids(task: str, prompts: Sequence[Prompt]) -> None:
    """Raises UserError if two prompts have one id."""
    times = Counter(prompt.id for prompt in prompts)
    doubled = [prompt for prompt in prompts if times[prompt.id] > 1]
    if doubled:
        one = doubled[0].id
        places = sorted(prompt.place for prompt in doubled if prompt.id == one and prompt.place)
        where = f": {', '.join(places)}" if places else ""
        raise UserError(f"task {task} has {times[one]} prompts with the id {one!r}{where}")


def _taken(
    prompts: Sequence[Prompt], settings: Settings, how: Prompting, positions: int
) -> tuple[list[Prompt], dict[tuple[str, int], list[int]], list[str]]:
    """The prompts to be measured, the ids of their turns that depend on no answer, and the names of those left out."""
    taken: list[Prompt] = []
    encoded: dict[tuple[str, int], list[int]] = {}
    too_long: list[str] = []
    for prompt in prompts:
        if len(taken) == settings.limit:
            break
        try:
            turns = [_fitting(how, prompt, i, settings.max_new_tokens, positions) for i in range(len(prompt.turns))]
        except TooLongError:
            if not settings.skip_long:
                raise
            too_long.append(prompt.id)
            continue
        taken.append(prompt)
        encoded |= {(prompt.id, i): tokens for i, tokens in enumerate(turns) if not looks_back(prompt, i)}
    if not taken:
        raise UserError(f"task {settings.task_name} has no prompts" + (" that the pair can read" if too_long else ""))
    return taken, encoded, too_long


def _fitting(how: Prompting, prompt: Prompt, turn: int, new: int, positions: int) -> list[int]:
    """The ids of a turn, its own answers taken as empty. Raises UserError where the pair cannot read and answer it."""
    tokens = how.encode(prompt, turn, [""] * turn)
    place = f" ({prompt.place})" if prompt.place else ""
    name = f"prompt {prompt.id}{place}" + (f", turn {turn + 1}," if turn else "")
    if not tokens:
        raise UserError(f"{name} has no tokens")
    if len(tokens) > how.room:
        raise TooLongError(
            f"{name} has {len(tokens)} tokens; of the pair's {positions} positions max_new_tokens={new} leaves "
            f"{max(how.room, 0)}: lower it, or skip_long=true leaves such prompts out"
        )
    return tokens
