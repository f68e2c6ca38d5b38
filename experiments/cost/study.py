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
from experiments.cost.arithmetic import Arithmetic, arithmetic
from experiments.cost.deciding import Begin, Deciding, time_decisions
from experiments.cost.energy_split import (
    Joules,
    Prices,
    calibrate,
    measured_read,
    published_prices,
    split,
    split_record,
)
from experiments.cost.figures import of_variant, predicted
from experiments.cost.options import CostOptions
from experiments.cost.predict import Costs, Tally, tally
from experiments.cost.reads import Curve, curve_record, time_reads
from experiments.environment import cpu_model, describe_process
from experiments.journal import SCHEMA_VERSION, Row
from experiments.plan import Plan
from experiments.report import BASELINE
from experiments.task import Prompt
from experiments.variants import Variant
from mtad.errors import UserError
from mtad.generate import writing
from mtad.law import Warp
from mtad.loading import Pair
from mtad.luck import Luck
from mtad.meter.device import Kind
from mtad.meter.meter import Meter

NO_RUN = "cost.predict=false: no run was looked at"


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
        started = datetime.now(UTC).isoformat(timespec="seconds")
        plan, options = self.plan, self.options
        context, origin = self.context()
        pair = plan.blueprint.load(plan.device)
        prompt = plan.encoded[plan.prompts[0].id]
        target, draft = time_reads(pair.target, pair.draft, self.warp, prompt, context, options.nodes, options.repeats)
        models, unknown = self._models()
        tallies = {label: tally(of_variant(self.rows, label)) for label in plan.labels} if self.rows else {}
        main = tallies.get(plan.labels[0])
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": plan.id,
            "hardware": describe_process("cost", started, plan.device),
            "context_tokens": context,
            "context_origin": origin,
            "repeats": options.repeats,
            "warp": asdict(self.warp),
            "assumptions": assumptions(options),
            "reads": {
                "target": _reads(target, models.get("target"), context),
                "draft": _reads(draft, models.get("draft"), context),
            },
            "arithmetic": {role: asdict(model) for role, model in models.items()} or None,
            "arithmetic_reason": unknown,
            "decoders": self.decoders(pair, tallies, target, draft) or None,
            "decoders_reason": None if self.rows else NO_RUN,
            "energy": self.energy(pair, context, models["target"], main) if models else None,
            "energy_reason": unknown,
        }

    def decoders(
        self, pair: Pair, tallies: Mapping[str, Tally], target: Curve, draft: Curve
    ) -> dict[str, dict[str, Any]]:
        """Prediction and measurement of every variant."""
        if not tallies:
            return {}
        variants = {variant.label: variant for variant in self.plan.settings.variants}
        sampling = self.plan.settings.variants[0].sampling
        baseline = variants.get(BASELINE) or Variant(BASELINE, BASELINE, "", Autoregressive(), sampling)
        host = {variant.label: self._deciding(pair, variant) for variant in (baseline, *variants.values())}
        alone = host[BASELINE].seconds_per_read
        return {
            label: {
                **predicted(label, counted, self.rows, costs, self.options.deepest),
                "decide_seconds_per_read": host[label].decide_seconds / host[label].reads,
                "commit_seconds_per_read": host[label].commit_seconds / host[label].reads,
            }
            for label, counted in tallies.items()
            for costs in [Costs(target, draft, host[label].seconds_per_read, alone)]
        }

    def _deciding(self, pair: Pair, variant: Variant) -> Deciding:
        """The host's work of one variant, on the first prompts of the run."""
        plan = self.plan

        def begin(prompt: Prompt) -> Begin:
            return lambda target, draft, detokenise: writing(
                variant.decoder,
                target,
                draft,
                plan.encoded[prompt.id],
                plan.limits(plan.settings.max_new_tokens),
                variant.sampling,
                Luck(plan.settings.seed, prompt.id, 0),
                detokenise,
            )

        def detokenise(tokens: Sequence[int]) -> str:
            return str(
                pair.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            )

        return time_decisions(pair, detokenise, [begin(prompt) for prompt in plan.prompts[: self.options.texts]])

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
        joules = gross(self.meter, "gpu" if self.plan.device.type == "cuda" else "cpu") if self.meter else None
        prices = self._prices(pair, joules)
        kinds = {BASELINE: (1.0, 1.0)}
        if main and main.gamma:
            forwards = sum(main.target.values())
            fed = sum(nodes * times for nodes, times in main.target.items())
            kinds[self.plan.labels[0]] = (fed / forwards, main.tokens / forwards)
        text = list(islice(cycle(self.plan.encoded[self.plan.prompts[0].id]), context + 1))
        seconds = self.plan.settings.meter.seconds

        def one(batch: int, nodes: float, tokens: float) -> Mapping[str, object]:
            found = split(model, prices, batch, nodes, context, tokens)
            if joules is None:
                return split_record(found, None, self.no_meter)
            measured = measured_read(joules, pair.target, self.warp, batch, round(nodes), text, seconds)
            return split_record(found, measured, "the meter gave no joules")

        return {
            "prices": asdict(prices),
            "splits": {kind: [one(batch, *sizes) for batch in self.options.batches] for kind, sizes in kinds.items()},
        }

    def _prices(self, pair: Pair, joules: Joules | None) -> Prices:
        """Calibrated where the meter gives joules, else published."""
        device, dtype = self.plan.device, pair.target.lm.dtype
        if joules is not None:
            found = calibrate(joules, device, dtype, self.plan.settings.meter.seconds, device_name(device))
            if found:
                return found
        return published_prices(device, dtype.itemsize)

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
        "law": "reads are timed with the warp of the decoder under study; the untruncated law costs more",
        "sizes": "linear between timed sizes; beyond the largest as between the two largest",
        "host": f"a decoder decides and commits for as long, for each of its reads, as on {options.texts} texts that "
        "it writes again; the search for stop strings is left out, as in a run",
        "caches": "a read by itself finds the processor's caches as a read in a run does",
        "baseline": f"{BASELINE} takes one read of one node a token",
        "gamma": f"best gamma is one of 1 to {options.deepest}, for the middle of a text; past the measured depth the "
        "last conditional acceptance goes on; later reads of a draft cost the same at every depth",
        "alpha": "break-even acceptance is that of a chain whose tokens are accepted independently and equally often",
        "bytes": "weights once a forward, keys and values of the context once; no activations; caches empty before",
    }


def gross(meter: Meter, kind: Kind) -> Joules:
    """The meter as the split needs it: gross joules of the devices of a kind."""

    def joules(work: Callable[[], None]) -> float | None:
        with meter.window() as window:
            work()
        return window.record.joules(kind)[0]

    return joules


def device_name(device: torch.device) -> str:
    """For the label of what was calibrated."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def _reads(curve: Curve, model: Arithmetic | None, context: int) -> list[dict[str, Any]]:
    """The curve of a model, with FLOPs and bytes where they are known."""
    return [
        {
            **point,
            "flops": model.flops(point["nodes"], context) if model else None,
            "bytes": model.bytes(point["nodes"], context) if model else None,
        }
        for point in curve_record(curve)
    ]
