"""The study of one run: costs timed by themselves, the run's counts beside them, and what both say, as JSON data.

Knows plans, rows and models, and leaves arithmetic, timing and printing to its neighbours. What cannot be had is null,
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any

import torch

from baselines.autoregressive import Autoregressive
from experiments.baseline import BASELINE
from experiments.cost.arithmetic import Arithmetic, arithmetic
from experiments.cost.deciding import Begin, Deciding, time_decisions
from experiments.cost.energy_split import (
    Measure,
    Prices,
    Spent,
    calibrate,
    measured_read,
    published_prices,
    split,
    split_record,
)
from experiments.cost.figures import incomparable, of_variant, predicted
from experiments.cost.options import CostOptions
from experiments.cost.predict import Costs, Tally, tally
from experiments.cost.reads import Paces, mean_context, pace_record, time_reads
from experiments.environment import cpu_model, describe_process
from experiments.journal import SCHEMA_VERSION, Row
from experiments.plan import Plan
from experiments.task import Prompt
from experiments.variants import Variant
from mtad.decoder import Engine
from mtad.errors import UserError
from mtad.generate import writing
from mtad.law import Warp
from mtad.loading import Pair, speller
from mtad.luck import Luck
from mtad.meter.device import Kind, UnreadableError
from mtad.meter.meter import Meter

NO_RUN = "cost.predict=false: no run was looked at"
ONLY_ENGINES = "every decoder of the run is an engine, which reads by itself"
REPLAY = 1000  # the repeat that texts are written again as: beyond those of any run, so that its luck is none of theirs


@dataclass(frozen=True)
class Study:
    """What is looked at.

    Attributes:
        rows: of the run; empty if no run is looked at.
        meter: of the device; None, for the reason `no_meter`, if joules are to be modelled.
    """

    plan: Plan
    options: CostOptions
    rows: Sequence[Row]
    meter: Meter | None
    no_meter: str | None

    def record(self) -> dict[str, Any]:
        """Load the pair, time its reads, and work out what follows: the content of cost.json. Raises UserError."""
        plan, options = self.plan, self.options
        here = describe_process("cost", datetime.now(UTC).isoformat(timespec="seconds"), plan.device)
        foreign = incomparable(self.rows, plan.folder.read_json("environment.json").get("processes", []), here)
        context, origin = self.context()
        timed = mean_context(context, options.nodes)
        pair = plan.blueprint.load(1, plan.settings.engine)
        prompt = plan.encoded[plan.prompts[0].id, 0]
        ours = [variant.label for variant in self.modelled]
        tallies = {label: tally(of_variant(self.rows, label)) for label in ours} if self.rows else {}
        host = self._host(pair) if tallies else {}
        warps = list(dict.fromkeys([self.warp, *(found.warp for found in host.values())]))
        paces = time_reads(pair.target, pair.draft, warps, prompt, context, options.nodes, options.repeats)
        models, unknown = self._models()
        main = tallies.get(plan.labels[0])
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": plan.id,
            "weights": plan.weights,
            "hardware": here,
            "incomparable": foreign,
            "context_tokens": context,
            "timed_context_tokens": timed,
            "context_origin": origin,
            "repeats": options.repeats,
            "assumptions": assumptions(options),
            "law": asdict(self.warp),
            "reads": _reads(paces[self.warp], models, timed),
            "other_laws": [{"law": asdict(warp), "reads": _reads(paces[warp], models, timed)} for warp in warps[1:]],
            "arithmetic": {role: asdict(model) for role, model in models.items()} or None,
            "arithmetic_reason": unknown,
            "decoders": self._decoders(tallies, host, paces, foreign) or None,
            "decoders_reason": NO_RUN if not self.rows else None if tallies else ONLY_ENGINES,
            "not_modelled": [label for label in plan.labels if label not in ours],
            "energy": self.energy(pair, context, models["target"], main) if models else None,
            "energy_reason": unknown,
        }

    @property
    def modelled(self) -> list[Variant]:
        """The variants that read through sessions; what an engine's forwards cost is not known apart from it."""
        return [variant for variant in self.plan.settings.variants if not isinstance(variant.decoder, Engine)]

    def _decoders(
        self,
        tallies: Mapping[str, Tally],
        host: Mapping[str, Deciding],
        paces: Mapping[Warp, Paces],
        foreign: str | None,
    ) -> dict[str, dict[str, Any]]:
        """Prediction and measurement of every variant."""
        found = {}
        for label, counted in tallies.items():
            own, alone = host[label], host[BASELINE]
            baseline = paces[alone.warp][0].steady.seconds(1) + alone.seconds_per_read
            costs = Costs(*paces[own.warp], own.seconds_per_read, baseline)
            found[label] = {
                **predicted(label, counted, self.rows, costs, self.options.deepest, foreign),
                "law": asdict(own.warp),
                "decide_seconds_per_read": own.decide_seconds / own.reads,
                "commit_seconds_per_read": own.commit_seconds / own.reads,
            }
        return found

    def _host(self, pair: Pair) -> dict[str, Deciding]:
        """What every variant does between its reads, and autoregressive decoding in any case."""
        variants = {variant.label: variant for variant in self.modelled}
        sampling = self.plan.settings.variants[0].sampling
        variants.setdefault(BASELINE, Variant(BASELINE, BASELINE, "", Autoregressive(), sampling))
        return {label: self._deciding(pair, variant) for label, variant in variants.items()}

    def _deciding(self, pair: Pair, variant: Variant) -> Deciding:
        """The host's work of one variant, on the first prompts of the run."""
        plan = self.plan

        def begin(prompt: Prompt) -> Begin:
            return lambda target, draft, detokenise: writing(
                variant.decoder,
                target,
                draft,
                plan.encoded[prompt.id, 0],
                plan.limits(plan.settings.max_new_tokens),
                variant.sampling,
                Luck(plan.settings.seed, prompt.id, REPLAY),
                detokenise,
            )

        texts = [begin(prompt) for prompt in plan.prompts[: self.options.texts]]
        return time_decisions(pair, speller(pair.tokenizer), texts)

    @property
    def warp(self) -> Warp:
        """That of the decoder under study."""
        main = self.plan.settings.variants[0]
        return main.sampling.warp(main.decoder.joint)

    def context(self) -> tuple[int, str]:
        """Tokens in the cache, and where the number comes from: the user, the run, or the prompts and the limit."""
        plan, rows = self.plan, self.rows
        if self.options.context is not None:
            return self.options.context, "cost.context"
        if rows:
            mean = sum(row["prompt_tokens"] + len(row["token_ids"]) / 2 for row in rows) / len(rows)
            return round(mean), "mean prompt and half the mean output of the run"
        mean = sum(map(len, plan.encoded.values())) / len(plan.encoded) + plan.settings.max_new_tokens / 2
        return round(mean), "mean prompt and half of max_new_tokens"

    def energy(self, pair: Pair, context: int, model: Arithmetic, main: Tally | None) -> dict[str, Any]:
        """The split of the target's energy by batch: one node a token, and the reads of the decoder under study."""
        measure = gross(self.meter, "gpu" if self.plan.device.type == "cuda" else "cpu") if self.meter else None
        prices, uncalibrated = self._prices(pair, measure)
        kinds = {BASELINE: (1.0, 1.0)}
        if main and main.conditional:  # drafts that are verified by one read each, whatever their lengths
            forwards = sum(main.target.values())
            fed = sum(nodes * times for nodes, times in main.target.items())
            kinds[self.plan.labels[0]] = (fed / forwards, main.tokens / forwards)
        text = list(islice(cycle(self.plan.encoded[self.plan.prompts[0].id, 0]), context + 1))
        seconds = self.plan.settings.meter.seconds

        def one(batch: int, nodes: float, tokens: float) -> Mapping[str, object]:
            found = split(model, prices, batch, nodes, context, tokens)
            measured, reason, whole = None, self.no_meter, round(nodes)
            if measure is not None:
                try:
                    measured = measured_read(measure, pair.target, self.warp, batch, whole, text, seconds)
                except UnreadableError as error:
                    reason = str(error)
            return split_record(found, prices, whole, measured, reason)

        return {
            "prices": asdict(prices),
            "prices_not_calibrated_reason": uncalibrated,
            "splits": {kind: [one(batch, *sizes) for batch in self.options.batches] for kind, sizes in kinds.items()},
        }

    def _prices(self, pair: Pair, measure: Measure | None) -> tuple[Prices, str | None]:
        """Calibrated where the meter gives joules, else published, and why."""
        device, dtype, reason = self.plan.device, pair.target.lm.dtype, self.no_meter
        if measure is not None:
            try:
                return calibrate(measure, device, dtype, self.plan.settings.meter.seconds, device_name(device)), None
            except UnreadableError as error:
                reason = str(error)
        return published_prices(device, dtype.itemsize), reason

    def _models(self) -> tuple[dict[str, Arithmetic], str | None]:
        """FLOPs and bytes of both models; nothing, and the reason, if those of one are not known."""
        sources = {"target": self.plan.blueprint.target, "draft": self.plan.blueprint.draft}
        try:
            return {role: arithmetic(source.config, source.dtype) for role, source in sources.items()}, None
        except UserError as error:
            return {}, str(error)


def assumptions(options: CostOptions) -> dict[str, str]:
    """What the figures take for granted, by name."""
    return {
        "context": "every read is timed with the same number of tokens in the cache",
        "law": "a decoder's reads are timed with the law that it asks for, those of the table with the first one's",
        "quiet": "a read costs the lower quartile of its timings, which other work on the machine disturbs least",
        "sizes": "linear between timed sizes; beyond the largest as between the two largest",
        "host": f"a decoder decides and commits for as long, for each of its reads, as on {options.texts} texts that "
        "it writes to the run's first prompts with other luck (greedily: the same texts); the search for stop strings "
        "is left out, as in a run",
        "before": "of the reads of a model as many come after the other model as there are drafts, of every size alike",
        "baseline": f"{BASELINE} takes one read of one node a token",
        "gamma": f"best gamma is one of 1 to {options.deepest}, for the middle of a text; past the measured depth the "
        "last conditional acceptance goes on; later reads of a draft cost the same at every depth",
        "alpha": "break-even acceptance is that of a chain whose tokens are accepted independently and equally often",
        "bytes": "weights once a forward, keys and values of the context once; no activations; caches empty before",
    }


def gross(meter: Meter, kind: Kind) -> Measure:
    """The meter as the split needs it: gross joules of the devices of a kind, and the longest of their spans."""

    def measure(work: Callable[[], None]) -> Spent:
        with meter.window() as window:
            work()
        joules, reason = window.record.joules(kind)
        if joules is None:
            raise UnreadableError(meter.reasons.get(kind) or reason or "the meter gave no joules")
        spans = [reading.seconds for reading in window.record.devices if reading.kind == kind]
        return Spent(joules, max(seconds for seconds in spans if seconds is not None))

    return measure


def device_name(device: torch.device) -> str:
    """For the label of what was calibrated."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def _reads(paces: Paces, models: Mapping[str, Arithmetic], context: float) -> dict[str, list[dict[str, Any]]]:
    """The curves of both models, with FLOPs and bytes where they are known."""
    return {
        role: [
            {
                **point,
                "flops": models[role].flops(point["nodes"], context) if models else None,
                "bytes": models[role].bytes(point["nodes"], context) if models else None,
            }
            for point in pace_record(pace)
        ]
        for role, pace in zip(("target", "draft"), paces, strict=True)
    }
