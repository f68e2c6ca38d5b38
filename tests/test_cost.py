"""The cost model: predictions by hand, and a whole study from the command line to its record."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from experiments.cost import __main__ as entry
from experiments.cost.predict import (
    Costs,
    Tally,
    acceptance_for,
    best_gamma,
    break_even,
    chain_tokens,
    expected_tokens,
    seconds_per_token,
    speedup,
    speedup_at,
    tally,
)
from experiments.cost.reads import Curve, Pace
from tests.toy import ROOT

Call = Callable[..., tuple[int, str, str]]


def flat(seconds: float, *more: float) -> Curve:
    """A curve at 1, 2, ... nodes."""
    values = (seconds, *more)
    return Curve(tuple(range(1, len(values) + 1)), values, values, values)


def costs(target: Curve, draft: Curve, host: float = 0.0, baseline: float = 0.0) -> Costs:
    """Costs of reads that cost the same whatever came before."""
    return Costs(Pace(target, target), Pace(draft, draft), host, target.seconds(1) + baseline)


def chain(gamma: int, *conditional: float) -> Tally:
    """What a run of a chain decoder counts in 10 rounds without an end."""
    target, draft = {gamma + 1: 10}, {1: 10 * gamma}
    return Tally(30, 10, target, draft, 10 * gamma, 10 * gamma, gamma, conditional)


def row(accepted: Sequence[int], gamma: int = 4, cut: bool = False) -> dict[str, object]:
    """The row of a chain decoder whose rounds accepted so many; `cut` ends it with an accepted token."""
    tokens = [n + 1 for n in accepted]
    tokens[-1] -= cut
    rounds = [
        {"tokens": t, "drafted": gamma, "accepted": n, "nodes": gamma, "proof": None}
        for t, n in zip(tokens, accepted, strict=True)
    ]
    reads = {"target": {str(gamma + 1): len(rounds)}, "draft": {"1": gamma * len(rounds)}}
    return {"rounds": rounds, "token_ids": [0] * sum(tokens), "reads": reads, "options": {"gamma": gamma}}


# -- predictions -----------------------------------------------------------------------------------------------------


def test_a_prediction_is_the_priced_reads_over_the_tokens() -> None:
    counted = tally([row([4, 1]), row([0, 3], cut=True)])
    assert (counted.target, counted.draft, counted.tokens, counted.gamma) == ({5: 4}, {1: 16}, 11, 4)
    price = costs(flat(10, 11, 12, 13, 14), flat(2), host=0.5, baseline=1)
    assert seconds_per_token(counted, price) == (4 * 14 + 16 * 2 + 20 * 0.5) / 11
    assert speedup(counted, price) == pytest.approx((10 + 1) * 11 / 98)


def test_a_prediction_tells_reads_after_the_other_model_from_the_rest() -> None:
    counted = Tally(30, 10, {5: 10}, {1: 10, 4: 20}, 120, 30, 3, (0.9,))
    price = Costs(Pace(flat(10), flat(15)), Pace(flat(2), flat(3)), 0.0, 10.0)
    assert seconds_per_token(counted, price) * 30 == pytest.approx(10 * 15 + 10 * 3 + 20 * 2)
    assert speedup_at(3, counted, price) == pytest.approx(expected_tokens(3, (0.9,)) * 10 / (15 + 3 + 2 * 2))
    undrafted = Tally(10, 0, {1: 10}, {}, 0, 0, None, ())
    assert seconds_per_token(undrafted, price) == 10


def test_acceptance_by_position_leaves_out_what_a_cut_hides() -> None:
    counted = tally([row([4, 1]), row([0, 3], cut=True)])
    # Of four rounds three accept the first token, of these two the second and third; at the fourth one is cut.
    assert counted.conditional == (3 / 4, 2 / 3, 1.0, 1.0)


def test_per_position_acceptance_of_a_simulated_chain_is_found_and_gives_its_mean_tokens() -> None:
    truth, rng = (0.9, 0.7, 0.5, 0.8), random.Random(1)
    accepted = []
    for _ in range(20_000):
        survived = [rng.random() < rate for rate in truth]
        accepted.append(survived.index(False) if False in survived else 4)
    counted = tally([row(accepted)])
    assert counted.conditional == pytest.approx(truth, abs=0.02)
    mean = sum(accepted) / len(accepted) + 1
    assert expected_tokens(4, counted.conditional) == pytest.approx(mean)
    assert expected_tokens(6, (0.5, 0.25)) == 1 + 0.5 + 0.5 * 0.25 + sum(0.5 * 0.25**i for i in range(2, 6))


@pytest.mark.parametrize(("gamma", "alpha", "ratio"), [(1, 0.3, 0.1), (4, 0.8, 0.05), (7, 0.6, 0.2)])
def test_the_speedup_of_an_independent_chain_is_the_published_formula(gamma: int, alpha: float, ratio: float) -> None:
    # Leviathan et al., arXiv 2211.17192, theorem 3.8: (1 - alpha^(gamma+1)) / ((1 - alpha) (gamma c + 1)).
    price = costs(flat(1), flat(ratio))
    expected = (1 - alpha ** (gamma + 1)) / ((1 - alpha) * (gamma * ratio + 1))
    assert speedup_at(gamma, chain(4, alpha), price) == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [1, 4, 9])
def test_at_the_break_even_acceptance_the_predicted_speedup_is_one(gamma: int) -> None:
    price = costs(flat(1, 1.05, 1.1), flat(0.1, 0.11), host=0.02, baseline=0.01)
    needed, alpha = break_even(gamma, chain(gamma, 0.9), price)
    assert alpha is not None and 0 < alpha < 1
    assert chain_tokens(alpha, gamma) == pytest.approx(needed)
    assert speedup_at(gamma, chain(gamma, alpha), price) == pytest.approx(1)


def test_break_even_has_an_end_on_either_side() -> None:
    assert break_even(4, chain(4, 0.9), costs(flat(1), flat(2)))[1] is None  # a draft dearer than the target
    assert acceptance_for(0.9, 4) == 0.0
    assert acceptance_for(5.0, 4) == pytest.approx(1)


def test_the_best_gamma_maximises_the_predicted_speedup() -> None:
    price, counted = costs(flat(1, 1.02), flat(0.08)), chain(4, 0.8)
    speedups = {gamma: speedup_at(gamma, counted, price) for gamma in range(1, 17)}
    best = best_gamma(counted, price, 16)
    assert 1 < best < 16
    assert speedups[best] == max(speedups.values())
    assert best_gamma(counted, price, best - 1) == best - 1  # a bound that binds
    assert best_gamma(chain(4, 0.01), price, 16) == 1


def test_a_round_of_a_tree_reads_more_nodes_for_each_level() -> None:
    # Ten rounds of three levels, of 4 nodes each on average; the draft reads one node, then twice 4.
    counted = Tally(30, 10, {13: 10}, {1: 10, 4: 20}, 120, 30, 3, (0.9,))
    price = costs(Curve((1, 101), (10.0, 110.0), (), ()), Curve((1, 5), (1.0, 5.0), (), ()), host=0.5)
    # At gamma 6: 1 + 6 x 4 nodes of the target, six reads of the draft, and the host's work for seven reads.
    expected = (10 + 24) + 1 + 5 * 4 + 7 * 0.5
    assert speedup_at(6, counted, price) == pytest.approx(expected_tokens(6, (0.9,)) * 10 / expected)


def test_a_decoder_that_verifies_no_draft_by_one_read_has_no_gamma() -> None:
    searched = row([4])
    searched["rounds"][0]["proof"] = {"proven": True}  # type: ignore[index]
    twice = row([4])
    twice["reads"]["target"] = {"5": 1, "2": 1}  # type: ignore[index]
    alone = row([0], gamma=0)
    for found in (searched, twice, alone):
        counted = tally([found])
        assert (counted.gamma, counted.conditional) == (None, ())


# -- the study -------------------------------------------------------------------------------------------------------


@pytest.fixture
def call(saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`python -m experiments.cost` on the saved pair and the toy task, in this process: exit code, stdout, stderr."""

    def study(*overrides: str) -> tuple[int, str, str]:
        toy = [f"hydra.searchpath=[file://{ROOT}/tests/conf]", "task=toy", f"results_dir={tmp_path}", "limit=3"]
        pair = [f"model.{role}.path={saved_pair / role}" for role in ("target", "draft")]
        quick = ["cost.nodes=[5,1,2,1]", "cost.repeats=2", "cost.texts=1"]
        monkeypatch.setattr(sys, "argv", ["cost", *toy, *pair, *quick, *overrides])
        code = 0
        try:
            entry.main()
        except SystemExit as ended:
            code = 1 if isinstance(ended.code, str) else int(ended.code or 0)
            print(ended.code if isinstance(ended.code, str) else "", file=sys.stderr)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return study


def pace(points: Sequence[dict[str, float]]) -> Pace:
    """A model's curves from cost.json."""
    assert [point["nodes"] for point in points] == [1, 2, 5]
    steady, switched = (
        Curve((1, 2, 5), tuple(point[f"{name}_seconds_quartile_1"] for point in points), (), ())
        for name in ("steady", "switched")
    )
    return Pace(steady, switched)


def only(results: Path, name: str) -> Path:
    (found,) = results.glob(f"*/*/{name}")
    return found


def test_a_study_predicts_from_costs_and_counts_that_it_writes_down(call: Call, tmp_path: Path) -> None:
    code, out, err = call("decoder=mmtad", "reference=[autoregressive,speculative,mjgd,beam_search]")
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 100
    record = json.loads(only(tmp_path, "cost.json").read_text())
    rows = [json.loads(line) for line in only(tmp_path, "samples.jsonl").read_text().splitlines()]
    timed = [record, *record["other_laws"]]  # beam search asks for the untruncated law
    assert [found["law"]["top_k"] for found in timed] == [10, 0]
    host = {
        label: found["decide_seconds_per_read"] + found["commit_seconds_per_read"]
        for label, found in record["decoders"].items()
    }
    summary = json.loads(only(tmp_path, "summary.json").read_text())["comparisons"]
    measured = {
        c["decoder"]: c["value"] for c in summary if (c["metric"], c["reference"]) == ("speedup", "autoregressive")
    }
    for label, found in record["decoders"].items():
        (reads,) = (timed_law["reads"] for timed_law in timed if timed_law["law"] == found["law"])
        alone = pace(record["reads"]["target"]).steady.seconds(1) + host["autoregressive"]
        price = Costs(pace(reads["target"]), pace(reads["draft"]), host[label], alone)
        counted = tally([row for row in rows if row["variant"] == label])
        assert found["predicted_speedup"] == pytest.approx(speedup(counted, price))
        assert found["measured_speedup"] == pytest.approx(measured.get(label, 1.0))
        own = [row for row in rows if row["variant"] == label]
        decode = sum(row["seconds"]["decode"] for row in own) / sum(len(row["token_ids"]) for row in own)
        assert found["seconds_per_token_error"] == pytest.approx(seconds_per_token(counted, price) / decode - 1)
        if label == "autoregressive":  # set against itself, it would be in error by nothing
            assert (found["error"], found["error_reason"]) == (None, "the baseline")
        else:
            assert found["error"] == pytest.approx(speedup(counted, price) / found["measured_speedup"] - 1)
        assert (found["gamma"] == 4) == (label in ("mmtad", "speculative"))
        assert found["gamma"] or found["gamma_reason"]
    assert record["decoders"]["autoregressive"]["predicted_speedup"] == pytest.approx(1)
    energy = record["energy"]["splits"]
    assert [found["batch"] for found in energy["autoregressive"]] == [1, 2, 4, 8, 16]
    assert all(found["measured_joules_per_token_reason"] for kind in energy.values() for found in kind)
    assert "cost:" not in only(tmp_path, "config.yaml").read_text()


def test_a_second_study_reuses_the_run(call: Call, tmp_path: Path) -> None:
    for _ in range(2):
        code, _, err = call("reference=[]")
        assert code == 0, err
    assert "complete already" in err
    found = json.loads(only(tmp_path, "cost.json").read_text())["decoders"]["mtad"]
    assert found["predicted_speedup"] > 0 and found["measured_speedup"] is None
    assert "autoregressive" in found["measured_speedup_reason"]


@pytest.mark.parametrize("key", ["machine", "code"])
def test_costs_beside_rows_of_another_machine_or_other_code_give_no_errors(
    call: Call, tmp_path: Path, key: str
) -> None:
    assert call()[0] == 0
    written = only(tmp_path, "environment.json" if key == "machine" else "samples.jsonl")
    text = written.read_text()
    written.write_text(re.sub(rf'"{key}":\s*"\w+"', f'"{key}":"another"', text, count=1))
    code, out, err = call()
    assert code == 0, err
    record = json.loads(only(tmp_path, "cost.json").read_text())
    assert ("another machine" if key == "machine" else "other code") in record["incomparable"]
    found = record["decoders"]["mtad"]
    assert found["predicted_speedup"] and found["measured_speedup"]
    for name in ("error", "seconds_per_token_error"):
        assert (found[name], found[f"{name}_reason"]) == (None, record["incomparable"])
    assert "NOT COMPARABLE" in out


def test_the_curve_alone_needs_no_run(call: Call, tmp_path: Path) -> None:
    code, out, err = call("cost.predict=false", "cost.context=20")
    assert code == 0, err
    record = json.loads(only(tmp_path, "cost.json").read_text())
    assert not list(tmp_path.glob("*/*/samples.jsonl"))
    assert record["context_tokens"] == record["timed_context_tokens"] == 20
    assert record["decoders"] is None and record["decoders_reason"] in out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cost.context=-1", "cost.context must be a number >= 1, not -1"),
        ("cost.context=63", "lower cost.context or cost.nodes"),
        ("cost.nodes=[]", "cost.nodes must be a list of whole numbers"),
        ("cost.nodes=[0]", "cost.nodes: each number must be a number >= 1, not 0"),
        ("cost.nodes=3", "cost.nodes must be a list of whole numbers"),
        ("cost.batches=[1.5]", "whole number"),
        ("cost.repeats=0", "cost.repeats must be a number >= 1"),
        ("cost.predict=maybe", "cost: predict must be true or false"),
        ("+cost.speed=1", "cost has no option 'speed'"),
        ("cost=null", "cost must be a mapping"),
        ("~cost", "cost must be a mapping"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(
    call: Call, tmp_path: Path, override: str, message: str
) -> None:
    code, out, err = call(override)
    lines = [line for line in err.splitlines() if line]
    assert (code, out) == (1, "")
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0]
    assert not list(tmp_path.iterdir())


def test_help_says_what_a_study_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.cost", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "predicted" in done.stdout and "cost.predict=false" in done.stdout
