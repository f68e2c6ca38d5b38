"""The machine against what a run would take of it: devices, memory, the meter of energy."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from experiments.doctor.finding import Finding, tried
from experiments.doctor.models import KnownPair
from experiments.memory import Need, estimate, forecast
from experiments.memory_report import spoken
from experiments.plan import Plan
from experiments.process import find_meter
from experiments.settings import Settings
from mtad.errors import UserError
from mtad.placement import ON_CPU, Placement, find_device, find_placement
from mtad.shared import check_shared
from mtad.sources import Source

SMALLER = "fewer bits (model.target.bits=8 or 4), more GPUs (device_map=auto), a shorter dtype, or a smaller pair"


def place(settings: Settings) -> tuple[Placement, list[Finding]]:
    """Where the pair goes; all on one device, or on the CPU, where that cannot be."""
    try:
        device = find_device(settings.device)
    except UserError as error:
        return ON_CPU, [Finding("device", "fails", str(error))]
    threads = torch.get_num_threads()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} thread{'s' * (threads > 1)}"
    here = Finding("device", "ok", f"{device}: {name}")
    try:
        found = find_placement(settings.device, settings.device_map, settings.draft_device, settings.tp_plan)
    except UserError as error:
        return Placement.on(device), [here, Finding("placement", "fails", str(error))]
    said = f"both models whole on {found}" if found.single else str(found)
    return found, [here, Finding("placement", "ok", said)]


def shared(settings: Settings, pair: KnownPair, placement: Placement) -> Iterator[Finding]:
    """Whether the target can be shared among processes; nothing where that is not asked for."""
    known = pair.models["target"]
    source = known.source
    if settings.tp_plan and source is None:
        yield Finding("tp_plan", "not checked", "the target's configuration is not known")
    elif settings.tp_plan and source is not None:
        kind = source.config.model_type

        def can_be() -> str:
            check_shared(source, placement.ranks)
            return f"transformers has a tensor-parallel plan for {kind}{known.mark}"

        yield tried("tp_plan", can_be)


def memory(
    settings: Settings, pair: KnownPair, plan: Plan | None, judge: Source | None, device: torch.device
) -> tuple[Finding, Need | None]:
    """What the run needs against what the device has; of texts as long as the pair reads, where there is no plan."""
    if pair.blueprint is None:
        return Finding("memory", "not checked", pair.estimated), None
    if plan:
        need, of = forecast(plan, judge, settings.rows), ""
    else:
        new = min(settings.max_new_tokens, pair.blueprint.max_positions)
        packs = settings.engine != "eager"
        longest = pair.blueprint.max_positions - new
        need = estimate(pair.blueprint, longest, new, settings.rows, judge, packs)
        of = " for texts of all its positions"
    try:
        lines = need.say(device)
    except UserError as error:
        return Finding("memory", "fails", f"{error}{of}{pair.mark}"), need
    close = any(line.startswith("warning") for line in lines)
    said = "; ".join(line.removeprefix("memory: ").removeprefix("warning: ") for line in lines)
    said = f"{spoken(need.total)}: {said}{of}{pair.mark}"
    return Finding("memory", "warning" if close else "ok", said, SMALLER if close else ""), need


def meter(settings: Settings, placement: Placement) -> Finding:
    """Whether joules can be read."""
    try:
        found, reason = find_meter(settings, placement)
    except UserError as error:
        return Finding("energy", "fails", str(error))
    if found:
        return Finding("energy", "ok", f"counters of {', '.join(device.name for device in found.devices)}")
    wanted = settings.energy is None and placement.device.type == "cuda"
    return Finding("energy", "warning" if wanted else "ok", f"no joules: {reason}")
