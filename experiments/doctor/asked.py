"""What is asked of the pair: the task's prompts and their grades, how long they are, the decoders, the results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments.build import missing
from experiments.doctor.finding import Finding, tried
from experiments.doctor.models import KnownPair
from experiments.memory import longest_prompt
from experiments.plan import Plan, TooLongError, plan_of
from experiments.settings import Settings
from experiments.variants import Variant
from mtad.errors import UserError


@dataclass(frozen=True)
class Asked:
    """What a task asks.

    Attributes:
        plan: of the run, or of one with estimated lengths; None: there is none.
        longest: tokens of the longest prompt with its answer; None: not known.
    """

    plan: Plan | None
    longest: int | None
    findings: tuple[Finding, ...]


def ask(settings: Settings, pair: KnownPair) -> Asked:
    """Put the task's prompts to the pair's tokenizer, or to a stand-in, whose lengths are estimates."""
    prompts = tried("prompts", lambda: f"{_taken(settings)} of task {settings.task_name}")
    grades = tried("task", lambda: _graded(settings))
    fixed = (prompts, grades)
    if pair.blueprint is None or prompts.verdict == "fails":
        why = pair.estimated if pair.blueprint is None else "there are no prompts"
        return Asked(None, None, (*fixed, Finding("positions", "not checked", why)))
    positions, new = pair.blueprint.max_positions, settings.max_new_tokens
    if new >= positions:
        said = f"max_new_tokens={new} leaves no room for a prompt in the pair's {positions} positions{pair.mark}"
        return Asked(None, None, (*fixed, Finding("positions", "fails", said, "lower max_new_tokens")))
    if pair.estimated:  # other tokens than the pair's: nothing is refused for their number
        settings = replace(settings, skip_long=True, chat=False)
    try:
        plan = plan_of(settings, pair.blueprint)
    except TooLongError as error:
        return Asked(None, None, (*fixed, Finding("positions", "fails", str(error))))
    except UserError as error:
        check = "positions" if pair.estimated else "prompting"
        verdict = Finding(check, "not checked" if pair.estimated else "fails", str(error))
        return Asked(None, None, (*fixed, verdict))
    longest = min(longest_prompt(plan) + new, positions)
    return Asked(plan, longest, (*fixed, *_positions(plan, pair, longest)))


def _taken(settings: Settings) -> str:
    prompts = len(settings.task.prompts())
    return f"{min(prompts, settings.limit or prompts)} of {prompts} prompts"


def _graded(settings: Settings) -> str:
    settings.task.check()
    return f"{settings.task_name} can be graded here"


def _positions(plan: Plan, pair: KnownPair, longest: int) -> tuple[Finding, ...]:
    new, positions = plan.settings.max_new_tokens, plan.blueprint.max_positions
    lengths = f"{longest - new} tokens with {new} new ones, of {positions} positions{pair.mark}"
    if pair.estimated:
        said = f"prompts not counted: {pair.estimated}; by another tokenizer the longest has {lengths}"
        return (Finding("positions", "not checked", said),)
    left_out = f"; {len(plan.too_long)} longer prompts are left out" if plan.too_long else ""
    how = "in the model's chat template" if plan.prompting.chat else "as plain text"
    return (
        Finding("positions", "ok", f"the longest prompt has {lengths}{left_out}"),
        Finding("prompting", "ok", f"prompts are put {how}"),
    )


def decoders(variants: Sequence[Variant], left_out: Mapping[str, str]) -> Finding:
    """Whether every decoder of the run can run here; some may be left out, each for a reason."""
    reasons = {variant.name: missing({"_target_": variant.target}) for variant in variants}
    lacking = [f"{name} cannot run here: {reason}" for name, reason in reasons.items() if reason]
    if lacking:
        return Finding("decoders", "fails", "; ".join(lacking), "leave it out of decoder and reference")
    absent = "".join(f"; {name} is left out: {reason}" for name, reason in left_out.items())
    return Finding("decoders", "ok", ", ".join(variant.label for variant in variants) + absent)


def results(folder: Path) -> Finding:
    """Whether results can be written; nothing is."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding("results", "ok", f"{folder} can be written to")
    why = "may not be written to" if there.is_dir() else "is a file"
    return Finding("results", "fails", f"results_dir={folder}: {there} {why}", "name another results_dir")
