"""The benchmark from its options to its files: which pairs, which sections, and what is measured already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.benchmark import batches, reads, texts
from experiments.benchmark.composed import asked, options_of
from experiments.benchmark.options import BenchOptions
from experiments.benchmark.record import Record
from experiments.composed import configured
from experiments.environment import describe_process
from experiments.plan import prepare
from experiments.progress import say
from experiments.redact import redact
from experiments.settings import Settings
from experiments.threads import set_threads
from mtad.errors import UserError
from mtad.placement import find_device

Section = Callable[[Settings, BenchOptions], dict[str, Any]]
MEASURE: dict[str, Section] = {
    "texts": texts.measured,
    "reads": lambda settings, options: reads.timed(prepare(replace(settings, tune=None)), options),
    "batches": batches.timed,
}


@dataclass(frozen=True)
class Asked:
    """What the command line says; see scripts/bench.py.

    Attributes:
        overrides: settings, as for run.py.
        models: pairs of conf/model; none: those of conf/bench.yaml for the device.
        limit: prompts; None: as conf/bench.yaml says for the device.
        command: as it was given, for the record.
    """

    device: str
    overrides: tuple[str, ...]
    sections: tuple[str, ...]
    models: tuple[str, ...]
    limit: int | None
    quick: bool
    fresh: bool
    out: Path
    command: str


def bench(wanted: Asked) -> None:
    """Measure every section of every pair that is not there yet, writing after each. Raises UserError."""
    device = find_device(wanted.device)
    with configured():
        options = options_of(wanted.overrides)
        each = _overrides(wanted, options, device.type)
        runs = [asked(overrides) for overrides in each]  # what is wrong with one is said before anything is measured
        set_threads(runs[0][0].threads)  # as runs do, so that the hardware is described as it is used
        started = datetime.now(UTC).isoformat(timespec="seconds")
        head = {
            "hardware": describe_process("bench", started, device),
            "command": redact(wanted.command),
            "started": started,
            "settings": {"pairs": [_kept(overrides) for overrides in each], "quick": wanted.quick},
        }
        kind = "gpu" if device.type == "cuda" else "cpu"
        record = Record(wanted.out, kind, head, options.aimed(device.type), wanted.fresh)
        for settings, own in runs:
            _measure(record, settings, own, wanted.sections)
        record.write()
    _print(record)


def _overrides(wanted: Asked, options: BenchOptions, device: str) -> list[list[str]]:
    """The settings of each pair's run; what the user names beats what is usual. Raises UserError."""
    pairs = [[f"model={name}"] for name in wanted.models] or options.pairs.get(device)
    limit = options.limit.get(device) if wanted.limit is None else wanted.limit
    if not pairs or limit is None:
        raise UserError(f"bench.pairs and bench.limit name nothing for {device}")
    quick = options.quick if wanted.quick else []
    fresh = ["fresh=true"] if wanted.fresh else []
    usual = [f"device={wanted.device}", *([] if quick and wanted.limit is None else [f"limit={limit}"])]
    return [[*pair, *usual, *quick, *fresh, *wanted.overrides] for pair in pairs]


def _kept(overrides: Sequence[str]) -> list[str]:
    """The settings that tell one benchmark from another."""
    return [redact(one) for one in overrides if one != "fresh=true" and not one.startswith("results_dir=")]


def _measure(record: Record, settings: Settings, options: BenchOptions, sections: Sequence[str]) -> None:
    name = settings.model
    for section in sections:
        if record.has(name, section):
            say(f"{name}: {section} are there already (--fresh measures them again)")
            continue
        say(f"{name}: {section}")
        record.add(name, section, MEASURE[section](settings, options))


def _print(record: Record) -> None:
    """The verdicts, and where the rest is."""
    for name, verdicts in record.content["verdicts"].items():
        for one in verdicts:
            value = one["measured"]["value"]
            shown = "-" if value is None else f"{value:.3g}"
            print(f"{name}: {one['figure']}: {shown} (aim {one['aim']}): {one['verdict']}")
    print(record.json)
    print(record.page)
