"""`doctor=true`: every check of what a run would need, made even where others fail, and no weight read.

Writes nothing but its table. What is wrong with the configuration itself has ended the program before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from experiments import groups
from experiments.doctor.asked import ask, decoders, results
from experiments.doctor.disk import disk
from experiments.doctor.finding import Finding, failing, print_findings
from experiments.doctor.machine import memory, meter, place, shared
from experiments.doctor.models import ROLES, Known, attention, know, know_pair
from experiments.doctor.slurm import Use, slurm
from experiments.judge import find_judge
from experiments.settings import Settings
from experiments.stopping import at_once
from experiments.threads import set_threads
from mtad.errors import UserError


def examine(each: Sequence[Settings]) -> None:
    """Print what every check finds. Raises UserError if one fails."""
    findings = diagnose(each)
    print_findings(f"doctor: {each[0].model}, {', '.join(settings.task_name for settings in each)}", findings)
    if failed := failing(findings):
        number = f"{len(failed)} checks fail" if len(failed) > 1 else "a check fails"
        raise UserError(f"this would not run here, {number}: {', '.join(failed)}")


@at_once()
def diagnose(each: Sequence[Settings]) -> list[Finding]:
    """What every check finds; models are looked for once for all tasks."""
    first = each[0]
    set_threads(first.threads)
    placement, on_devices = place(first)
    pair = know_pair(first.target, first.draft, first.dtype, placement)
    judge = know("judge", first.judge, None, placement.draft, "judge", find_judge) if first.judge else None
    models = [*pair.models.values(), *([judge] if judge else [])]
    findings = [_with_gate(finding, known) for known in models for finding in known.findings]
    findings += [pair.vocabulary, disk(models), *on_devices, *shared(first, pair, placement)]
    asked = [ask(settings, pair) for settings in each]
    needs = []
    for settings, its in zip(each, asked, strict=True):
        fits, need = memory(settings, pair, its.plan, judge.source if judge else None, placement.device)
        title = f" ({settings.task_name})" if len(each) > 1 else ""
        findings += [replace(finding, check=finding.check + title) for finding in (*its.findings, fits)]
        needs.append(need.total if need else 0)
    findings += attention(pair, max((its.longest for its in asked if its.longest), default=None))
    if pair.refusal and not any(pair.refusal in finding.found for finding in findings):
        findings.append(Finding("pair", "fails", pair.refusal))
    on_gpu = placement.device.type == "cuda"
    use = Use(torch.cuda.device_count(), on_gpu, torch.get_num_threads(), None if on_gpu else max(needs))
    findings += [meter(first, placement), *slurm(os.environ, use)]
    return [*findings, decoders(first.variants, first.left_out), results(first.results_dir)]


def _with_gate(finding: Finding, known: Known) -> Finding:
    """Where the hub could not be asked: what the pair's YAML says of the access to this model."""
    original = groups.load("model", groups.choice("model"))
    same = known.role in ROLES and original[known.role].get("id") == known.spec.id
    gated = same and original.get("gated", {}).get(known.role)
    if finding.verdict != "fails" or "access" not in finding.check or not gated or "gated" in finding.found:
        return finding
    return replace(finding, advice="it is gated: ask for access on its page on the hub, and set HF_TOKEN to a token")
