"""Verdicts on the paper's claims, against results whose answers are planted."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from experiments.comparisons import comparison
from experiments.intervals import Estimate
from experiments.records import TEXT
from experiments.report import claims_text
from experiments.report.claims import judge_claims
from experiments.report.published import NULLS, pairs, published
from experiments.report.results import read_results
from mtad.errors import UserError
from tests.made_rows import row, sampling, summary_of

ROOT = Path(__file__).parents[1]
BY_ID = {one.id: one for one in published()}
MTAD = {"gamma": 4, "width": 8, "tau": 0.1}
THIRTEEN_BILLION = {"target": 13_000_000_000, "draft": 68_000_000}
EIGHT_MILLION = {"target": 7_900_000, "draft": 900_000}
GPU = {"processes": [{"process_id": "1", "gpu": {"name": "a GPU"}}]}
CLAIMED = ("speedup", "energy_ratio", "perplexity_ratio", "score_difference")
STRONG = {  # what would bear out every claim, and more
    "speedup": (3.0, 2.9, 3.1),
    "energy_ratio": (0.2, 0.19, 0.21),
    "perplexity_ratio": (0.5, 0.49, 0.51),
    "score_difference": (0.5, 0.4, 0.6),
}
LABELS = ("mtad", "autoregressive", "speculative")
Planted = Mapping[str, tuple[float | None, float | None, float | None]]


@cache
def base(labels: Sequence[str], prompts: int = 100) -> str:
    """A summary of rows that tell nothing, as JSON."""
    own = {"mtad": MTAD, "mjgd": {"gamma": 4}}
    rows = [
        row(
            label,
            f"p{i}",
            decoder=label.split(" ")[0],
            options=own.get(label.split(" ")[0], {}),
            sampling=sampling(top_k=20),
        )
        for label in labels
        for i in range(prompts)
    ]
    return json.dumps(summary_of(rows, *labels))


def run(place: Path, planted: Planted = STRONG, labels: tuple[str, ...] = LABELS, **changes: Any) -> Path:
    """The folder of a run in the setting of the paper's first version; `planted` of each variant against each other."""
    summary = json.loads(base(labels)) | {
        "model": "llama2-13b",
        "task": "cnn_dailymail",
        "parameters": THIRTEEN_BILLION,
        "weights": {role: {"id": hub_id, "folder": None} for role, hub_id in pairs()["llama2-13b"].items()},
        "chat": False,
    }
    summary["comparisons"] = [
        comparison(a, b, metric, NULLS[metric][1], NULLS[metric][0], Estimate(*found, reason="planted"))
        for a in labels
        for b in labels
        if a != b
        for metric, found in planted.items()
    ]
    place.mkdir(parents=True, exist_ok=True)
    (place / "summary.json").write_text(json.dumps(summary | changes))
    (place / "environment.json").write_text(json.dumps(GPU))
    (place / "config.yaml").write_text("max_new_tokens: null\ntask: {max_new_tokens: 128}\n")
    return place


def changed(place: Path, label: str, key: str, **others: Any) -> None:
    """Change options or the sampling of a variant."""
    summary = json.loads((place / "summary.json").read_text())
    summary["decoders"][label][key] |= others
    (place / "summary.json").write_text(json.dumps(summary))


def verdicts(place: Path, claim: str) -> list[Any]:
    return [one for one in judge_claims(read_results(place)) if one.published.id == claim]


def test_less_energy_is_a_ratio_below_one_and_shown_both_ways(tmp_path: Path) -> None:
    claim = BY_ID["v1-energy-autoregressive"]
    assert claim.value == pytest.approx(1 / 2.84) and claim.better == "lower"
    assert claims_text.printed(claim) == "2.84x less (J/token ratio 0.352)"
    found = verdicts(run(tmp_path, {"energy_ratio": (0.5, 0.4, 0.8)}), claim.id)[0]
    assert claims_text.measured(found) == "0.500 [0.400, 0.800], 2.00x less"
    worse = verdicts(run(tmp_path, {"energy_ratio": (1.25, 1.1, 1.4)}), claim.id)[0]
    assert claims_text.measured(worse) == "1.250 [1.100, 1.400], 1.25x more"
    assert BY_ID["iclr-energy-speculative"].value == pytest.approx(0.764)
    assert BY_ID["v2-perplexity-autoregressive"].value == pytest.approx(0.788)
    assert BY_ID["iclr-score-autoregressive"].value == pytest.approx(1.43)


@pytest.mark.parametrize(
    ("claim", "metric", "planted", "verdict", "why"),
    [
        ("v1-speed-speculative", "speedup", (1.5, 1.3, 1.7), "reproduced", "same direction"),
        ("v1-speed-speculative", "speedup", (1.9, 1.8, 2.0), "reproduced", "same direction"),  # more than was claimed
        ("v1-speed-speculative", "speedup", (1.2, 1.1, 1.3), "not reproduced", "same direction"),
        ("v1-speed-speculative", "speedup", (1.1, 0.9, 1.3), "not reproduced", "direction open"),
        ("v1-speed-speculative", "speedup", (0.8, 0.7, 0.9), "not reproduced", "opposite direction"),
        ("v1-speed-speculative", "speedup", (1.3, 0.8, 2.1), "cannot tell", "direction open"),
        ("v1-speed-speculative", "speedup", (1.5, 1.0, 2.0), "cannot tell", "direction open"),  # just touches it
        ("v1-speed-speculative", "speedup", (1.5, None, None), "cannot tell", "planted"),
        ("v1-speed-speculative", "speedup", (None, None, None), "cannot tell", "no value: planted"),
        ("v1-energy-speculative", "energy_ratio", (0.6, 0.5, 0.7), "reproduced", "same direction"),
        ("v1-energy-speculative", "energy_ratio", (0.8, 0.7, 0.9), "not reproduced", "same direction"),
        ("v1-energy-speculative", "energy_ratio", (1.3, 1.2, 1.4), "not reproduced", "opposite direction"),
        ("v1-energy-speculative", "energy_ratio", (0.8, 0.5, 1.3), "cannot tell", "direction open"),
        ("v1-perplexity-speculative", "perplexity_ratio", (0.9, 0.8, 0.99), "reproduced", "same direction"),
        ("v1-perplexity-speculative", "perplexity_ratio", (1.2, 1.1, 1.3), "not reproduced", "opposite direction"),
        ("v1-perplexity-speculative", "perplexity_ratio", (1.0, 0.9, 1.1), "cannot tell", "direction open"),
        ("v2-score-autoregressive", "score_difference", (0.1, 0.01, 0.2), "reproduced", "same direction"),
        ("v2-score-autoregressive", "score_difference", (0.1, -0.1, 0.3), "cannot tell", "direction open"),
    ],
)
def test_the_verdict_follows_the_rules(
    tmp_path: Path, claim: str, metric: str, planted: tuple[float | None, ...], verdict: str, why: str
) -> None:
    value, low, high = planted
    found = verdicts(run(tmp_path, {metric: (value, low, high)}), claim)
    assert [(one.verdict, one.scope, one.differs) for one in found] == [(verdict, "the paper's setting", ())]
    assert found[0].why.startswith(why)
    assert not (found[0].published.direction_only and "published figure" in found[0].why)


def test_an_average_over_settings_is_set_against_each_run_and_says_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(tmp_path / name)
    found = verdicts(tmp_path, "v1-speed-speculative")
    assert [one.run for one in found] == ["a", "b"]
    assert all("published is an average, this is one run" in one.why for one in found)


def test_the_command_for_what_nobody_measured_names_a_task_that_can_be_scored(tmp_path: Path) -> None:
    other = run(tmp_path, labels=("mmtad", "autoregressive"))
    by_id = {one.published.id: one.why for one in judge_claims(read_results(other)) if one.run is None}
    assert "experiment=figure1 model=llama2-13b task=cnn_dailymail" in by_id["v2-joint-score"]
    assert "sampling.top_k=20" in by_id["v1-joint-greedy"]  # table1 has another default
    assert "experiment=main_v2 model=llama2-13b measures" in by_id["v1-speed-speculative"]


def pair_of(model: str) -> dict[str, Any]:
    return {"model": model, "weights": {role: {"id": hub_id} for role, hub_id in pairs()[model].items()}}


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        (pair_of("opt-13b"), []),  # the paper's other pair
        (pair_of("opt-66b"), ["pair: opt-66b"]),
        ({"weights": {"target": {"folder": "Llama-2-13b-hf"}, "draft": {"folder": "llama-68m"}}}, []),
        ({"weights": {"target": {"folder": "mine"}, "draft": {"folder": "llama-68m"}}}, ["pair: llama2-13b"]),
        ({"weights": None}, ["pair: llama2-13b"]),  # a name alone proves nothing
        ({"task": "sql"}, ["task: sql"]),
    ],
)
def test_the_scope_says_what_of_pair_and_task_differs(
    tmp_path: Path, changes: dict[str, Any], differs: list[str]
) -> None:
    found = verdicts(run(tmp_path, **changes), "v1-speed-speculative")[0]
    assert (list(found.differs), found.scope) == (differs, "another setting" if differs else "the paper's setting")
    assert found.verdict == "reproduced"


def test_the_scope_says_which_options_differ(tmp_path: Path) -> None:
    run(tmp_path)
    changed(tmp_path, "mtad", "options", tau=0.5)
    changed(tmp_path, "speculative", "sampling", top_k=0)
    found = verdicts(tmp_path, "v1-speed-speculative")[0]
    assert found.differs == ("mtad: tau 0.5, not 0.1 or 0.9", "speculative: top_k 0, not 20")
    assert found.scope == "another setting"


def test_what_is_not_recorded_counts_as_different(tmp_path: Path) -> None:
    run(tmp_path)
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "environment.json").unlink()
    found = verdicts(tmp_path, "v1-speed-speculative")[0]
    assert found.differs == ("max_new_tokens not recorded, not 128", "not known to be on a GPU")
    assert verdicts(tmp_path, "v1-perplexity-speculative")[0].differs == found.differs[:1]  # needs no GPU


def test_nothing_on_a_stand_in_reads_as_a_reproduction(tmp_path: Path) -> None:
    run(tmp_path, parameters=EIGHT_MILLION)
    found = judge_claims(read_results(tmp_path))
    measured = [one for one in found if one.run]
    assert {one.published.metric for one in measured} >= set(CLAIMED)
    assert {(one.verdict, one.scope) for one in measured} == {("cannot tell", "a stand-in")}
    assert all("on the stand-in: " in one.why for one in measured)
    assert any(one.why.endswith("on the stand-in: same direction") for one in measured)
    lines = [
        line for line in claims_text.markdown(found, []).splitlines() if line.startswith("| ") and "[95" not in line
    ]
    assert len(lines) == len(measured)
    assert not any("reproduced" in line for line in lines)
    assert all(claims_text.measured(one).endswith("†") for one in measured if one.value is not None)


def test_a_model_of_unrecorded_size_is_a_stand_in(tmp_path: Path) -> None:
    assert verdicts(run(tmp_path, parameters=None), "v1-speed-speculative")[0].scope == "a stand-in"


def test_a_run_without_speculative_decoding_says_nothing_of_claims_against_it(tmp_path: Path) -> None:
    run(tmp_path, labels=("mtad", "autoregressive"))
    assert verdicts(tmp_path, "v1-speed-autoregressive")[0].verdict == "reproduced"
    (found,) = verdicts(tmp_path, "v1-speed-speculative")
    assert (found.run, found.value, found.verdict, found.scope) == (None, None, "cannot tell", "not measured here")
    assert "python run.py experiment=main_v2 model=llama2-13b" in found.why
    assert claims_text.measured(found) == "-"


def test_a_claim_of_one_task_is_not_set_against_another(tmp_path: Path) -> None:
    labels = ("mtad", "specinfer")
    (found,) = verdicts(run(tmp_path, labels=labels), "spider-llama3.1-score")
    assert found.run is None
    assert found.why.endswith("experiment=main_v4 model=llama3.1-8b task=spider limit=100 measures it")
    (found,) = verdicts(run(tmp_path, labels=labels, task="spider"), "spider-llama3.1-score")
    assert found.value == 0.5 and "pair: llama2-13b" in found.differs


def test_of_several_variants_those_nearest_to_the_paper_count_whatever_they_show(tmp_path: Path) -> None:
    labels = (*LABELS, "mtad other", "mtad third")
    run(tmp_path, labels=labels)
    changed(tmp_path, "mtad", "options", tau=0.5, width=2)
    changed(tmp_path, "mtad other", "options", tau=0.5)
    changed(tmp_path, "mtad third", "options", gamma=8)
    assert [one.variant for one in verdicts(tmp_path, "v1-speed-speculative")] == ["mtad other", "mtad third"]


def test_greedy_decoding_is_the_reference_of_joint_greedy_decoding(tmp_path: Path) -> None:
    run(tmp_path, labels=("mjgd", "autoregressive", "autoregressive greedy"))
    changed(tmp_path, "autoregressive greedy", "sampling", greedy=True)
    assert [one.reference for one in verdicts(tmp_path, "v1-joint-greedy")] == ["autoregressive greedy"]
    assert [one.reference for one in verdicts(tmp_path, "v2-joint-perplexity")] == ["autoregressive"]


def with_rows(place: Path) -> None:
    """MTAD is right on 3 texts of 4, autoregressive decoding on 2, each on other prompts."""
    rows = [
        {**row(label, f"p{i}"), "score": None, "grades": {}} for label in ("mtad", "autoregressive") for i in range(40)
    ]
    right = {"mtad": lambda i: i % 4 != 0, "autoregressive": lambda i: i % 2 == 0}
    grades = [
        {key: r[key] for key in TEXT}
        | {"grader": {}, "grades": {"accuracy": float(right[r["variant"]](int(r["prompt_id"][1:])))}}
        for r in rows
    ]
    for name, lines in (("samples", rows), ("grades", grades)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_ratio_of_scores_has_an_interval_only_from_rows(tmp_path: Path) -> None:
    run(tmp_path)
    (without,) = verdicts(tmp_path, "iclr-score-autoregressive")
    assert (without.value, without.low, without.verdict) == (1.0, None, "cannot tell")
    assert "the rows are not there" in without.why
    with_rows(tmp_path)
    (found,) = verdicts(tmp_path, "iclr-score-autoregressive")
    assert found.value == pytest.approx(1.5) and found.low < 1.5 < found.high
    assert found.scope == "another setting"


def test_a_pair_that_the_summary_does_not_compare_is_compared_from_the_rows(tmp_path: Path) -> None:
    run(tmp_path, planted={})
    with_rows(tmp_path)
    (found,) = verdicts(tmp_path, "v2-score-autoregressive")
    assert found.value == pytest.approx(0.25) and found.low is not None


def test_energy_that_nobody_measured_has_the_reason(tmp_path: Path) -> None:
    (found,) = verdicts(run(tmp_path, planted={}), "v1-energy-speculative")
    assert (found.value, found.verdict, found.why) == (None, "cannot tell", "no value: not measured")


def test_no_results_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished runs"):
        read_results(tmp_path)
    command = [sys.executable, "-m", "scripts.claims", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_script_writes_all_verdicts_and_prints_where(tmp_path: Path) -> None:
    out = tmp_path / "out"
    place = run(tmp_path / "results" / "run", parameters=EIGHT_MILLION)
    command = [sys.executable, "-m", "scripts.claims", str(place), "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(str(out / name) in done.stdout for name in ("claims.md", "claims.csv", "claims.json"))
    found = json.loads((out / "claims.json").read_text())["claims"]
    lines = list(csv.DictReader(io.StringIO((out / "claims.csv").read_text())))
    assert {one["id"] for one in found} == {one.id for one in published() if one.reference}
    assert [one["id"] for one in found] == [line["id"] for line in lines]
    assert {one["verdict"] for one in found} == {"cannot tell"}
    assert max(map(len, done.stdout.splitlines())) <= 100 + len(str(out))
