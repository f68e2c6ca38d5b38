"""The machine against what a run would take of it: devices and backends, memory, the meter of energy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import torch

from experiments.doctor.finding import Finding
from experiments.doctor.models import Known, KnownPair
from experiments.memory import Need, estimate, forecast
from experiments.memory_report import spoken
from experiments.plan import Plan
from experiments.process import find_meter
from experiments.settings import Settings
from mtad.errors import UserError
from mtad.loading import Source, find_device

CPU = torch.device("cpu")
QUANTIZERS = ("torchao", "bitsandbytes")
SMALLER = "fewer bits (model.target.bits=8 or 4), more GPUs (device_map=auto), a shorter dtype, or a smaller pair"


def device_of(settings: Settings) -> tuple[torch.device, Finding]:
    """The device of the run; the CPU where there is no such one."""
    try:
        device = find_device(settings.device)
    except UserError as error:
        return CPU, Finding("device", "fails", str(error))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return device, Finding("device", "ok", f"{device}: {name}")


def placement(settings: Settings, pair: KnownPair, variables: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Whether the models can be spread as asked for."""
    if settings.device_map:
        yield _device_map(settings)
    if settings.tp_plan:
        yield _tensor_parallel(pair.models["target"], variables)
    if not (settings.device_map or settings.tp_plan):
        yield Finding("placement", "ok", "each model whole on one device")


def _device_map(settings: Settings) -> Finding:
    gpus = torch.cuda.device_count()
    names = () if settings.device_map == "auto" else tuple(settings.device_map or ())
    if find_spec("accelerate") is None:
        advice = "pip install 'mtad-bench[large]' (in a clone: pip install -e '.[large]')"
        return Finding("placement", "fails", "device_map needs the package accelerate", advice)
    for name in (*names, *filter(None, [settings.draft_device])):
        try:
            find_device(name)
        except UserError as error:
            return Finding("placement", "fails", f"device_map: {error}")
    if settings.device_map == "auto" and gpus < 2:
        said = f"device_map=auto spreads over all GPUs, and torch sees {gpus}"
        return Finding("placement", "warning" if gpus else "fails", said, "leave device_map out")
    draft = settings.draft_device or "beside its last layer"
    return Finding("placement", "ok", f"the target over {', '.join(names) or f'{gpus} GPUs'}, the draft {draft}")


def _tensor_parallel(target: Known, variables: Mapping[str, str]) -> Finding:
    if target.source is None:
        return Finding("placement", "not checked", "tp_plan: the target's configuration is not known")
    config = target.source.config
    if not getattr(config, "base_model_tp_plan", None):
        said = f"transformers has no tensor-parallel plan for {config.model_type} models{target.mark}"
        return Finding("placement", "fails", said, "device_map=auto spreads its layers over several GPUs instead")
    if "WORLD_SIZE" not in variables:
        said = "tp_plan=auto works in the processes that torchrun starts, and this is none of them"
        return Finding("placement", "fails", said, "torchrun --nproc-per-node N run.py ...")
    return Finding("placement", "ok", f"the target tensor-parallel over {variables['WORLD_SIZE']} processes")


def bits(pair: KnownPair) -> Iterator[Finding]:
    """Whether what quantizes is installed; nothing where nothing is to be quantized."""
    for known in pair.models.values():
        spec, check = known.spec, f"{known.role}: bits"
        if spec.bits is None:
            continue
        wanted = (spec.quantizer,) if spec.quantizer else QUANTIZERS
        there = [name for name in wanted if name and find_spec(name)]
        if spec.bits not in (8, 4):
            yield Finding(check, "fails", f"bits must be 8, 4 or null, not {spec.bits}")
        elif not there:
            advice = "pip install 'mtad-bench[large]' (in a clone: pip install -e '.[large]')"
            yield Finding(check, "fails", f"{spec.bits} bits need the package {' or '.join(wanted)}", advice)
        else:
            yield Finding(check, "ok", f"{spec.bits} bits, by {there[0]}")


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
        need = estimate(pair.blueprint, longest, new, settings.rows, judge, device, packs=packs)
        of = " for texts of all its positions"
    try:
        lines = need.say(device)
    except UserError as error:
        return Finding("memory", "fails", f"{error}{of}{pair.mark}"), need
    close = any(line.startswith("warning") for line in lines)
    said = "; ".join(line.removeprefix("memory: ").removeprefix("warning: ") for line in lines)
    said = f"{spoken(need.total)}: {said}{of}{pair.mark}"
    return Finding("memory", "warning" if close else "ok", said, SMALLER if close else ""), need


def meter(plan: Plan | None) -> Finding:
    """Whether joules can be read."""
    if plan is None:
        return Finding("energy", "not checked", "there is no plan of the run")
    try:
        found, reason = find_meter(plan)
    except UserError as error:
        return Finding("energy", "fails", str(error))
    if found:
        return Finding("energy", "ok", f"counters of {', '.join(device.name for device in found.devices)}")
    wanted = plan.settings.energy is None and plan.device.type == "cuda"
    return Finding("energy", "warning" if wanted else "ok", f"no joules: {reason}")
