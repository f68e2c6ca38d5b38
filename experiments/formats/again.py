"""The figures of a run made again from its rows, beside those of its summary. Knows rows that keep to the schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isclose
from typing import Any

from experiments.approximation_figures import approximation
from experiments.batch_figures import batches
from experiments.energy import alike
from experiments.energy_report import Energy
from experiments.formats.schema import shown
from experiments.journal import Row
from experiments.scoring import with_grades
from experiments.summarise import summarise
from experiments.summary import facts_of, with_verdicts

CLOSE = 1e-6  # relative: sums in another order, another version of a library
WORDS = ("reason", "reasons", "notes", "failures", "isolation", "left_out")  # later versions may say them better

Journals = Mapping[str, Sequence[Row]]


def differences(summary: Mapping[str, Any], journals: Journals, processes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the summary is not what its rows give, a line each.

    Args:
        journals: rows by the name of their file; `samples` and `grades` are needed.
        processes: as environment.json has them.
    """
    facts, rows = facts_of(summary), with_grades(journals["samples"], journals["grades"])
    if verdicts := journals.get("judge"):
        rows = with_verdicts(rows, verdicts, verdicts[-1]["judge"])
    energy = Energy(alike(journals.get("energy", ()), *facts.blocks), facts.labels, facts.no_energy)
    named = (facts.run_id, facts.model, facts.task_name, facts.labels, processes)
    made = summarise(rows, *named, facts.margin, energy, facts.groups)
    for label, figures in made["decoders"].items():
        written = [row for row in rows if row["variant"] == label]
        figures |= approximation(journals.get("approximation", ()), written, facts.others["approximation"])
    made["batches"] = batches(journals.get("batches", ()), rows, facts.others["batch_size"])
    return list(_differences(made, summary, ""))


def _differences(made: Any, told: Any, path: str) -> Iterator[str]:
    """Compares what both have: a version may add keys."""
    if isinstance(made, dict) and isinstance(told, dict):
        for key in (key for key in made if key in told):
            if not key.endswith(WORDS):
                yield from _differences(made[key], told[key], f"{path}.{key}" if path else key)
    elif isinstance(made, list) and isinstance(told, list) and len(made) == len(told):
        for number, (one, other) in enumerate(zip(made, told, strict=True)):
            yield from _differences(one, other, f"{path}.{number}")
    elif not _same(made, told):
        yield f"{path} is {shown(told)}, but the rows give {shown(made)}"


def _same(made: Any, told: Any) -> bool:
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (made, told))
    return isclose(made, told, rel_tol=CLOSE, abs_tol=CLOSE * 1e-3) if numbers else bool(made == told)
