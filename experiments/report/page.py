"""One self-contained HTML page of results: summary, claims, tables, plots, token traces, and what all of it rests on.

Opens from disk without a network: style, script and pictures are inside, and its policy forbids loading anything. What
models, tasks and users wrote is data here: the template escapes it, and no script but the page's own runs.
Knows how results are shown; refuses to know how any figure is made.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image  # matplotlib brings it

from experiments.baseline import FRONTIER
from experiments.journal import Row
from experiments.report.background import about, caveats, machines, nulls, stand_ins
from experiments.report.claims import RULES, UNMEASURED, Verdict, judge_claims
from experiments.report.claims_text import counted, measured, printed, with_scope
from experiments.report.plots import Plot, picture, plots
from experiments.report.policy import policy
from experiments.report.published import Published
from experiments.report.results import Results, Run
from experiments.report.tables import tables, to_html
from experiments.report.tables.table import DAGGER
from experiments.report.trace import (
    KINDS,
    Question,
    Segment,
    VariantTrace,
    prompt_ids,
    question,
    text_rows,
    trace_rows,
    unknown,
    visible,
)
from mtad.errors import UserError

HERE = Path(__file__).parent
FIRST = 2  # prompts of each run, if none is chosen
MOST_VARIANTS = 8  # beside one another; a sweep may have thirty
MOST_LETTERS = 4000  # of a prompt or a text; a page is no archive
COLOURS = 64  # of a picture: enough for lines and letters, and a third of the size


@dataclass(frozen=True)
class Shown:
    """One prompt of a run with its texts.

    Attributes:
        more: how many variants are left out.
        others: how many further texts each variant has, in other turns and repeats.
    """

    prompt: str
    asked: Question
    traces: tuple[VariantTrace, ...]
    more: int
    others: int


@dataclass(frozen=True)
class Traced:
    """The prompts of a run that are shown, or why there are none."""

    run: Run
    prompts: tuple[Shown, ...]
    absent: str | None = None


@dataclass(frozen=True)
class Claims:
    """Verdicts by claim, how many claims have which, and those that no run says anything of."""

    measured: tuple[tuple[Published, tuple[Verdict, ...]], ...]
    unmeasured: tuple[Verdict, ...]
    rules: tuple[str, ...] = RULES

    @property
    def all(self) -> int:
        """How many claims there are."""
        return len(self.measured) + len(self.unmeasured)

    @property
    def counts(self) -> dict[str, int]:
        """How many claims have each verdict, with its scope; one may have several, from several runs."""
        return dict(Counter(words for _, found in self.measured for words in dict.fromkeys(map(with_scope, found))))


def page(results: Results, prompts: Sequence[str] = (), first: int = FIRST) -> str:
    """The page; its traces are of `prompts` or, if none are named, of the first of each run. Raises UserError."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = (visible, shortened, measured, printed, counted)
    environment.filters |= {function.__name__: function for function in shown}
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    html = environment.get_template("page.html").render(
        title=f"Results: {results.place.resolve().name}",
        style=Markup(style),
        script=Markup(script),
        policy=policy(script),
        runs=[about(run) for run in results.runs],
        stand_ins=stand_ins(results),
        all_stand_ins=all(run.stand_in for run in results.runs),
        dagger=DAGGER,
        caveats=caveats(results),
        stand_in_runs={run.name for run in results.runs if run.stand_in},
        claims=claims(judge_claims(results)),
        tables=[Markup(to_html(table)) for table in tables(results)],
        plots=[(plot, image(plot)) for plot in plots(results)],
        kinds=KINDS,
        traced=traced(results, prompts, first),
        most_letters=MOST_LETTERS,
        machines=machines(results),
        nulls=nulls(results),
    )
    return html.encode("utf-8", "backslashreplace").decode("utf-8")  # half a character that a tokenizer has left


def claims(verdicts: Sequence[Verdict]) -> Claims:
    """The verdicts on each claim together."""
    measured: dict[str, list[Verdict]] = {}
    for one in verdicts:
        if one.scope != UNMEASURED:
            measured.setdefault(one.published.id, []).append(one)
    by_claim = tuple((found[0].published, tuple(found)) for found in measured.values())
    return Claims(by_claim, tuple(one for one in verdicts if one.scope == UNMEASURED))


def image(plot: Plot) -> str:
    """The address of a picture that holds the picture itself: pixels, which are smaller here than outlines."""
    content = BytesIO()
    with Image.open(BytesIO(picture(plot, "png"))) as drawn:
        drawn.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(content, "png", optimize=True)
    return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"


def traced(results: Results, prompts: Sequence[str], first: int) -> list[Traced]:
    """The traces of every run. Raises UserError if a prompt is in none of them."""
    found, known = [], dict[str, None]()
    for run in results.runs:
        try:
            rows = text_rows(run)
        except UserError as error:
            found.append(Traced(run, (), str(error)))
            continue
        ids = prompt_ids(rows)
        known |= dict.fromkeys(ids)
        chosen = [one for one in prompts if one in ids] if prompts else ids[:first]
        try:
            shown = tuple(_shown(run, rows, one) for one in chosen)
            found.append(Traced(run, shown, None if shown else "no prompt of this run was chosen"))
        except UserError as error:
            found.append(Traced(run, (), str(error)))
    for one in prompts:
        if one not in known:
            raise UserError(unknown(one, list(known)))
    return found


def shortened(segments: Sequence[Segment]) -> Iterator[Segment]:
    """The segments of the first MOST_LETTERS characters."""
    room = MOST_LETTERS
    for part in segments:
        if room <= 0:
            return
        yield replace(part, text=part.text[:room])
        room -= len(part.text)


def _shown(run: Run, rows: Sequence[Row], prompt: str) -> Shown:
    """Its first variants; those of the frontier of colder sampling come last."""
    groups = {label: figures.get("group") for label, figures in run.summary["decoders"].items()}
    order = sorted(trace_rows(run, rows, prompt), key=lambda one: groups[one.label] == FRONTIER)
    texts = {(row["turn"], row["repeat"]) for row in rows if row["prompt_id"] == prompt}
    return Shown(
        prompt, question(run, prompt), tuple(order[:MOST_VARIANTS]), len(order[MOST_VARIANTS:]), len(texts) - 1
    )
