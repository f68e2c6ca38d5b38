"""Shows where each token of a text came from: python -m scripts.trace RUN PROMPT [--turn N] [--variants A,B]

RUN is the folder of one run, PROMPT an id in it such as sql-003. A terminal shows colours; a pipe or NO_COLOR, marks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from experiments.report.results import Run, read_results
from experiments.report.trace import KINDS, Question, Segment, VariantTrace, question, trace, visible
from experiments.table_style import readable
from mtad.errors import UserError

STYLES = {  # Okabe and Ito's colours; underlines tell them apart in grey
    "draft": "#56B4E9",
    "target": "bold #E69F00 underline",
    "corrected": "bold #CC79A7 reverse",
    "unrecorded": "dim",
}
MARKS = {"draft": ("", ""), "target": ("[", "]"), "corrected": ("{", "}"), "unrecorded": ("", "")}
BORDER = "|"  # between two rounds
NOTHING = "∅"  # a token that spells nothing by itself
LEGEND = f"{BORDER} between rounds   {NOTHING} a token that spells nothing by itself"


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Print the prompt, and the text of every variant."""
    parser = argparse.ArgumentParser(prog="python -m scripts.trace", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of one run")
    parser.add_argument("prompt", metavar="PROMPT", help="the id of a prompt")
    parser.add_argument("--turn", type=int, default=0, metavar="N", help="of a dialogue, from 0")
    parser.add_argument("--repeat", type=int, default=0, metavar="N", help="of several texts per prompt, from 0")
    parser.add_argument("--variants", metavar="A,B", help="these only (default: all)")
    options = parser.parse_args(arguments)
    try:
        run = the_run(options.run)
        traces = chosen(trace(run, options.prompt, options.turn, options.repeat), options.variants)
        show(readable(console), run, options.prompt, question(run, options.prompt, options.turn), traces)
    except UserError as error:
        sys.exit(f"error: {error}")


def the_run(place: Path) -> Run:
    """The one run there. Raises UserError."""
    runs = read_results(place).runs
    if len(runs) > 1:
        raise UserError(f"{place} has {len(runs)} runs; name one of them, such as {place / runs[0].name}")
    return runs[0]


def chosen(traces: Sequence[VariantTrace], names: str | None) -> list[VariantTrace]:
    """Those of `names`, in that order. Raises UserError."""
    if names is None:
        return list(traces)
    found = {one.label: one for one in traces}
    if missing := [name for name in names.split(",") if name not in found]:
        raise UserError(f"there is no variant {missing[0]}; this run has {', '.join(found)}")
    return [found[name] for name in names.split(",")]


def show(console: Console, run: Run, prompt_id: str, asked: Question, traces: Sequence[VariantTrace]) -> None:
    """Prompt, texts and legend."""
    plain = not console.is_terminal or console.no_color
    console.print(Rule(Text(visible(f"{run.name}: {prompt_id}"), style="bold"), align="left"))
    if run.stand_in:
        console.print(Text(f"† a stand-in: {run.stand_in}; no reproduction of anything", style="bold"))
    for note in asked.notes:
        console.print(Text(f"({note})", style="dim"))
    console.print(Text(_asked(asked), style="dim"), soft_wrap=True)  # no line break that is not in the text
    for one in traces:
        console.print()
        console.print(Rule(Text(_head(one), style="bold"), align="left"))
        console.print(written(one.segments, plain) if one.absent is None else Text(f"({one.absent})"), soft_wrap=True)
    console.print()
    console.print(legend({kind for one in traces for kind in one.kinds}, plain))


def written(segments: Sequence[Segment], plain: bool) -> Text:
    """A text in colours, or with marks around what did not come from the draft."""
    text = Text()
    for place, part in enumerate(segments):
        if place and part.round != segments[place - 1].round:
            text.append(BORDER, style="dim")
        before, after = MARKS[part.kind] if plain else ("", "")
        text.append(before + (visible(part.text) or NOTHING) + after, style=STYLES[part.kind])
    return text


def legend(kinds: set[str], plain: bool) -> Text:
    """What the colours or marks mean, for those kinds."""
    text = Text()
    for kind in (kind for kind in KINDS if kind in kinds):
        before, after = MARKS[kind] if plain else ("", "")
        text.append(before + kind + after, style=STYLES[kind]).append(f"  {KINDS[kind]}\n")
    return text.append(LEGEND)


def _asked(asked: Question) -> str:
    return f"({asked.absent})" if asked.text is None else visible(asked.text)


def _head(one: VariantTrace) -> str:
    rate = "-" if one.per_forward is None else f"{one.per_forward:.2f}"
    return f"{visible(one.label)}: {one.tokens} tokens, {rate} per target forward, ended by {one.finish}"


if __name__ == "__main__":
    main()
