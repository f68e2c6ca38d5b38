"""Computes every comparison of a run again: python tests/reproduce_intervals.py RUN_FOLDER

Written independently of the project, of which it imports nothing: from samples.jsonl, judge.jsonl and energy.jsonl
alone, with a resampling loop of its own. Values must agree exactly, intervals, p-values and detectable effects up to
the noise of resampling, and no comparison may be missing. Prints a line for each; ends with code 1 if one disagrees.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t

DRAWS = 20_000
NOISE = 0.08  # of a standard error
TEXTS = ("speedup", "speedup_end_to_end", "perplexity_ratio", "score_difference")
DIFFERENCES = ("score_difference",)
OTHERWISE = ("energy_ratio_net",)  # its interval also resamples the spells of idling

Record = dict[str, Any]
Units = dict[str, dict[str, tuple[float, float]]]  # variant -> unit (prompt or round) -> above and below the line


def read(folder: Path, name: str) -> list[Record]:
    file = folder / name
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def text(record: Record) -> tuple[str, ...]:
    return tuple(str(record[key]) for key in ("variant", "prompt_id", "turn", "repeat", "process_id"))


def tokens(row: Record) -> int:
    return len(row["token_ids"])


LINES = {  # of a row: above and below the line
    "speedup": lambda row: (tokens(row), row["seconds"]["decode"]),
    "speedup_end_to_end": lambda row: (tokens(row), row["seconds"]["decode"] + row["seconds"]["prefill"]),
    "perplexity_ratio": lambda row: (sum(row["log_likelihoods"]), tokens(row)),
    "score_difference": lambda row: (row["score"], 1),
    "judge_perplexity_ratio": lambda row: (row["judge"]["log_likelihood"], row["judge"]["tokens"]),
}


def of_texts(metric: str, rows: list[Record]) -> Units:
    """Sums over the repeats of each prompt."""
    units: Units = defaultdict(lambda: defaultdict(lambda: (0.0, 0.0)))
    for row in rows:
        above, below = LINES[metric](row)
        before = units[row["variant"]][row["prompt_id"]]
        units[row["variant"]][row["prompt_id"]] = (before[0] + above, before[1] + below)
    return units


def of_blocks(records: list[Record]) -> Units:
    """Joules and tokens of the last attempt at each round that has all variants, from one process."""
    tries: dict[tuple[int, str, int], dict[str, Record]] = defaultdict(dict)
    for record in records:
        if record["kind"] == "block" and record["joules"] is not None:
            tries[record["round"], record["process_id"], record["attempt"]][record["variant"]] = record
    variants = {record["variant"] for record in records if record["kind"] == "block"}
    last = {key[0]: blocks for key, blocks in tries.items() if blocks.keys() == variants}
    return {
        label: {str(number): (blocks[label]["joules"], blocks[label]["tokens"]) for number, blocks in last.items()}
        for label in variants
    }


def effect(metric: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The comparison of two variants from their sums, [..., 2]."""
    x, y = a[..., 0] / a[..., 1], b[..., 0] / b[..., 1]
    return x - y if metric in DIFFERENCES else np.exp(y - x) if "perplexity" in metric else x / y


def again(metric: str, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Value, standard error (of the logarithm for a ratio), interval, p and detectable effect from sums [units, 2]."""
    n = len(a)
    picks = np.random.default_rng(12345).integers(0, n, (DRAWS, n))
    drawn = effect(metric, a[picks].sum(axis=1), b[picks].sum(axis=1))
    value = float(effect(metric, a.sum(axis=0), b.sum(axis=0)))
    difference = metric in DIFFERENCES
    error = float(np.std(drawn if difference else np.log(drawn))) * sqrt(n / (n - 1))
    centre, student = value if difference else log(value), float(t.ppf(0.975, n - 1))
    low, high = centre - student * error, centre + student * error
    least = (student + float(t.ppf(0.8, n - 1))) * error
    p = 2 * float(t.sf(abs(centre) / error, n - 1)) if error > 1e-12 else 1.0
    if not difference:
        low, high, least = exp(low), exp(high), exp(least)
    return {"value": value, "error": error, "low": low, "high": high, "p": p, "detectable": least}


def agrees(found: Record, ours: dict[str, float], units: int) -> bool:
    """Whether the run's comparison is ours, up to the noise of resampling."""
    if abs(found["value"] - ours["value"]) > 1e-9 * max(1, abs(ours["value"])):
        return False
    if found["low"] is None:
        return units < 5 or ours["error"] < 1e-12
    to = float if found["metric"] in DIFFERENCES else log
    near = [abs(to(found[key]) - to(ours[key])) < NOISE * 3 * ours["error"] for key in ("low", "high", "detectable")]
    same_p = abs(log(max(found["p"], 1e-12)) - log(max(ours["p"], 1e-12))) < max(0.1, 0.1 * abs(log(ours["p"] + 1e-12)))
    return all(near) and same_p


def corrected(found: Record, comparisons: list[Record]) -> float:
    """Holm's p-value, by its definition: the largest (m - rank) p among the ranks up to this one's."""
    family = sorted(c["p"] for c in comparisons if c["reference"] == found["reference"] and c["p"] is not None)
    ranks = [rank for rank, p in enumerate(family) if p <= found["p"]]
    return min(1.0, max((len(family) - rank) * family[rank] for rank in ranks))


def main(folder: Path) -> int:
    """The number of comparisons that disagree or are missing."""
    names = ("samples", "energy", "grades", "judge")
    rows, blocks, grades, verdicts = (read(folder, f"{name}.jsonl") for name in names)
    comparisons = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["comparisons"]
    judged, graded = ({text(record): record for record in records} for records in (verdicts, grades))
    scores = {key: next(iter(record["grades"].values()), None) for key, record in graded.items()}
    rows = [{**row, "score": scores[text(row)], "judge": judged.get(text(row))} for row in rows]
    wrong = 0
    for found in comparisons:
        name = f"{found['decoder']} / {found['reference']} {found['metric']}"
        if found["metric"] in OTHERWISE or found["value"] is None:
            print(f"{name}: not computed again ({found['reason'] or 'its interval is made otherwise'})")
            continue
        units = of_blocks(blocks) if found["metric"] == "energy_ratio" else of_texts(found["metric"], rows)
        names = sorted(units[found["decoder"]])
        a, b = (np.array([units[found[side]][unit] for unit in names], float) for side in ("decoder", "reference"))
        ours = again(found["metric"], a, b)
        fine = agrees(found, ours, len(names))
        if found["p"] is not None:
            fine &= abs(found["p_holm"] - corrected(found, comparisons)) < 1e-9
        wrong += not fine
        ends = "no interval" if found["low"] is None else f"[{found['low']:.4f}, {found['high']:.4f}]"
        print(f"{name}: {found['value']:.4f} {ends} {'agrees' if fine else 'DISAGREES'}", end=" ")
        print({key: round(value, 4) for key, value in ours.items()})
    there = {(found["decoder"], found["reference"], found["metric"]) for found in comparisons}
    for pair in {(decoder, reference) for decoder, reference, _ in there}:
        for metric in TEXTS:
            if (*pair, metric) not in there:
                wrong += 1
                print(f"{pair[0]} / {pair[1]} {metric}: MISSING")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(Path(sys.argv[1])), 1))
