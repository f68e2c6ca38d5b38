"""The pass beside the best blocks: measured once, resumed, and made into figures with intervals over prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments import runner
from experiments.approximation import (
    ALL_CHOSEN,
    NOTHING_ACCEPTED,
    ApproximationSettings,
    Compared,
    Measured,
)
from experiments.approximation_figures import NOT_ASKED, NOT_JOINT, approximation
from experiments.journal import Journal
from experiments.table_approximation import approximation_notes, approximation_tables
from mtad.errors import UserError
from tests.toy import toy_settings

REFERENCES = "reference=[autoregressive,{decoder: mjgd, label: exact},{decoder: mtad, tau: 1.0, label: refuses}]"
ASKED = "approximation={budget: 512}"


def run_toy(pair: Path, results: Path, *overrides: str) -> dict[str, Any]:
    """Run, and return the summary."""
    runner.run(toy_settings(pair, results, "decoder.gamma=3", REFERENCES, *overrides))
    (file,) = results.glob("*/*/summary.json")
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


@pytest.mark.runs
def test_a_run_that_is_complete_is_measured_later_and_only_once(saved_pair: Path, tmp_path: Path) -> None:
    plain = run_toy(saved_pair, tmp_path)
    assert {figures["approximation_reason"] for figures in plain["decoders"].values()} == {NOT_ASKED}
    (samples,) = tmp_path.glob("*/*/samples.jsonl")
    texts = samples.read_bytes()
    asked = run_toy(saved_pair, tmp_path, ASKED)
    journal = samples.with_name("approximation.jsonl")
    records = journal.read_bytes()
    assert samples.read_bytes() == texts and records.count(b"\n") == 3 * 6
    assert run_toy(saved_pair, tmp_path, ASKED) == asked and journal.read_bytes() == records
    assert run_toy(saved_pair, tmp_path) == asked, "asked plainly, what was measured is still shown"
    decoders = asked["decoders"]
    assert decoders["autoregressive"]["approximation_reason"] == NOT_JOINT
    assert decoders["exact"]["approximation"]["emitted"]["gap"] == pytest.approx(0, abs=1e-2)
    assert decoders["exact"]["approximation"]["accepted_reason"] == ALL_CHOSEN
    refused = decoders["refuses"]["approximation"]
    assert refused["nothing_accepted_share"] == 1 and refused["accepted_reason"] == NOTHING_ACCEPTED
    found = decoders["mtad"]["approximation"]
    assert found["accepted"]["gap"] < found["accepted"]["bound"]
    assert sum(one["blocks"] for one in found["bins"]) == found["emitted"]["blocks"] == found["rounds"]


@pytest.mark.runs
def test_a_pass_that_was_cut_goes_on_where_it_was(saved_pair: Path, tmp_path: Path) -> None:
    whole = run_toy(saved_pair, tmp_path, ASKED)
    (file,) = tmp_path.glob("*/*/approximation.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    again = run_toy(saved_pair, tmp_path, ASKED)
    assert file.read_bytes().splitlines(keepends=True)[:5] == lines[:5]
    assert len(Journal(file, {"rounds"}).rows()) == len(lines)
    for label, figures in whole["decoders"].items():
        assert again["decoders"][label]["approximation"] == figures["approximation"]


@pytest.mark.runs
def test_other_settings_measure_anew(saved_pair: Path, tmp_path: Path) -> None:
    everything = run_toy(saved_pair, tmp_path, ASKED)["decoders"]["mtad"]["approximation"]
    few = run_toy(saved_pair, tmp_path, "approximation={rounds: 1}")["decoders"]["mtad"]["approximation"]
    assert (few["rounds"], few["rounds_of"]) == (6, everything["rounds_of"]) and everything["rounds"] > 6


@pytest.mark.parametrize("wrong", ["{budget: 0}", "{rounds: 0}", "{rounds: many}", "{depth: 3}", "yes"])
def test_settings_that_cannot_be_are_one_clear_line(wrong: str, saved_pair: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="approximation") as caught:
        toy_settings(saved_pair, tmp_path, f"approximation={wrong}")
    assert "\n" not in str(caught.value)


def record(prompt: str, gaps: Sequence[float], **changes: Any) -> dict[str, Any]:
    """The record of a text whose accepted and emitted blocks have these gaps."""
    block = Compared(2, -1.5, -1.0, 0.5, proven=True, shortfall=0.0, forwards=4)
    found = [replace(block, best_log_p=gap - 1.5, gap=gap, **changes) for gap in gaps]
    rounds = [asdict(Measured(i, 0.3 + i, one, one, None, -1.0, 2.0, None)) for i, one in enumerate(found)]
    key = {"variant": "mtad", "prompt_id": prompt, "turn": 0, "repeat": 0, "process_id": "1"}
    return {**key, "settings": asdict(SETTINGS), "law": "warped", "rounds": rounds, "cut": 1, "of": len(gaps) + 1}


SETTINGS = ApproximationSettings()


def figures(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = approximation(records, records, asdict(SETTINGS))["approximation"]  # type: ignore[arg-type]
    return found


def test_an_interval_of_what_is_never_negative_ends_at_0() -> None:
    found = figures([record(f"p{i}", [0.0 if i else 3.0]) for i in range(6)])["accepted"]
    assert found["gap_low"] == 0 < found["gap"] < found["gap_high"]
    noise = figures([record(f"p{i}", [-1e-7 * i]) for i in range(6)])["accepted"]
    assert noise["gap_low"] == noise["gap"] < 0, "float noise is shown as it is"


def test_the_mean_is_per_block_and_its_interval_over_prompts() -> None:
    found = figures([record(f"p{i}", [0.1 * i] * (i + 1)) for i in range(6)])
    expected = sum(0.1 * i * (i + 1) for i in range(6)) / 21
    assert found["accepted"]["gap"] == pytest.approx(expected) and found["accepted"]["bound"] == pytest.approx(2)
    assert found["accepted"]["gap_low"] < expected < found["accepted"]["gap_high"]
    assert (found["rounds"], found["cut"], found["rounds_of"]) == (21, 6, 27)
    few = figures([record("p", [0.1, 0.3])])
    assert few["emitted"]["gap_low"] is None and "fewer than 5 prompts" in few["emitted"]["gap_reason"]


def test_the_table_at_the_end_of_a_run_shows_the_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    found = figures([record(f"p{i}", [0.1 * i]) for i in range(6)])
    searched = {**found, "accepted": None, "accepted_reason": ALL_CHOSEN}
    summary = {"decoders": {"mtad": {"approximation": found}, "mjgd": {"approximation": searched}, "block": {}}}
    (table,) = approximation_tables(summary)
    Console(width=100).print(table)
    shown = capsys.readouterr().out
    assert re.search(r"mtad +6 +0\.250 \[0\.0\d,0\.4\d\] +2\.00 +0\.250 \[\S+\] +100% +4\.0", shown), shown
    assert re.search(r"mjgd +- +- +- +0\.250", shown) and "block" not in shown.splitlines()[-2]
    notes = list(approximation_notes(summary))
    assert any(ALL_CHOSEN in note for note in notes) and any("12 rounds are left out" in note for note in notes)
    assert not list(approximation_tables({"decoders": {"block": {"approximation": None}}}))


def test_unproven_blocks_are_out_of_the_mean_and_widen_what_the_truth_lies_between() -> None:
    sure = [record(f"p{i}", [0.2]) for i in range(3)]
    unsure = [record(f"q{i}", [-0.1], proven=False, shortfall=1.1) for i in range(1)]
    found = figures([*sure, *unsure])["emitted"]
    assert found["gap"] == pytest.approx(0.2) and found["proven_share"] == 0.75
    assert (found["gap_at_least"], found["gap_at_most"]) == (pytest.approx(0.15), pytest.approx(0.4))
    none = figures(unsure)["emitted"]
    assert none["gap"] is None and "proven" in none["gap_reason"] and none["gap_at_most"] == pytest.approx(1.0)


def test_a_block_that_the_truncation_rules_out_is_left_out_and_counted() -> None:
    gone = record("p", [0.2])
    for name in ("emitted", "accepted"):
        gone["rounds"][0][name] |= {"gap": None, "log_p": None, "reason": "edge"}
    found = figures([gone, record("q", [0.4])])["accepted"]
    assert (found["blocks"], found["left_out"], found["gap"]) == (2, 1, pytest.approx(0.4))
