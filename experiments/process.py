"""One process's part in a run: it checks what it needs, loads the pair when first used, and records itself."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from uuid import uuid4

from transformers.utils.logging import disable_progress_bar

from experiments.bench import Bench, shelf, stopped
from experiments.code_version import code_hash, git_version
from experiments.environment import describe_process, fact
from experiments.identity import published_config
from experiments.isolation import Watch
from experiments.journal import SCHEMA_VERSION
from experiments.judge import find_judge
from experiments.memory import Need, describe, forecast, peak, start_peak
from experiments.plan import Plan
from experiments.progress import say
from experiments.redact import redact
from experiments.rows import Provenance
from experiments.settings import Settings
from mtad.errors import UserError
from mtad.meter.meter import Meter, open_meter
from mtad.placement import Placement, gpus_in_use


class Process:
    """Nothing is loaded or written before something is to be measured.

    Attributes:
        meter: the meter of the energy pass; None, for the reason `no_energy`, if there is to be none.
        judge: the judge that the settings name, its weights not read.
        began: something was measured.
    """

    def __init__(self, plan: Plan) -> None:
        """Raises UserError if energy is demanded and cannot be measured, or the judge cannot be found."""
        self.plan = plan
        self.id = f"{os.getpid()}-{uuid4().hex[:12]}"
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.watch = Watch(plan.device, gpus_in_use(plan.placement))
        self.meter, self.no_energy = find_meter(plan.settings, plan.placement)
        self.judge = find_judge(plan.settings.judge, plan.placement.draft) if plan.settings.judge else None
        self.began = False
        self._peaks: dict[str, dict[str, int]] = {}
        if not sys.stderr.isatty():
            disable_progress_bar()

    @property
    def stamp(self) -> dict[str, Any]:
        """What every file of the run carries."""
        return {"schema_version": SCHEMA_VERSION, "run_id": self.plan.id}

    @cached_property
    def provenance(self) -> Provenance:
        """What every row of this process carries."""
        weights = {role: str(redact(str(origin))) for role, origin in self.plan.blueprint.origins.items()}
        return Provenance(self.plan.id, self.id, git_version(), code_hash(), self.plan.settings.seed, weights)

    @property
    def signature(self) -> dict[str, Any]:
        """What the records of later passes carry: who measured, and with which code."""
        return {key: asdict(self.provenance)[key] for key in ("run_id", "process_id", "git", "code")}

    @cached_property
    def _before(self) -> list[Any]:
        """The processes that measured before. Raises UserError."""
        fresh = self.plan.settings.fresh
        return [] if fresh else self.plan.folder.read_json("environment.json").get("processes", [])

    @cached_property
    def need(self) -> Need:
        """The memory of the run."""
        return forecast(self.plan, self.judge, self.plan.settings.rows)

    @cached_property
    def bench(self) -> Bench:
        """The loaded pair, every variant warmed up."""
        _ = self._before  # a damaged file is named before anything is loaded
        for finding in self.watch.before():
            self.disturbed(finding.message)
        plan = self.plan
        loaded = shelf.holds(plan.blueprint, plan.settings.engine, plan.settings.rows)
        for line in self.need.say(plan.device, loaded):
            say(line)
        start_peak(plan.placement.all)
        bench = Bench(self.plan, self.provenance, self.watch)
        bench.reserve(self.need.room)
        bench.warm_up()
        for role, runs in bench.engines.items():
            if runs["fallback"]:
                say(f"note: of the {role}, {runs['fallback']}")
        return bench

    def begin(self) -> None:
        """Record this process beside those before it; once, before its first row."""
        if self.began:
            return
        plan, before = self.plan, self._before
        if plan.settings.fresh:
            plan.folder.clear()
        self.began = True
        machine = describe_process(self.id, self.started, plan.device, str(plan.placement), gpus_in_use(plan.placement))
        described = [gpu["uuid"] for gpu in (machine["gpu"], *machine["other_gpus"]) if gpu]
        here = {
            **machine,
            **fact("meter", self.meter.describe(described) if self.meter else None, self.no_energy),
            **fact("engines", self._engines, "the pair was not loaded"),
            "noninferiority_margin": plan.settings.noninferiority_margin,
            "memory": describe(self.need, {}),
        }
        known = {"weights": plan.weights, "processes": [*before, here]}
        plan.folder.write_json("environment.json", {**self.stamp, **known})
        plan.folder.write_yaml("config.yaml", {**self.stamp, **published_config(plan.settings, plan.blueprint)})

    @property
    def _engines(self) -> Any:
        """What runs the pair's forwards, once it is loaded; it is not where only a judge reads."""
        return redact(self.bench.engines) if "bench" in self.__dict__ else None

    def passed(self, name: str) -> None:
        """A pass has ended: the peak of memory, and what ran forwards, go to the record, if anything was measured."""
        if not self.began or name in self._peaks:
            return
        if most := peak(self.plan.placement.all):
            self._peaks[name] = most
        record = self.plan.folder.read_json("environment.json")
        for process in record["processes"]:
            if process["process_id"] == self.id:
                process["memory"] = describe(self.need, self._peaks)
                process |= fact("engines", self._engines, "the pair was not loaded")  # it may have fallen back since
        self.plan.folder.write_json("environment.json", record)

    def disturbed(self, message: str) -> None:
        """Others disturb the measurement. Raises UserError under `strict`."""
        if self.plan.settings.strict:
            raise stopped(message)
        say(f"warning: {message}")


def find_meter(settings: Settings, placement: Placement) -> tuple[Meter | None, str | None]:
    """The meter that the settings ask for; None and the reason if there is to be no energy. Raises UserError."""
    on_gpu = placement.device.type == "cuda"
    if settings.energy is False:
        return None, "left out by energy=false"
    if settings.energy is None and not on_gpu:
        return None, "measured by default on GPUs only; energy=true asks for the processor's own counter"
    options = {key: value for key, value in asdict(settings.meter).items() if key in ("gpus", "rapl", "hertz", "zeus")}
    meter = open_meter(torch_uuids=gpus_in_use(placement), **options)
    # A GPU's run without its GPU's joules would pass the processor's off as the whole.
    absent = meter.reasons.get("gpu") if on_gpu else meter.absent
    if absent and settings.energy:
        raise UserError(f"energy=true, but nothing can be measured here: {absent}; leave it out, or energy=false")
    return (None, str(redact(absent))) if absent else (meter, None)
