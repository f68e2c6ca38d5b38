"""A plan: what a run will measure, after every check that needs no weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from experiments.build import missing
from experiments.identity import run_id
from experiments.records import Cell, RunFolder
from experiments.redact import redact
from experiments.settings import Settings
from experiments.task import Prompt
from mtad.ending import Limits
from mtad.errors import UserError
from mtad.loading import Blueprint, find_device, inspect_pair


@dataclass(frozen=True)
class Plan:
    """A run whose every check that needs no weights has passed.

    Attributes:
        prompts: those to be measured, in the task's order.
        encoded: token ids of each prompt, by its id.
    """

    settings: Settings
    blueprint: Blueprint
    device: torch.device
    prompts: Sequence[Prompt]
    encoded: dict[str, list[int]]
    id: str
    folder: RunFolder

    @property
    def cells(self) -> list[Cell]:
        """What a prompt is done with: every variant, every repeat."""
        return [
            (variant.label, repeat) for repeat in range(self.settings.repeats) for variant in self.settings.variants
        ]

    @property
    def labels(self) -> list[str]:
        """The variants, the decoder under study first."""
        return [variant.label for variant in self.settings.variants]

    @property
    def weights(self) -> dict[str, Any]:
        """Where the weights came from, as JSON data."""
        weights: dict[str, Any] = redact({role: asdict(origin) for role, origin in self.blueprint.origins.items()})
        return weights  # a folder may bear its user's name

    def limits(self, max_new_tokens: int) -> Limits:
        """When a text ends."""
        settings = self.settings
        return Limits(max_new_tokens, self.blueprint.eos, settings.task.stop, settings.ignore_eos)


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


def prepare(settings: Settings) -> Plan:
    """Find the models, take the prompts, and check that they fit. Raises UserError."""
    device = find_device(settings.device)
    for variant in settings.variants:
        if reason := missing({"_target_": variant.target}):
            raise UserError(f"decoder {variant.name} cannot run here: {reason}")
    blueprint = inspect_pair(settings.target, settings.draft, settings.dtype)
    prompts = settings.task.prompts()[settings.skip :][: settings.limit]
    if not prompts:
        raise UserError(f"task {settings.task_name} has no prompts")
    name, times = Counter(prompt.id for prompt in prompts).most_common(1)[0]
    if times > 1:
        raise UserError(f"task {settings.task_name} has {times} prompts with the id {name!r}")
    encoded = {prompt.id: [int(token) for token in blueprint.tokenizer(prompt.text)["input_ids"]] for prompt in prompts}
    room = blueprint.max_positions - settings.max_new_tokens
    for name, tokens in encoded.items():
        if not tokens:
            raise UserError(f"prompt {name} has no tokens")
        if len(tokens) > room:
            raise UserError(
                f"prompt {name} has {len(tokens)} tokens; of the pair's {blueprint.max_positions} positions "
                f"max_new_tokens={settings.max_new_tokens} leaves {room}: lower it, or leave the prompt out"
            )
    name = run_id(settings, blueprint, prompts, device)
    folder = RunFolder(settings.results_dir / settings.name / name)
    return Plan(settings, blueprint, device, prompts, encoded, name, folder)
