"""The cells of tables from the frames of results: a figure, a comparison, or the reason why there is none.

Copies only, nothing is computed. Refuses to know which table a cell stands in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.baseline import FRONTIER
from experiments.report.frames import comparisons_frame, variants_frame
from experiments.report.published import published_for
from experiments.report.results import PLACES, Results, Run, mixture
from experiments.report.setting import differences, same_pair
from experiments.report.tables.table import DAGGER, LEVEL, UNKNOWN, Cell, Column, Row

ITSELF = "the reference itself"
OTHER_LAW = "other sampling"
SECTIONS = {FRONTIER: "frontier: plain sampling, colder or narrower"}
Record = dict[str, Any]
Place = tuple[str, str]  # a run's name, a variant's label

HEADING = tuple(
    map(
        Column,
        (
            "run",
            "run_id",
            "experiment",
            "model",
            "task",
            "stand_in",
            "label",
            "group",
            "decoder",
            "options",
            "sampling",
        ),
    )
)
VARIANT = Column("variant", "variant")
KIND = Column("kind", "kind")
PERPLEXITY = Column("perplexity", "perplexity", ".3f")
PERPLEXITY_RATIO = Column("perplexity_ratio", "perplexity\nratio", ".3f", "lower")
SCORE = Column("score", "score", ".3f")
SCORE_DIFFERENCE = Column("score_difference", "score\ndifference", ".3f", "higher")
SPEEDUP = Column("speedup", "speed-up", ".2f", "higher")
ENERGY_RATIO = Column("energy_ratio", "J/token\nratio", ".3f", "lower")
TOKENS_PER_ROUND = Column("tokens_per_round", "tokens/\nround", ".2f")
TOKENS_PER_FORWARD = Column("tokens_per_target_forward", "tokens/\nforward", ".2f")
ACCEPTANCE = Column("draft_acceptance_rate", "accep-\ntance", ".3f")
DISTINCT = Column("distinct_2", "dist-\ninct-2", ".3f")


class Figures:
    """All figures of results, by run and variant."""

    def __init__(self, results: Results) -> None:
        self.runs = {run.name: run for run in results.runs}
        self.variants: dict[Place, Record] = {
            (record["run"], record["variant"]): record for record in records(variants_frame(results))
        }
        self.comparisons: dict[tuple[str, str, str, str], Record] = {
            (record["run"], record["variant"], record["reference"], record["metric"]): record
            for record in records(comparisons_frame(results))
        }

    def row(self, run: Run, label: str, columns: Sequence[Column], section: str, **own: Cell) -> Row:
        """One variant in a table of these columns; `own` cells are not looked up."""
        words = {**self._words(run, label), **own}
        cells = (words[c.key] if c.key in words else self.cell(run, label, c) for c in columns)
        rivals = "" if self.variants[run.name, label]["group"] == FRONTIER else run.name
        return Row(tuple(cells), section, rivals)

    def cell(self, run: Run, label: str, column: Column) -> Cell:
        """A comparison with the run's reference, or a figure of the variant alone beside the paper's."""
        return self.compared(run, label, column.key) if column.better else self.measured(run, label, column.key)

    def measured(self, run: Run, label: str, key: str) -> Cell:
        """A figure of one variant, with its own interval if it has one, and the paper's beside it."""
        record = self.variants[run.name, label]
        parts = PLACES.get(key, tuple(key.split(".")))
        source = ".".join(parts)
        groups = [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]
        names = (f"{source}_reason", *(f"{group}{end}" for group in groups for end in (".reason", "_reason")))
        value = record.get(source)
        if value is None:
            return Cell(None, next((str(record[name]) for name in names if record.get(name)), UNKNOWN))
        low, high = (record.get(f"{source}_{end}", record.get(f"{key}_{end}")) for end in ("low", "high"))
        reason = record.get(f"{key}_interval_reason") or record.get(f"{source}_reason") if low is None else None
        return Cell(value, reason, low, high, **_published(run, label, key))

    def compared(self, run: Run, label: str, metric: str) -> Cell:
        """A variant against the run's reference."""
        reference = run.baseline
        found = self.comparisons.get((run.name, label, reference, metric))
        if found is not None:
            return compared_cell(found)
        others = [
            one
            for (name, _, against, what), one in self.comparisons.items()
            if (name, against, what) == (run.name, reference, metric)
        ]
        if label == reference and others:
            null = others[0]["null"]
            return Cell(null, ITSELF, low=null, high=null, null=null)
        if metric.startswith("energy_ratio"):
            return Cell(None, self.measured(run, label, "joules_per_token").reason or f"not compared with {reference}")
        return Cell(None, ITSELF if label == reference else f"not compared with {reference}")

    def _words(self, run: Run, label: str) -> dict[str, Cell]:
        """What tells a variant from all others, in words."""
        record, summary, figures = self.variants[run.name, label], run.summary, run.summary["decoders"][label]
        lossless = {True: "lossless", False: "lossy"}.get(figures.get("lossless"))
        if figures.get("lossless") and other_law(run, label):
            lossless = OTHER_LAW
        return {
            "run": Cell(run.name),
            "run_id": Cell(summary["run_id"]),
            "experiment": Cell(summary.get("experiment")),
            "model": Cell(summary["model"]),
            "task": Cell(summary["task"]),
            "stand_in": Cell(run.stand_in),
            "label": Cell(label),
            "group": Cell(record["group"]),
            "decoder": Cell(figures.get("decoder")),
            "options": Cell(_listed(figures.get("options"))),
            "sampling": Cell(_listed(figures.get("sampling"))),
            "variant": Cell(label + dagger(run)),
            "kind": Cell(lossless, None if lossless else UNKNOWN),
        }


def compared_cell(found: Mapping[str, Any]) -> Cell:
    """A comparison of a summary with its interval, and what a reader needs to judge it."""
    p, p_holm = found.get("p"), found.get("p_holm")
    return Cell(
        found["value"],
        found.get("reason"),
        low=found["low"],
        high=found["high"],
        null=found["null"],
        p_holm=p_holm,
        lost=p is not None and p_holm is not None and p < LEVEL <= p_holm,
        detectable=found.get("detectable"),
        no_loss=bool(found.get("no_loss")),
    )


def other_law(run: Run, label: str) -> bool:
    """Whether a variant's sampling is not the reference's: even a lossless decoder then keeps another law."""
    decoders = run.summary["decoders"]
    return bool(decoders[label].get("sampling") != decoders[run.baseline].get("sampling"))


def dagger(*runs: Run) -> str:
    """The mark of stand-ins, if one of the runs is of some."""
    return DAGGER if any(run.stand_in for run in runs) else ""


def name_of(run: Run) -> str:
    """A run's pair and data set."""
    return f"{run.summary['model']}{dagger(run)}, {run.summary['task']}"


def records(frame: Any) -> list[Record]:
    """The lines of a frame, with None where pandas has NaN."""
    return [
        {str(key): None if isinstance(value, float) and value != value else value for key, value in line.items()}
        for line in frame.to_dict("records")
    ]


def sections_of(runs: Sequence[Run]) -> dict[str, str]:
    """What each run's rows stand under in a table of several: its pair and data set, and its own name if need be."""
    often = Counter(map(name_of, runs))
    return {run.name: name_of(run) + (f", {run.name}" if often[name_of(run)] > 1 else "") for run in runs}


def notes_of(runs: Iterable[Run]) -> list[str]:
    """What a reader of the quality of these runs must know."""
    runs = list(runs)
    names = (next(iter(run.summary["decoders"].values()))["score"]["name"] for run in runs)
    return [
        "perplexity: of the output, under the target's untruncated law at temperature 1",
        *([f"score: {' or '.join(named)}"] if (named := [*dict.fromkeys(name for name in names if name)]) else []),
        *caveats_of(runs),
    ]


def caveats_of(runs: Sequence[Run]) -> list[str]:
    """What a reader of any figure of these runs must know."""
    told: list[str] = []
    for why in dict.fromkeys(run.stand_in for run in runs if run.stand_in):
        told.append(f"{DAGGER} {why}: a stand-in, whose figures say nothing about the paper's models")
    told += mixture(runs)
    sections = sections_of(runs)
    for run in runs:
        before = f"{sections[run.name]}: " if len(runs) > 1 else ""
        told += [f"{before}{said}" for said in _open(run)]
    return told


def against(runs: Iterable[Run]) -> list[str]:
    """What the variants of these runs are compared with."""
    references = dict.fromkeys(run.baseline for run in runs)
    return [
        f"ratios, differences and speed-up: against {name} of the same run; speed without prefill"
        for name in references
    ]


def _open(run: Run) -> list[str]:
    """What speaks against the figures of one run."""
    summary = run.summary
    said = [*run.notes, *summary.get("isolation", ())]
    if summary.get("machines", 1) > 1:
        said.append(f"MIXED: rows of {summary['machines']} machines; ratios hold within each")
    if len(summary["code_versions"]) > 1:
        said.append(f"MIXED: rows of {len(summary['code_versions'])} versions of the code")
    said += _of_energy([figures["energy"] for figures in summary["decoders"].values()])
    if summary.get("noninferiority_margin") is not None:
        before = "" if summary.get("margin_stated_before") else ", NOT stated before measuring"
        said.append(f'margin of "no loss": {summary["noninferiority_margin"]:g}{before}')
    return said


def _of_energy(energy: Sequence[Mapping[str, Any]]) -> list[str]:
    """How joules were measured, and what speaks against them."""
    measured = [found for found in energy if found["joules_per_token"] is not None]
    if not measured:
        return []
    first = measured[0]
    methods = ", ".join(sorted({method for found in measured for method in found["methods"]}))
    told = [f"J/token: gross, of the {first['source']}, prefill included; {first['blocks']} blocks ({methods})"]
    told += sorted({f"J/token: {note}" for found in energy for key in ("notes", "failures") for note in found[key]})
    if disagreeing := sum(found["blocks_disagreeing"] for found in measured):
        told.append(f"J/token: in {disagreeing} blocks counter and power trace lie more than 5 % apart")
    if throttled := sum(found["blocks_throttled"] for found in measured):
        told.append(f"J/token: in {throttled} blocks the GPU's clocks were held back")
    return told


def _published(run: Run, label: str, key: str) -> dict[str, Any]:
    """What a cell says of the paper's figure; nothing if there is none for this pair, by its weights, and settings."""
    summary, figures = run.summary, run.summary["decoders"][label]
    options, sampling = figures.get("options") or {}, figures.get("sampling") or {}
    one = published_for(summary["model"], summary["task"], figures.get("decoder") or "", key, options, sampling)
    if one is None or run.stand_in or not same_pair(one.models, summary):
        return {}
    return {"paper": one.value, "version": one.version, "differs": "; ".join(differences(one, run, label, label))}


def _listed(settings: Mapping[str, Any] | None) -> str | None:
    return None if settings is None else " ".join(f"{name}={value}" for name, value in settings.items())
