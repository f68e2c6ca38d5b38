"""What a read costs against the nodes that it feeds, for every engine, by turns: seconds, and the ratio to one node.

The same timing as that of the cost model (`experiments.cost.reads`), one repetition of each engine after the other in
random order, so that drift of the machine hits all alike. The engines run the same weights, each with its own cache.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.bench import shelf
from experiments.benchmark.estimates import Known, median, median_ratio
from experiments.benchmark.options import BenchOptions
from experiments.cost.reads import check_room, mean_context, time_reads
from experiments.isolation import Watch, findings
from experiments.plan import Plan
from experiments.progress import say
from mtad.model import CausalModel
from mtad.recorded import Mode

ROLES = ("target", "draft")
PACES = ("steady", "switched")  # after reads of the same model, after reads of the other
EAGER = "eager"

Seconds = dict[tuple[str, str, str], np.ndarray]  # engine, role, pace -> [repetitions, sizes]


def timed(plan: Plan, options: BenchOptions) -> dict[str, Any]:
    """Time the reads of the plan's pair. Raises UserError."""
    check_room(plan.blueprint.max_positions, options.context, options.nodes)
    pair = shelf.take(plan.blueprint, plan.settings.engine)
    models = {name: _engine(name, pair.target, pair.draft) for name in options.engines}
    say(f"timing reads of {len(options.nodes)} sizes, {options.repeats} times, engines {', '.join(models)}")
    watch = Watch(plan.device)
    watch.start()
    seconds = _seconds(plan, options, models)
    return {
        "isolation": findings([watch.lap()], "passes"),
        "context_tokens": mean_context(options.context, options.nodes),
        "repeats": options.repeats,
        "engines": {name: _runs(found) for name, found in models.items()},
        "reads": [
            {"engine": name, "model": role, "curve": _curve(seconds, name, role, options.nodes)}
            for name in models
            for role in ROLES
        ],
        "figures": _figures(seconds, options),
    }


def _engine(name: Mode, *models: CausalModel) -> tuple[CausalModel, ...]:
    """The same weights behind another engine."""
    return tuple(CausalModel(model.lm, model.vocabulary, engine=name) for model in models)


def _runs(models: Sequence[CausalModel]) -> dict[str, Any]:
    """What runs under the name of an engine, by model, and why if it is another."""
    return {role: {"runs": one.engine, "fallback": one.fallback} for role, one in zip(ROLES, models, strict=True)}


def _seconds(plan: Plan, options: BenchOptions, models: dict[Mode, tuple[CausalModel, ...]]) -> Seconds:
    prompt = plan.encoded[plan.prompts[0].id, 0]
    main = plan.settings.variants[0]
    warp = main.sampling.warp(main.decoder.joint)
    taken: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
    order, shuffler = list(models), random.Random(plan.settings.seed)
    for repeat in range(options.repeats):
        shuffler.shuffle(order)
        for name in order:
            target, draft = models[name]
            paces = time_reads(target, draft, [warp], prompt, options.context, options.nodes, 1, repeat)[warp]
            for role, pace in zip(ROLES, paces, strict=True):
                for kind in PACES:
                    taken.setdefault((name, role, kind), []).append(getattr(pace, kind).median)
    return {key: np.array(rows) for key, rows in taken.items()}


def _curve(seconds: Seconds, name: str, role: str, nodes: Sequence[int]) -> list[dict[str, Any]]:
    """Of each size: milliseconds, how many reads of the first size they are, and beside the eager engine's."""
    steady, switched = (seconds[name, role, kind] for kind in PACES)
    eager = seconds.get((EAGER, role, "steady"))
    return [
        {
            "nodes": size,
            "steady_milliseconds": median(steady[:, i] * 1e3),
            "switched_milliseconds": median(switched[:, i] * 1e3),
            f"ratio_to_{nodes[0]}_nodes": median_ratio(steady[:, i], steady[:, 0]),
            "ratio_to_eager": None if eager is None or name == EAGER else median_ratio(steady[:, i], eager[:, i]),
        }
        for i, size in enumerate(nodes)
    ]


def _figures(seconds: Seconds, options: BenchOptions) -> dict[str, Known]:
    """What aims may be about: the target's reads under the last engine named."""
    name, nodes = options.engines[-1], list(options.nodes)
    target = seconds[name, ROLES[0], "steady"]
    return {
        f"read of {size} nodes / of {nodes[0]}": median_ratio(target[:, i], target[:, 0])
        for i, size in enumerate(nodes)
        if i
    }
