"""One self-contained HTML page with a line for each decoder on each pair, task and hardware, from checked results.

Only what `experiments/formats` finds valid stands in the table; the rest is listed with the reason. Where a figure was
not measured there is a dash, and its title says why. What others named or wrote is data: the template escapes it.
Knows how checked summaries are shown; refuses to know how any figure is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from experiments.baseline import FRONTIER, baseline_of
from experiments.figure import counted
from experiments.formats.validate import Checked
from experiments.report.policy import policy
from experiments.report.results import Run
from experiments.report.trace import visible
from experiments.stand_in import quantized

HERE = Path(__file__).parent
ALONE = "a summary without its rows: only its form was checked"
NO_MACHINE = "no environment.json beside the summary"
NO_COUNT = "not recorded by the version that measured"


@dataclass(frozen=True)
class Cell:
    """What stands in a line of the table: words, and for a dash the reason."""

    words: str
    title: str = ""

    @property
    def number(self) -> bool:
        """Whether it stands on the right."""
        return self.words[:1].isdigit() or self.words == "-"


@dataclass(frozen=True)
class Line:
    """A decoder on a pair, a task and hardware.

    Attributes:
        speed: for the first order; -1 without one.
        marks: why its figures are not those of published weights, or mixed.
    """

    pair: str
    task: str
    decoder: str
    speed: float
    cells: Mapping[str, Cell]
    marks: tuple[Cell, ...]


COLUMNS = {
    "speed-up": "tokens/s of decoding over those of the baseline, 95 % interval over prompts",
    "perplexity ratio": "under the target, over that of the baseline; below 1 is more probable",
    "score": "the task's headline, mean over texts, 95 % interval over prompts",
    "tokens/forward": "emitted tokens over forwards of the target",
    "J/token": "gross, prefill included; of GPUs, or of CPU packages where no GPU was used",
    "sampling": "temperature, top-k, top-p; or greedy",
    "hardware": "that measured; threads of torch on a CPU",
    "precision": "of the target's numbers, and in how many bits its weights are held",
    "prompts": "measured",
    "checked": "rows: figures made again from them; form: a summary alone",
}


def leaderboard(runs: Sequence[Checked]) -> str:
    """The page of checked runs, valid or not."""
    valid = [run for run in runs if run.summary is not None and not run.problems]
    lines = sorted((line for run in valid for line in _lines(run)), key=lambda one: (one.pair, one.task, -one.speed))
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    style, script = (
        "\n".join((HERE / f"{name}.{end}").read_text(encoding="utf-8") for name in ("page", "leaderboard"))
        for end in ("css", "js")
    )
    html = environment.get_template("leaderboard.html").render(
        style=Markup(style),
        script=Markup(script),
        policy=policy(script),
        columns=COLUMNS,
        lines=lines,
        pairs=sorted({line.pair for line in lines}),
        tasks=sorted({line.task for line in lines}),
        runs=len(valid),
        refused=[run for run in runs if run.problems],
        unfinished=[run for run in runs if run.summary is None and not run.problems],
    )
    return html.encode("utf-8", "backslashreplace").decode("utf-8")  # half a character that someone has left in a name


def _lines(run: Checked) -> Iterator[Line]:
    """One for each variant, but for the points of a frontier, which are plain sampling."""
    summary = run.summary or {}
    baseline = baseline_of(list(summary["decoders"]))
    against = {(one["decoder"], one["metric"]): one for one in summary["comparisons"] if one["reference"] == baseline}
    alone = run.texts is None
    for label, figures in summary["decoders"].items():
        if figures["group"] == FRONTIER:
            continue
        speed, perplexity = (_compared(against, label, metric, baseline) for metric in ("speedup", "perplexity_ratio"))
        cells = (
            *(speed, perplexity, _score(figures)),
            _figure(figures, "tokens_per_target_forward", 2),
            _figure(figures["energy"], "joules_per_token", 3),
            _sampling(figures.get("sampling")),
            _hardware(run.environment),
            _precision(summary.get("weights") or {}),
            Cell(str(figures["prompts"])),
            Cell("form", ALONE) if alone else Cell("rows"),
        )
        value = against.get((label, "speedup"), {}).get("value")
        order = 1.0 if label == baseline else -1.0 if value is None else float(value)
        named = dict(zip(COLUMNS, cells, strict=True))
        yield Line(summary["model"], summary["task"], label, order, named, tuple(_marks(run.name, summary)))


def _compared(against: Mapping[tuple[str, str], Mapping[str, Any]], label: str, metric: str, baseline: str) -> Cell:
    if label == baseline:
        return Cell("1", "the baseline itself")
    found = against.get((label, metric))
    if found is None:
        return Cell("-", f"not compared with {baseline}")
    return _number(found["value"], found["low"], found["high"], found["reason"], 2 if metric == "speedup" else 3)


def _score(figures: Mapping[str, Any]) -> Cell:
    score, interval = figures["score"], figures.get("intervals", {}).get("score") or {}
    if score["value"] is None:
        return Cell("-", score["reason"] or "")
    cell = _number(score["value"], interval.get("low"), interval.get("high"), interval.get("reason"), 3)
    return Cell(cell.words, f"{score['name']}{'; ' if cell.title else ''}{cell.title}")


def _number(value: float | None, low: float | None, high: float | None, reason: str | None, digits: int) -> Cell:
    """A figure with its interval; what is missing is said in the title."""
    if value is None:
        return Cell("-", reason or NO_COUNT)
    ends = "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return Cell(f"{value:.{digits}f}{ends}", "" if ends else reason or "no interval was recorded")


def _figure(figures: Mapping[str, Any], name: str, digits: int) -> Cell:
    value, reason = figures.get(name), figures.get(f"{name}_reason")
    return Cell("-", reason or NO_COUNT) if value is None else Cell(f"{value:.{digits}f}")


def _sampling(sampling: Mapping[str, Any] | None) -> Cell:
    if sampling is None:
        return Cell("-", NO_COUNT)
    if sampling["greedy"]:
        return Cell("greedy")
    return Cell(f"T={sampling['temperature']:g}, top-k {sampling['top_k']}, top-p {sampling['top_p']:g}")


def _hardware(environment: Mapping[str, Any]) -> Cell:
    """GPUs, or the processor with its threads, of every process that measured."""
    names = []
    for process in environment.get("processes", ()):
        gpus = [gpu["name"] for gpu in (process.get("gpu"), *process.get("other_gpus", ())) if gpu and gpu.get("name")]
        threads = process.get("torch_threads")
        processor = [process.get("cpu", "a CPU"), *([counted(threads, "thread")] if threads else [])]
        alike = (f"{many} x {name}" if many > 1 else str(name) for name, many in Counter(gpus).items())
        names.append(" + ".join(alike) or ", ".join(processor))
    return Cell("; ".join(dict.fromkeys(names))) if names else Cell("-", NO_MACHINE)


def _precision(weights: Mapping[str, Any]) -> Cell:
    target = weights.get("target") or {}
    bits = [line.partition(": ")[2] for line in quantized({"target": target})]
    words = ", ".join(map(str, filter(None, (target.get("dtype"), *bits))))
    return Cell(words) if words else Cell("-", NO_COUNT)


def _marks(name: str, summary: Mapping[str, Any]) -> Iterator[Cell]:
    """What a reader must know before he compares."""
    if stand_in := Run(name, None, summary).stand_in:
        yield Cell(f"replay: {stand_in}" if summary.get("replay") else f"stand-in: {stand_in}")
    weights = summary.get("weights") or {}
    for line in quantized({role: origin for role, origin in weights.items() if role != "target"}):  # its own column
        yield Cell(f"quantized {line}")
    if len(summary["code_versions"]) > 1:
        yield Cell(f"mixed: rows of {len(summary['code_versions'])} versions of the code")
    if summary["isolation"]:
        yield Cell("disturbed", "; ".join(summary["isolation"]))
