"""What of a run differs from the setting that a published figure was measured in: pair, task, options, lengths.

What is not recorded counts as different: a run is in the paper's setting only if its files say so. Refuses to know
figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from experiments.report.published import Accepted, Published, differing, pairs
from experiments.report.results import Run

PHYSICAL = ("speedup", "energy_ratio")  # metrics that depend on what it runs on


def differences(claim: Published, run: Run, label: str, reference: str) -> list[str]:
    """In a few words each."""
    summary, decoders = run.summary, run.summary["decoders"]
    found = [] if same_pair(claim.models, summary) else [f"pair: {summary['model']}"]
    found += [] if summary["task"] in claim.tasks else [f"task: {summary['task']}"]
    for name, options, sampling in (
        (label, claim.options, claim.sampling),
        (reference, claim.reference_options, claim.reference_sampling),
    ):
        found += _options(options, decoders[name].get("options"), name) if options else []
        found += _options(sampling, decoders[name].get("sampling"), name)
    limits = {"prompts": claim.prompts, "max_new_tokens": claim.max_new_tokens}
    stated: Accepted = {name: values for name, values in limits.items() if values}
    found += _options(stated, {"prompts": decoders[label]["prompts"], **_limit(run)})
    if claim.chat is not None:
        found += _options({"chat": [claim.chat]}, {"chat": summary.get("chat")})
    if claim.metric in PHYSICAL and not (run.processes and all(process.get("gpu") for process in run.processes)):
        found.append("not known to be on a GPU")
    return found


def same_pair(models: Sequence[str], summary: Mapping[str, Any]) -> bool:
    """Whether the weights are those of one of these pairs, from the hub or a folder of the same name."""
    weights = summary.get("weights") or {}

    def names(role: str) -> set[str]:
        origin = weights.get(role) or {}
        return {str(origin.get("id") or "").lower(), str(origin.get("folder") or "").lower()}

    known = [pairs()[model] for model in models if model in pairs()]
    return any(
        all(names(role) & {hub_id.lower(), hub_id.split("/")[-1].lower()} for role, hub_id in pair.items())
        for pair in known
    )


def _options(stated: Accepted, found: Mapping[str, Any] | None, of: str = "") -> Iterator[str]:
    """`mtad: tau 0.9, not 0.5`."""
    head = f"{of}: " if of else ""
    if found is None:
        yield f"{head}{', '.join(stated)} not recorded"
        return
    for name in differing(stated, found):
        value = "not recorded" if found.get(name) is None else found[name]
        yield f"{head}{name} {value}, not {' or '.join(map(str, stated[name]))}"


def _limit(run: Run) -> dict[str, int]:
    """The limit of new tokens, from the run's configuration; empty if that is not there."""
    file = run.path / "config.yaml" if run.path else None
    if file is None or not file.exists():
        return {}
    config = OmegaConf.load(file)
    limit = OmegaConf.select(config, "max_new_tokens") or OmegaConf.select(config, "task.max_new_tokens")
    return {"max_new_tokens": limit} if limit else {}
