"""How far each variant's blocks are from the exact best ones of their length and law, beside the bound. Copies only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from experiments.report.results import Run
from experiments.report.tables.figures import HEADING, VARIANT, Figures, caveats_of, dagger, sections_of
from experiments.report.tables.table import Column, Table, finished

COLUMNS = (
    *HEADING,
    VARIANT,
    Column("approximation.law", "law"),
    Column("gap_without_last_token", "gap without\nlast token", ".3f"),
    Column("gap_bound", "bound\nof it", ".3f"),
    Column("approximation.accepted.proven_share", "proven\nof them", ".1%"),
    Column("gap_with_last_token", "gap with\nlast token", ".3f"),
    Column("approximation.emitted.proven_share", "proven\nof them", ".1%"),
    Column("forwards_per_block", "forwards\nper block", ".2f"),
    Column("approximation.nothing_accepted_share", "nothing\naccepted", ".1%"),
    *(
        Column(f"approximation.{name}", "", "g")
        for name in (
            "rounds",
            "rounds_of",
            "cut",
            "entropy",
            *(
                f"{kind}.{figure}"
                for kind in ("accepted", "emitted")
                for figure in ("blocks", "length", "gap_at_least", "gap_at_most", "left_out")
            ),
        )
    ),
)
NOTES = (
    "gap: nats per block (lower is better), log-probability of the exact best block of the same length and law minus "
    "that of the decoder's, mean over blocks whose best one is proven; never below 0, where intervals end",
    "without last token: accepted draft tokens alone; the bound holds for them, and for no token that the target adds",
    "forwards per block: the target's, in the exact search; of mjgd those of its own",
)


def approximation_table(figures: Figures, runs: Sequence[Run]) -> Iterator[Table]:
    """The variants that were set beside the best blocks; none without any."""
    labels = {
        run.name: [label for label, found in run.summary["decoders"].items() if found.get("approximation")]
        for run in runs
    }
    shown = [run for run in runs if labels[run.name]]
    sections = sections_of(shown)
    rows = [figures.row(run, label, COLUMNS, sections[run.name]) for run in shown for label in labels[run.name]]
    if rows:
        title = f"Gap to the exact best blocks{dagger(*shown)}"
        yield finished("approximation", title, COLUMNS, rows, [*NOTES, *caveats_of(shown)])
