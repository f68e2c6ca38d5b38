"""A whole study of costs, from the command line to its record."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from experiments.cost import __main__ as entry
from experiments.cost.predict import ENDS_EARLY, NO_DRAFT_READS, Costs, seconds_per_token, speedup, tally
from experiments.cost.reads import Curve, Pace
from tests.toy import ROOT

Call = Callable[..., tuple[int, str, str]]


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


def test_random_weights_are_a_stand_in_in_the_record_and_below_its_tables(call: Call, tmp_path: Path) -> None:
    drawn = ("id=JackFram/llama-68m", "path=null", "weights=random", "scale=debug")
    code, out, err = call("cost.predict=false", "cost.context=20", *(f"model.draft.{key}" for key in drawn))
    assert code == 0, err
    weights = json.loads(only(tmp_path, "cost.json").read_text())["weights"]
    assert weights["draft"]["random"] == "JackFram/llama-68m, debug size" and weights["target"]["random"] is None
    assert "STAND-IN: random weights in the shape of JackFram/llama-68m, debug size" in " ".join(out.split())


def test_drafts_that_are_not_of_one_length_have_no_gamma_but_a_prediction_and_a_reason(
    call: Call, tmp_path: Path
) -> None:
    code, out, err = call("decoder=bild", "decoder.fallback=0.3", "reference=[prompt_lookup,typical,hf_generate]")
    assert code == 0, err
    record = json.loads(only(tmp_path, "cost.json").read_text())
    reasons = {label: found["gamma_reason"] for label, found in record["decoders"].items()}
    assert reasons == {"bild": ENDS_EARLY, "prompt_lookup": NO_DRAFT_READS, "typical": None}
    assert all(found["predicted_speedup"] > 0 for found in record["decoders"].values())
    assert ENDS_EARLY in out and NO_DRAFT_READS in out
    assert "hf_generate: not modelled, an engine reads by itself" in out


def test_where_only_an_engine_ran_decoders_are_null_for_a_reason(call: Call, tmp_path: Path) -> None:
    code, out, err = call("decoder=hf_generate", "reference=[]", "limit=1")
    assert code == 0, err
    record = json.loads(only(tmp_path, "cost.json").read_text())
    assert record["decoders"] is None and "engine" in record["decoders_reason"]
    assert record["decoders_reason"] in out


TUNE = ("experiment=tune", "tune.trials=2", "tune.prompts=2", "max_new_tokens=6", "reference=[]")


def test_the_curve_alone_needs_no_tuning(call: Call, tmp_path: Path) -> None:
    code, _, err = call(*TUNE, "cost.predict=false", "cost.context=20")
    assert code == 0, err
    assert only(tmp_path, "cost.json") and not list(tmp_path.glob("*/*/samples.jsonl"))


def test_a_context_without_room_is_refused_before_tuning(call: Call, tmp_path: Path) -> None:
    code, out, err = call(*TUNE, "cost.context=63")
    assert (code, out) == (1, "") and "lower cost.context" in err
    assert not list(tmp_path.iterdir())


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
