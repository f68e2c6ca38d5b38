"""The replay from its command line to its tables: which trace, on which pair, and what may be said of how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from experiments import groups
from experiments.composed import composed, configured
from experiments.progress import say
from experiments.replay.plan import planned
from experiments.replay.texts import Trace, find_trace, read_trace
from experiments.runner import carry_out
from experiments.settings import Settings, read_settings
from mtad.errors import UserError

DECIDED = (  # by the trace, or of no use to a replay
    *("decoder", "task", "tasks", "sampling", "reference", "repeats", "seed", "max_new_tokens", "ignore_eos", "chat"),
    *("frontier", "tune", "experiment", "debug", "judge", "approximation", "noninferiority_margin", "figure"),
    *("publish", "trace", "doctor"),
)


def replay(place: Path, overrides: Sequence[str]) -> None:
    """Time the reads of a trace on the pair that `overrides` name, or finish what was begun. Raises UserError."""
    with configured():
        settings = asked(overrides)
        trace = read_trace(find_trace(place))
        named = replace(settings, name=settings.name if groups.asked("name") else _name(settings, trace))
        for label, reason in trace.left_out.items():
            say(f"{label} is left out: {reason}")
        carry_out(planned(named, trace))


def asked(overrides: Sequence[str]) -> Settings:
    """The settings, without what a trace decides. Raises UserError."""
    config = composed("replay", overrides)
    for key in DECIDED:
        if named := key if groups.asked(key) else groups.asked_within(key):
            raise UserError(f"{named} cannot be set: the decoders, their prompts and texts are those of the trace")
    settings = read_settings(config)
    kept = {key: value for key, value in settings.config.items() if key not in DECIDED}
    return replace(settings, config=kept)


def _name(settings: Settings, trace: Trace) -> str:
    """Of the folder below results_dir."""
    decoder = next(text.decoder for text in trace.texts if text.label == trace.labels[0])
    return "-".join((settings.model, "replay", trace.pair, trace.task, decoder)).replace("/", "-")
