"""One run: prepare, measure what is not measured yet, report.

Every variant writes a text for every prompt and repeat, in random order prompt by prompt, so that drift of the machine
hits all alike. Scoring and grading stand outside the timed window, which `mtad.generate` owns.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any
from uuid import uuid4

import torch
from transformers.utils.logging import disable_progress_bar

from experiments.code_version import code_hash, git_version
from experiments.environment import describe_process, no_energy_reason
from experiments.identity import published_config, run_id
from experiments.journal import SCHEMA_VERSION, Row
from experiments.progress import progress, say
from experiments.records import Cell, RunFolder, settled
from experiments.report import summarise
from experiments.rows import Provenance, make_row
from experiments.settings import Settings
from experiments.table import print_table
from experiments.task import Prompt
from experiments.variants import Variant
from mtad.ending import Limits
from mtad.errors import UserError
from mtad.generate import Output, generate
from mtad.loading import Blueprint, Pair, find_device, inspect_pair
from mtad.luck import Luck
from mtad.session import Session

WARM_UP_TOKENS = 32


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
    def weights(self) -> dict[str, Any]:
        """Where the weights came from, as JSON data."""
        return {role: asdict(origin) for role, origin in self.blueprint.origins.items()}

    def limits(self, max_new_tokens: int) -> Limits:
        """When a text ends."""
        settings = self.settings
        return Limits(max_new_tokens, self.blueprint.eos, settings.task.stop, settings.ignore_eos)


def run(settings: Settings) -> None:
    """Measure, or finish what was begun, or show what is complete; ends in a table. Raises UserError."""
    plan = prepare(settings)
    with plan.folder.locked():
        rows = [] if settings.fresh else plan.folder.samples.rows()
        _check_code(plan, rows)
        done = {row["prompt_id"] for row in settled(rows, plan.cells)}
        remaining = [prompt for prompt in plan.prompts if prompt.id not in done]
        if remaining:
            measure(plan, remaining)
        else:
            say(f"complete already, nothing to measure (fresh=true would measure again): {plan.folder.path}")
        summary = report(plan)
    print_table(summary)


def prepare(settings: Settings) -> Plan:
    """Find the models, take the prompts, and check that they fit. Raises UserError."""
    device = find_device(settings.device)
    blueprint = inspect_pair(settings.target, settings.draft, settings.dtype)
    prompts = settings.task.prompts()[: settings.limit]
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


def measure(plan: Plan, prompts: Sequence[Prompt]) -> None:
    """Load the pair, warm every variant up, and append the rows of `prompts`."""
    settings, folder = plan.settings, plan.folder
    say(f"{len(prompts)} prompts, {len(settings.variants)} variants on {plan.device}: {folder.path}")
    process_id = f"{os.getpid()}-{uuid4().hex[:12]}"
    started = datetime.now(UTC).isoformat(timespec="seconds")
    if not sys.stderr.isatty():
        disable_progress_bar()
    provenance = Provenance(plan.id, process_id, git_version(), code_hash(), settings.seed, no_energy_reason())
    before = [] if settings.fresh else folder.read_json("environment.json").get("processes", [])
    bench = Bench(plan, plan.blueprint.load(plan.device), provenance)
    for variant in settings.variants:
        bench.write(variant, prompts[0], 0, min(WARM_UP_TOKENS, settings.max_new_tokens))
    if settings.fresh:
        folder.clear()
    processes = [*before, describe_process(process_id, started, plan.device)]
    stamp = {"schema_version": SCHEMA_VERSION, "run_id": plan.id}
    folder.write_json("environment.json", {**stamp, "weights": plan.weights, "processes": processes})
    folder.write_yaml("config.yaml", {**stamp, **published_config(settings, plan.blueprint)})
    total = len(plan.prompts) * len(plan.cells)
    with progress(total, total - len(prompts) * len(plan.cells)) as advance:
        for row in bench.rows(prompts):
            folder.samples.append(row)
            advance(row["variant"])


class Bench:
    """A loaded pair and its two sessions, which write all texts of a process."""

    def __init__(self, plan: Plan, pair: Pair, provenance: Provenance) -> None:
        self.plan = plan
        self.pair = pair
        self.provenance = provenance
        self._sessions = Session(pair.target), Session(pair.draft)

    def rows(self, prompts: Sequence[Prompt]) -> Iterator[Row]:
        """The rows of every prompt, variants in an order that only seed, prompt and repeat decide."""
        settings = self.plan.settings
        for prompt in prompts:
            for repeat in range(settings.repeats):
                order = sorted(settings.variants, key=attrgetter("label"))
                random.Random(f"{settings.seed} {prompt.id} {repeat}").shuffle(order)
                for variant in order:
                    yield self._row(variant, prompt, repeat)

    def write(self, variant: Variant, prompt: Prompt, repeat: int, max_new_tokens: int) -> Output:
        """One text."""
        return generate(
            variant.decoder,
            *self._sessions,
            self.plan.encoded[prompt.id],
            self.plan.limits(max_new_tokens),
            variant.sampling,
            Luck(self.plan.settings.seed, prompt.id, repeat),
            self._detokenise,
        )

    def _row(self, variant: Variant, prompt: Prompt, repeat: int) -> Row:
        output = self.write(variant, prompt, repeat, self.plan.settings.max_new_tokens)
        tokens = self.plan.encoded[prompt.id]
        scores = self.pair.target.log_likelihoods(tokens, output.tokens)
        grades = self.plan.settings.task.grade(prompt, output.text)
        return make_row(self.provenance, variant, prompt, repeat, len(tokens), output, scores.tolist(), grades)

    def _detokenise(self, tokens: Sequence[int]) -> str:
        text = self.pair.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)


def report(plan: Plan) -> dict[str, object]:
    """Drop superseded rows, and write and return the summary."""
    rows = plan.folder.samples.rows()
    kept = settled(rows, plan.cells)
    if len(kept) < len(rows):
        plan.folder.samples.rewrite(kept)
    settings = plan.settings
    labels = [variant.label for variant in settings.variants]
    summary = summarise(kept, plan.id, settings.model, settings.task_name, labels)
    summary["weights"] = plan.weights
    plan.folder.write_json("summary.json", summary)
    return summary


def _check_code(plan: Plan, rows: Sequence[Row]) -> None:
    if not plan.settings.mixed and {row["code"] for row in rows} - {code_hash()}:
        raise UserError(
            f"the code has changed since rows of {plan.folder.path} were measured: fresh=true measures them again, "
            f"resume=mixed goes on and marks the mixture"
        )
