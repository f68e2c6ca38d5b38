"""Verdicts on claims as words: in Markdown, as JSON data and as a table for the terminal. Judges nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from csv import DictWriter
from io import StringIO
from itertools import groupby
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.journal import SCHEMA_VERSION
from experiments.report.claims import RULES, STAND_IN, Verdict
from experiments.report.published import Published

TITLE = "Claims of the paper (arXiv 2407.09722)"
DAGGER = (
    "†: on a stand-in, of random weights, far smaller than the paper's models or of unrecorded size; says nothing of "
    "the claim"
)
NAMES = {
    "speedup": "speed-up",
    "energy_ratio": "J/token ratio",
    "perplexity_ratio": "perplexity ratio",
    "score_ratio": "score ratio",
    "score_difference": "score difference",
    "tokens_per_round_ratio": "ratio of tokens per round",
}


def printed(claim: Published) -> str:
    """What was published, in its authors' words and in those of our metric."""
    if claim.direction_only:
        return f"{NAMES[claim.metric]} {'above' if claim.better == 'higher' else 'below'} {claim.value:g}, no figure"
    return f"{claim.printed} ({NAMES[claim.metric]} {_number(claim, claim.value)})"


def measured(verdict: Verdict) -> str:
    """The value and its interval; energy as a ratio and as times less."""
    claim, value, low, high = verdict.published, verdict.value, verdict.low, verdict.high
    if value is None:
        return "-"
    interval = "[-]" if low is None or high is None else f"[{_number(claim, low)}, {_number(claim, high)}]"
    less = f", {_times_less(value)}" if claim.metric == "energy_ratio" else ""
    return f"{_number(claim, value)} {interval}{less}" + ("†" if verdict.scope == STAND_IN else "")


def with_scope(verdict: Verdict) -> str:
    """Never one without the other."""
    return f"{verdict.verdict} ({verdict.scope})"


def counted(verdicts: Sequence[Verdict]) -> str:
    """How many of each."""
    return ", ".join(f"{count} {words}" for words, count in Counter(map(with_scope, verdicts)).items())


def footnotes(verdicts: Sequence[Verdict], notes: Sequence[str]) -> list[str]:
    """What a reader must know, a line each."""
    return [*notes, *([DAGGER] if any(one.scope == STAND_IN for one in verdicts) else []), *RULES]


def markdown(verdicts: Sequence[Verdict], notes: Sequence[str]) -> str:
    """A page: each claim with what every run says of it."""
    lines = [f"# {TITLE}", "", f"{counted(verdicts)}.", "", *(f"- {line}" for line in footnotes(verdicts, notes))]
    for claim, of_claim in groupby(verdicts, key=lambda one: one.published):
        found = list(of_claim)
        lines += ["", f"## {claim.claim}", "", f"{claim.version}: {printed(claim)}. Source: {claim.source}.", ""]
        lines += _table(found) if found[0].run else [f"{with_scope(one)}: {one.why}" for one in found]
    return "\n".join(lines) + "\n"


def _table(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "| run | variants | measured [95 %] | verdict (scope) | why | differs from the paper's setting |"
    yield "|---|---|---|---|---|---|"
    for one in verdicts:
        differs = "; ".join(one.differs) or "nothing"
        cells = (str(one.run), _variants(one), measured(one), with_scope(one), one.why, differs)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def data(verdicts: Sequence[Verdict], notes: Sequence[str]) -> dict[str, Any]:
    """The same as JSON data."""
    return {
        "schema_version": SCHEMA_VERSION,
        "rules": list(RULES),
        "notes": list(notes),
        "claims": [_record(one) for one in verdicts],
    }


def csv(verdicts: Sequence[Verdict]) -> str:
    """The same, a line for each verdict."""
    records = [{**_record(one), "differs": "; ".join(one.differs)} for one in verdicts]
    text = StringIO(newline="")
    writer = DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _record(verdict: Verdict) -> dict[str, Any]:
    claim = verdict.published
    return {
        **{key: getattr(claim, key) for key in ("id", "claim", "version", "source", "metric", "better", "null")},
        "published": None if claim.direction_only else claim.value,
        "published_reason": "a direction is claimed, and no figure" if claim.direction_only else None,
        "printed": claim.printed,
        **{key: getattr(verdict, key) for key in ("run", "variant", "reference", "value", "low", "high")},
        **{key: getattr(verdict, key) for key in ("scope", "verdict", "why")},
        "differs": list(verdict.differs),
    }


def terminal(verdicts: Sequence[Verdict]) -> Table:
    """One line for each verdict, those on one claim together."""
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0), title=TITLE, title_justify="left", title_style="bold")
    for head, share in (("claim, published", 4), ("run, variants, measured \\[95 %]", 4), ("verdict (scope)", 3)):
        table.add_column(head, ratio=share, overflow="fold")
    for claim, of_claim in groupby(verdicts, key=lambda one: one.published):
        heading = f"{claim.claim} {claim.version}: {printed(claim)}"
        for one in of_claim:
            ours = f"{one.run}: {_variants(one)}\n{measured(one)}" if one.run else "-"
            table.add_row(escape(heading), escape(ours), f"[bold]{escape(with_scope(one))}[/]\n{escape(one.why)}")
            heading = ""
        table.add_section()
    return table


def _variants(verdict: Verdict) -> str:
    return f"{verdict.variant} against {verdict.reference}"


def _number(claim: Published, value: float) -> str:
    return f"{value:+.2f}" if claim.null == 0 else f"{value:.3f}" if claim.better == "lower" else f"{value:.2f}"


def _times_less(ratio: float) -> str:
    return f"{1 / ratio:.2f}x less" if ratio <= 1 else f"{ratio:.2f}x more"
