"""What a tracker gets of a finished run, as plain data: name, id, figures, a few texts, notes.

Reads the run's files alone, so that nothing goes out that is not in them already, redacted. Refuses to know trackers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from experiments.records import stable_hash
from experiments.report.results import Results, Run

PROMPTS = 8  # whose texts are shown
LONGEST_TAG = 64  # characters that trackers take; names of models may be longer
STAND_IN = "†"
ELSEWHERE = ("options", "sampling")  # of a variant: they are in the configuration
BESIDE = ("low", "high", "p_holm", "reason")  # what a comparison has beside its value


@dataclass(frozen=True)
class Mirrored:
    """A run for a tracker.

    Attributes:
        id: of the cell, whichever process measured it and however often.
        metrics: figures, reasons where there is none, as in `mtad/perplexity`.
        columns: of the table of texts.
    """

    id: str
    name: str
    notes: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    metrics: Mapping[str, float | int | bool | str]
    columns: tuple[str, ...]
    texts: tuple[tuple[str | int | None, ...], ...]


def mirrored(results: Results) -> Mirrored:
    """What is to be sent of the one run that these results hold."""
    (run,) = results.runs
    name = run.name.partition("/")[0]
    mark = f" {STAND_IN}" if run.stand_in else ""
    notes = [f"{STAND_IN} stand-in: {run.stand_in}; says nothing about the paper's models"] if run.stand_in else []
    variants = list(run.summary["decoders"])
    tags = (run.summary["model"], run.summary["task"], *(["stand-in"] if run.stand_in else []))
    return Mirrored(
        id=stable_hash([name, run.summary["run_id"]]),
        name=name + mark,
        notes="\n".join(notes + results.notes),
        tags=tuple(tag[:LONGEST_TAG] for tag in tags),
        config={**_config(run), "run_id": run.summary["run_id"], "code_versions": list(run.summary["code_versions"])},
        metrics=dict(_metrics(run, mark)),
        columns=("prompt_id", "turn", "prompt", *(f"{label}{mark}" for label in variants)),
        texts=tuple(_texts(run, variants)),
    )


def _config(run: Run) -> dict[str, Any]:
    """The configuration as it was published."""
    file = None if run.path is None else run.path / "config.yaml"
    loaded = OmegaConf.to_container(OmegaConf.load(file)) if file and file.exists() else {}
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def _metrics(run: Run, mark: str) -> Iterator[tuple[str, Any]]:
    for label, figures in run.summary["decoders"].items():
        own = {key: value for key, value in figures.items() if key not in ELSEWHERE}
        yield from _flat(f"{label}{mark}", own)
    for found in run.summary["comparisons"]:
        name = f"{found['decoder']}{mark} against {found['reference']}{mark}/{found['metric']}"
        yield from _flat(name, found["value"])
        yield from ((f"{name}_{key}", found[key]) for key in BESIDE if found[key] is not None)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The single values in nested mappings; a null is left out, for its reason stands beside it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}/{key}", item)
    elif isinstance(value, bool | int | float | str):
        yield name, value


def _texts(run: Run, variants: list[str]) -> Iterator[tuple[str | int | None, ...]]:
    """What each variant wrote to the first prompts, at its first repeat; None where it wrote nothing."""
    written = {(row["prompt_id"], row["turn"], row["variant"]): row["text"] for row in run.rows() if row["repeat"] == 0}
    for prompt in run.rows("prompts")[:PROMPTS]:
        for number, turn in enumerate(prompt["turns"]):
            said = turn.get("user", f"left out: {prompt['left_out_reason']}")
            texts = (written.get((prompt["prompt_id"], number, label)) for label in variants)
            yield prompt["prompt_id"], number, said, *texts
