"""`doctor=true`: every check of what a run would need, made even where others fail, and no weight read.

Writes nothing but its table. What is wrong with the configuration itself has ended the program before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch

from experiments.doctor.asked import ask, decoders, results
from experiments.doctor.disk import disk
from experiments.doctor.finding import Finding, failing, print_findings
from experiments.doctor.machine import bits, device_of, memory, meter, placement
from experiments.doctor.models import Known, KnownPair, attention, know, know_pair
from experiments.doctor.slurm import Use, slurm
from experiments.settings import Settings
from experiments.stopping import at_once
from experiments.threads import set_threads
from mtad.errors import UserError


@at_once()
def examine(each: Sequence[Settings]) -> None:
    """Print what every check finds; models are looked for once for all tasks. Raises UserError if a check fails."""
    first = each[0]
    set_threads(first.threads)
    device, on_device = device_of(first)
    pair = know_pair(first.target, first.draft, first.dtype, device)
    judge = know("judge", first.judge, None, device, "judge") if first.judge else None
    models = [*pair.models.values(), *([judge] if judge else [])]
    findings = [finding for known in models for finding in known.findings]
    findings += [pair.vocabulary, disk(models), on_device, *placement(first, pair), *bits(pair)]
    for settings in each:
        about_task = list(_task(settings, pair, judge, device))
        title = f" ({settings.task_name})" if len(each) > 1 else ""
        findings += [
            Finding(finding.check + title, finding.verdict, finding.found, finding.advice) for finding in about_task
        ]
    findings += [decoders(first.variants), results(first.results_dir)]
    print_findings(f"doctor: {first.model}, {', '.join(settings.task_name for settings in each)}", findings)
    if failed := failing(findings):
        number = f"{len(failed)} checks fail" if len(failed) > 1 else "a check fails"
        raise UserError(f"this would not run here, {number}: {', '.join(failed)}")


def _task(settings: Settings, pair: KnownPair, judge: Known | None, device: torch.device) -> Iterator[Finding]:
    """The checks that depend on how long texts are."""
    asked = ask(settings, pair, device)
    yield from asked.findings
    yield from attention(pair, asked.longest)
    fits, need = memory(asked.plan, pair, judge.source if judge else None)
    yield fits
    yield meter(asked.plan)
    on_gpu = device.type == "cuda"
    taken = None if on_gpu or need is None else need.total
    yield from slurm(os.environ, Use(torch.cuda.device_count(), on_gpu, torch.get_num_threads(), taken))
