"""What figures rest on, for a page: the runs, the machines and programs that measured, caveats, and nulls with reasons.

Knows summaries and environments; refuses to know how any of it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from experiments.report.results import Results, Run
from experiments.report.tables.table import DAGGER

FEW = 30  # prompts; with fewer, an interval is wide and its coverage is not to be trusted far
NO_ENVIRONMENT = "not beside these summaries (environment.json)"
UNNUMBERED = "value"  # a null that has no name but its place's


@dataclass(frozen=True)
class About:
    """A run, in the words of a table's row; of a stand-in its model carries a dagger."""

    name: str
    experiment: str
    model: str
    task: str
    prompts: int
    variants: int
    texts: int
    device: str


@dataclass(frozen=True)
class Machine:
    """One machine with one set of programs: pairs of name and value, and the runs that were measured there."""

    facts: tuple[tuple[str, str], ...]
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Null:
    """A figure that was not measured, why, and of which variants and runs."""

    figure: str
    reason: str
    variants: tuple[str, ...]
    runs: tuple[str, ...]


def about(run: Run) -> About:
    """The row of a run."""
    summary, decoders = run.summary, run.summary["decoders"].values()
    devices = dict.fromkeys((process.get("gpu") or {}).get("name") or process["cpu"] for process in run.processes)
    return About(
        name=run.name,
        experiment=summary.get("experiment") or "-",
        model=summary["model"] + (DAGGER if run.stand_in else ""),
        task=summary["task"],
        prompts=max(figures["prompts"] for figures in decoders),
        variants=len(decoders),
        texts=sum(figures["rows"] for figures in decoders),
        device=", ".join(devices) or "not recorded",
    )


def stand_ins(results: Results) -> list[tuple[str, str]]:
    """The models that stand in for others, each with the reason."""
    return list(dict.fromkeys((run.summary["model"], run.stand_in) for run in results.runs if run.stand_in))


def caveats(results: Results) -> list[str]:
    """What limits the figures, a line each: mixtures first, then what each run says of itself."""
    lines = list(results.notes)
    few = [run.name for run in results.runs if about(run).prompts < FEW]
    if few:
        lines.append(f"{len(few)} of {len(results.runs)} runs have fewer than {FEW} prompts: their intervals are rough")
    for run in results.runs:
        lines += [f"{run.name}: {finding}" for finding in run.summary.get("isolation") or ()]
        for what in ("processes", "machines"):
            if (count := run.summary.get(what) or 1) > 1:
                lines.append(f"{run.name}: measured by {count} {what}; times are compared within a process only")
        if left := run.summary.get("left_out"):
            lines.append(f"{run.name}: left out: {'; '.join(f'{name} ({why})' for name, why in left.items())}")
        if cut := run.summary.get("prompts_cut"):
            lines.append(f"{run.name}: {cut} prompts were too long for the task and were cut")
    return lines


def machines(results: Results) -> list[Machine]:
    """The machines of all runs, alike ones once."""
    found: dict[tuple[tuple[str, str], ...], dict[str, None]] = {}
    for run in results.runs:
        for facts in {_facts(process) for process in run.processes} or {(("environment", NO_ENVIRONMENT),)}:
            found.setdefault(facts, {})[run.name] = None
    return [Machine(facts, tuple(runs)) for facts, runs in found.items()]


def nulls(results: Results) -> list[Null]:
    """Figures that are null, those of one reason together."""
    found: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for run in results.runs:
        for label, figures in run.summary["decoders"].items():
            for name, reason in _reasons(figures):
                variants, runs = found.setdefault((name, reason), ({}, {}))
                variants[label] = runs[run.name] = None
        for name, reason in _reasons({key: value for key, value in run.summary.items() if key.endswith("_reason")}):
            found.setdefault((name, reason), ({}, {}))[1][run.name] = None
        for one in run.summary["comparisons"]:
            if one["value"] is None and one.get("reason"):
                what = f"{one['metric']} against {one['reference']}"
                variants, runs = found.setdefault((what, one["reason"]), ({}, {}))
                variants[one["decoder"]] = runs[run.name] = None
    return [Null(name, reason, tuple(variants), tuple(runs)) for (name, reason), (variants, runs) in found.items()]


def _reasons(figures: Mapping[str, Any], inside: str = "") -> Iterator[tuple[str, str]]:
    """Name and reason of every null, however deep; lists are of single blocks and positions, too many to tell."""
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _reasons(value, f"{inside}{key}.")
        elif isinstance(value, str) and key == "reason":
            yield inside.rstrip(".") or UNNUMBERED, value
        elif isinstance(value, str) and key.endswith("_reason"):
            yield inside + key.removesuffix("_reason"), value


def _facts(process: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What tells this process's machine and programs from another's."""
    gpu, packages = process.get("gpu") or {}, process.get("packages") or {}
    memory = process.get("memory_bytes")
    named = {
        "processor": process.get("cpu"),
        "cores allowed": process.get("cores_allowed"),
        "memory": f"{memory / 2**30:.0f} GiB" if memory else None,
        "GPU": gpu.get("name") or process.get("gpu_reason"),
        "GPU memory": f"{gpu['memory_bytes'] / 2**30:.0f} GiB" if gpu.get("memory_bytes") else None,
        "GPU driver": gpu.get("driver"),
        "power limit": f"{gpu['power_limit_watts']:.0f} W" if gpu.get("power_limit_watts") else None,
        "energy meter": "yes" if process.get("meter") else process.get("meter_reason"),
        "system": process.get("system"),
        "Python": process.get("python"),
        "packages": ", ".join(f"{name} {number}" for name, number in packages.items()),
        "torch threads": process.get("torch_threads"),
        "variables": " ".join(f"{name}={value}" for name, value in (process.get("variables") or {}).items()),
        "commit": process.get("git") or process.get("git_reason"),
        "code": process.get("code"),
    }
    return tuple((name, str(value)) for name, value in named.items() if value not in (None, ""))
