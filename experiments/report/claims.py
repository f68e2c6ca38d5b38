"""Whether runs bear out what was published: for each claim and run the measured value, a scope and a verdict.

The rules, in `RULES` for readers: *reproduced* if the whole 95 % interval lies on the claimed side of "no difference"
and reaches the published figure; *not reproduced* if the whole interval falls short of that figure; *cannot tell*
otherwise, without an interval, and always on a stand-in, whatever it shows. A claim of an average over several pairs
and data sets is set against each run alone. Of a run with several variants that fit a claim, those count whose settings
differ least from the paper's, whatever their figures.

Knows results and what was published; refuses to know how they are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.comparisons import METRICS, Metric, compare_sums, metric_sums
from experiments.figure import ratio
from experiments.intervals import Estimate
from experiments.journal import Row
from experiments.records import text_key
from experiments.report.published import Published, published
from experiments.report.results import Results, Run
from experiments.report.setting import differences
from experiments.scoring import with_grades

PAPERS, ANOTHER, STAND_IN, UNMEASURED = "the paper's setting", "another setting", "a stand-in", "not measured here"
REPRODUCED, NOT_REPRODUCED, CANNOT_TELL = "reproduced", "not reproduced", "cannot tell"
SAME, OPPOSITE, OPEN = "same direction", "opposite direction", "direction open"
RULES = (
    "reproduced: the whole 95 % interval lies on the claimed side of no difference, and reaches the published figure",
    "not reproduced: the whole 95 % interval falls short of the published figure, whether or not the direction holds",
    "of a claim without a figure only the direction is judged, by the same interval",
    "cannot tell: otherwise, or without an interval; always on a stand-in, whose models are none of the paper's kind",
    "scope: the paper's setting if pair, task, stated options, lengths and prompts are the paper's, else what differs",
    "a claim of an average over pairs and data sets is set against each run alone",
    "intervals are of one comparison each, not corrected for their number; the paper gives none for its figures",
)
ALL_TASKS = ("main_v2", "main_v4")  # experiments that name all data sets of a claim, with its limits and sampling
MORE = (  # metrics of claims that no summary compares
    Metric(
        "score_ratio",
        lambda row: row["score"],
        lambda row: 1.0,
        lambda a, b: a / b,
        1,
        "higher",
        "the task gives no score",
    ),
    Metric(
        "tokens_per_round_ratio",
        lambda row: float(len(row["token_ids"])),
        lambda row: float(len(row["rounds"])),
        lambda a, b: a / b,
        1,
        "higher",
    ),
)
FROM_ROWS = {metric.name: metric for metric in (*METRICS, *MORE)}
FIGURES = {  # metric -> the figure of a variant that it compares
    "speedup": "tokens_per_second",
    "perplexity_ratio": "perplexity",
    "score_ratio": "score",
    "score_difference": "score",
    "tokens_per_round_ratio": "tokens_per_round",
}


@dataclass(frozen=True)
class Verdict:
    """What one run says of one claim; the run and all of it are None if no run says anything.

    Attributes:
        run, variant, reference: names.
        value, low, high: of the claim's metric, and its 95 % interval.
        scope: one of PAPERS, ANOTHER, STAND_IN, UNMEASURED.
        verdict: one of REPRODUCED, NOT_REPRODUCED, CANNOT_TELL.
        why: in one line.
        differs: from the paper's setting, in a few words each.
    """

    published: Published
    run: str | None
    variant: str | None
    reference: str | None
    value: float | None
    low: float | None
    high: float | None
    scope: str
    verdict: str
    why: str
    differs: tuple[str, ...] = ()


def judge_claims(results: Results) -> list[Verdict]:
    """The verdicts on all claims, those on one claim together; at least one on each."""
    claims = [one for one in published() if one.reference is not None]
    rows = {run.name: _graded(run) for run in results.runs}
    found = []
    for claim in claims:
        verdicts = [verdict for run in results.runs for verdict in _of_run(claim, run, rows[run.name])]
        found += verdicts or [_unmeasured(claim)]
    return found


def _of_run(claim: Published, run: Run, rows: Sequence[Row]) -> Iterator[Verdict]:
    """One for each pair of variants whose settings differ least from the claim's; none on a claim of another task."""
    decoders = run.summary["decoders"]
    if not claim.average and run.summary["task"] not in claim.tasks:
        return
    pairs = [
        (label, reference, differences(claim, run, label, reference))
        for label in _of_decoder(decoders, claim.decoder)
        for reference in _of_decoder(decoders, str(claim.reference))
        if label != reference
    ]
    fewest = min((len(differs) for *_, differs in pairs), default=0)
    for label, reference, differs in pairs:
        if len(differs) == fewest:
            yield _judge(claim, run, label, reference, differs, _measured(claim, run, label, reference, rows))


def _of_decoder(decoders: Mapping[str, Any], name: str) -> list[str]:
    """Labels; summaries of the first versions name no decoders, and the label has to do."""
    return [label for label, figures in decoders.items() if (figures.get("decoder") or label) == name]


def _judge(claim: Published, run: Run, label: str, reference: str, differs: Sequence[str], found: Estimate) -> Verdict:
    if run.stand_in:
        scope, verdict = STAND_IN, CANNOT_TELL
        why = f"{run.stand_in} says nothing of the paper's models; on the stand-in: {_direction(claim, found)}"
    else:
        scope, (verdict, why) = ANOTHER if differs else PAPERS, _by_rule(claim, found)
        why += "; published is an average, this is one run" if claim.average and found.value is not None else ""
    return Verdict(
        claim, run.name, label, reference, found.value, found.low, found.high, scope, verdict, why, tuple(differs)
    )


def _by_rule(claim: Published, found: Estimate) -> tuple[str, str]:
    """The verdict on a run of models of the paper's kind, and why."""
    direction = _direction(claim, found)
    if found.low is None or found.high is None:
        return CANNOT_TELL, direction
    if claim.direction_only:
        return {SAME: REPRODUCED, OPPOSITE: NOT_REPRODUCED, OPEN: CANNOT_TELL}[direction], direction
    best = found.high if claim.better == "higher" else -found.low
    if best < (claim.value if claim.better == "higher" else -claim.value):
        return NOT_REPRODUCED, f"{direction}, and the whole interval falls short of the published figure"
    if direction == SAME:
        return REPRODUCED, f"{direction}, and the interval reaches the published figure"
    return CANNOT_TELL, f'{direction}: the interval contains "no difference" as well as the published figure'


def _direction(claim: Published, found: Estimate) -> str:
    """Which side of no difference the interval is on, or why nobody knows."""
    if found.value is None:
        return f"no value: {found.reason}"
    if found.low is None or found.high is None:
        return found.reason or "no interval"
    assert claim.null is not None  # it has a reference
    if found.low <= claim.null <= found.high:
        return OPEN
    return SAME if (found.low > claim.null) == (claim.better == "higher") else OPPOSITE


def _unmeasured(claim: Published) -> Verdict:
    """No run has both decoders, or none is of the claim's one task."""
    command = f"python run.py experiment={claim.experiment} model={claim.models[0]}"
    if not claim.average:
        command += f" task={claim.tasks[0]} limit={claim.prompts[0]}"
    elif claim.experiment not in ALL_TASKS:
        limits = f"limit={claim.prompts[0]} max_new_tokens={claim.max_new_tokens[0]}"
        command += f" task={claim.tasks[0]} sampling.top_k={claim.sampling['top_k'][0]} {limits}"
    needed = f"{claim.decoder} and {claim.reference} in one run" + ("" if claim.average else f" of {claim.tasks[0]}")
    why = f"no run here has {needed}; {command} measures it"
    return Verdict(claim, None, None, None, None, None, None, UNMEASURED, CANNOT_TELL, why)


def _measured(claim: Published, run: Run, label: str, reference: str, rows: Sequence[Row]) -> Estimate:
    """From the comparisons of the summary, else from the rows, else from the figures of both, without an interval."""
    for one in run.summary["comparisons"]:
        if (one["decoder"], one["reference"], one["metric"]) == (label, reference, claim.metric):
            return Estimate(one["value"], one["low"], one["high"], reason=one["reason"])
    if claim.metric == "energy_ratio":
        energies = [run.summary["decoders"][name].get("energy") or {} for name in (label, reference)]
        reasons = [energy["joules_per_token_reason"] for energy in energies if energy.get("joules_per_token_reason")]
        return Estimate(None, reason=reasons[0] if reasons else "the summary does not compare the joules of these two")
    if rows:
        return _from_rows(FROM_ROWS[claim.metric], rows, label, reference)
    return _from_figures(claim, run, label, reference)


def _graded(run: Run) -> list[Row]:
    """The rows with their scores; none if they are not there, or not all graded."""
    rows, grades = run.rows(), run.rows("grades")
    known = {text_key(record) for record in grades}
    return with_grades(rows, grades) if all(text_key(row) in known for row in rows) else []


def _from_rows(metric: Metric, rows: Sequence[Row], label: str, reference: str) -> Estimate:
    """As summaries compare, for pairs and metrics that they leave out."""
    prompts = list(dict.fromkeys(row["prompt_id"] for row in rows))
    a, b = (
        metric_sums(metric, [row for row in rows if row["variant"] == name], prompts) for name in (label, reference)
    )
    return compare_sums(metric, a, b)


def _from_figures(claim: Published, run: Run, label: str, reference: str) -> Estimate:
    a, b = (run.summary["decoders"][name].get(FIGURES[claim.metric]) for name in (label, reference))
    a, b = (figure["value"] if isinstance(figure, Mapping) else figure for figure in (a, b))
    if a is None or b is None:
        return Estimate(None, reason=f"a {FIGURES[claim.metric]} is missing")
    value = a - b if claim.null == 0 else ratio(a, b)
    return Estimate(value, reason="no interval: the rows are not there, and the summary does not compare these two")
