"""What a run does besides timing: scores, a judge, energy by blocks, and what it does when others disturb it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import process, runner
from mtad.errors import UserError
from mtad.model import CausalModel, Scored
from tests.nvml import CURVES, UUIDS, Curve, nvml_environment
from tests.toy import ROOT, settings_of, toy_settings


def files(results: Path) -> tuple[list[dict[str, Any]], dict[str, Any], Path]:
    """The rows, the summary and the folder of the only run in `results`."""
    (folder,) = results.glob("*/*/")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "summary.json").read_text()), folder


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_likelihoods_that_are_no_numbers_are_rows_all_the_same(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def overflow(self: CausalModel, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Scored]:
        lengths = [len(output) for _, output in texts]
        odd = [np.array([np.nan, -np.inf, *[-1.0] * n][:n]) for n in lengths]
        return [Scored(logp, np.ones(n)) for logp, n in zip(odd, lengths, strict=True)]

    monkeypatch.setattr(CausalModel, "score", overflow)
    runner.run(toy_settings(saved_pair, tmp_path, "limit=2", "reference=[]", "ignore_eos=true"))
    rows, _, _ = files(tmp_path)
    assert [row["log_likelihoods"][:3] for row in rows] == [[None, None, -1.0]] * 2
    assert all("no finite numbers" in row["log_likelihoods_reason"] for row in rows)
    assert "perplexity: the target gives" in capsys.readouterr().out


def test_phases_and_reads_of_a_row_add_up(saved_pair: Path, tmp_path: Path) -> None:
    runner.run(toy_settings(saved_pair, tmp_path, "limit=2"))
    for row in files(tmp_path)[0]:
        seconds = row["seconds"]
        phases = [seconds[phase] for phase in ("target", "draft", "decide", "commit")]
        assert sum(phases) == pytest.approx(seconds["decode"]) and min(phases) >= 0
        for role in ("target", "draft"):
            reads = {int(nodes): times for nodes, times in row["reads"][role].items()}
            assert sum(reads.values()) == row["counts"][f"{role}_forwards"]
            assert sum(nodes * times for nodes, times in reads.items()) == row["counts"][f"{role}_nodes"]


def test_gaps_are_kept_of_greedy_texts_of_lossless_decoders_alone(saved_pair: Path, tmp_path: Path) -> None:
    runner.run(toy_settings(saved_pair, tmp_path, "limit=2", "sampling=greedy"))
    rows, summary, _ = files(tmp_path)
    for row in rows:
        kept = row["gaps"] is not None
        assert kept == (row["decoder"] in ("autoregressive", "speculative"))
        assert not kept or len(row["gaps"]) == len(row["token_ids"])
    assert summary["decoders"]["speculative"]["divergence"]["diverged"] == 0
    assert summary["decoders"]["mtad"]["divergence"] is None


def test_a_judge_reads_what_a_run_has_written_and_nothing_twice(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*overrides: str) -> dict[str, Any]:
        runner.run(toy_settings(saved_pair, tmp_path, "limit=3", *overrides))
        return files(tmp_path)[1]

    assert run()["decoders"]["mtad"]["judge_perplexity"] is None
    rows, _, folder = files(tmp_path)
    monkeypatch.setattr(process, "Bench", None)  # nothing is to be timed again
    judged = f"judge.path={saved_pair / 'target'}"
    summary = run(judged)
    for figures in summary["decoders"].values():  # the target itself is the judge
        assert figures["judge_perplexity"] == pytest.approx(figures["perplexity"], rel=1e-4)
    assert {c["metric"] for c in summary["comparisons"]} >= {"judge_perplexity_ratio"}
    assert "judge's" in capsys.readouterr().out
    records = lines(folder / "judge.jsonl")
    assert len(records) == len(rows) and {record["origin"]["folder"] for record in records} == {"target"}
    journal = (folder / "judge.jsonl").read_text()
    (folder / "judge.jsonl").write_text(journal[: len(journal) // 2])  # as a kill would leave it
    again, first = ([c["value"] for c in found["comparisons"]] for found in (run(judged), summary))
    assert again == pytest.approx(first, rel=1e-5)  # read beside fewer texts
    assert len(lines(folder / "judge.jsonl")) == len(rows)
    monkeypatch.setattr(runner, "load_judge", None)
    run(judged)
    assert "complete already" in capsys.readouterr().err
    other = run()
    assert other["decoders"]["mtad"]["judge_perplexity"] is None


def test_a_judge_that_is_not_there_is_named_before_anything_is_measured(saved_pair: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"judge.path=no/such: there is no such folder"):
        runner.run(toy_settings(saved_pair, tmp_path, "judge.path=no/such"))
    assert not list(tmp_path.glob("*/*/samples.jsonl"))


ENERGY = ("energy=true", "meter.seconds=0.7", "meter.idle_seconds=1", "meter.rapl=null", f"meter.gpus=[{UUIDS[1]}]")
FLAT = (CURVES[0], Curve(150), CURVES[2])


def run_py(pair: Path, results: Path, environment: dict[str, str], *overrides: str) -> subprocess.CompletedProcess[str]:
    """`python run.py` on the toy task, in a process of its own."""
    given = [f"hydra.searchpath=[file://{ROOT}/tests/conf]", "task=toy", f"results_dir={results}"]
    pairs = [f"model.{role}.path={pair / role}" for role in ("target", "draft")]
    command = [sys.executable, str(ROOT / "run.py"), *given, *pairs, *overrides]
    environment = {**environment, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(command, env=environment, cwd=results, capture_output=True, text=True, timeout=180)


@pytest.mark.runs
def test_energy_is_a_pass_of_its_own_and_its_figures_follow_from_power_and_time(
    saved_pair: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    results.mkdir()
    environment = nvml_environment(tmp_path, FLAT)
    first = run_py(saved_pair, results, environment, *ENERGY, "limit=3", "reference=[autoregressive]")
    assert first.returncode == 0, first.stderr
    assert "J/token ratio" in first.stdout
    rows, summary, folder = files(results)
    assert {row["joules"] for row in rows} == {None} and "energy.jsonl" in rows[0]["joules_reason"]
    blocks = [record for record in lines(folder / "energy.jsonl") if record["kind"] == "block"]
    assert [block["variant"] for block in blocks].count("mtad") == len(blocks) / 2 == 5
    for label, figures in summary["decoders"].items():
        energy, mine = figures["energy"], [block for block in blocks if block["variant"] == label]
        assert (energy["devices"], energy["blocks"], energy["texts_differing"]) == ([UUIDS[1]], 5, 0)
        assert energy["watts"] == pytest.approx(150, rel=0.01)  # the stub draws that whatever is done
        spans = sum(block["devices"][0]["seconds"] for block in mine)
        assert energy["joules_per_token"] == pytest.approx(150 * spans / sum(b["tokens"] for b in mine), rel=0.02)
        assert abs(energy["joules_per_token_net"]) < 0.05 * energy["joules_per_token"]  # idle draws as much
    (ratio,) = (c for c in summary["comparisons"] if c["metric"] == "energy_ratio" and c["decoder"] == "mtad")
    assert ratio["low"] <= ratio["value"] <= ratio["high"] and ratio["p_holm"] is not None
    environment_json = json.loads((folder / "environment.json").read_text())
    (device,) = environment_json["processes"][0]["meter"]["devices"]  # not the run's own, so it is described here
    assert (device["uuid"], device["power_limit_watts"]) == (UUIDS[1], 700)
    again = run_py(saved_pair, results, environment, *ENERGY, "limit=3", "reference=[autoregressive]")
    assert (again.returncode, again.stdout) == (0, first.stdout) and "complete already" in again.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["energy=true", "meter.gpus=[GPU-none]"], "GPU-none"),
        (["energy=true", "meter.rapl=no/such"], "no/such"),
        (["energy=true", "meter.zeus=true"], "pip install zeus"),
    ],
)
def test_a_meter_that_cannot_be_is_one_line_before_anything_is_measured(
    saved_pair: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        runner.run(toy_settings(saved_pair, tmp_path, *overrides))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*/*/samples.jsonl"))


def test_energy_is_left_out_on_a_cpu_unless_asked_for_and_the_table_says_why(
    saved_pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.run(toy_settings(saved_pair, tmp_path, "limit=2", "reference=[]"))
    assert "J/token: measured by default on GPUs only" in capsys.readouterr().out
    assert settings_of().energy is None and settings_of("energy=false").energy is False


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that compute."""
    others = [subprocess.Popen(["setsid", sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.runs
def test_strict_stops_where_others_compute_and_keeps_what_was_measured(saved_pair: Path, tmp_path: Path) -> None:
    environment = nvml_environment(tmp_path, FLAT)
    results = tmp_path / "results"
    results.mkdir()
    with busy(2):
        paths = [f"model.{role}.path=mtad/tiny/{role}" for role in ("target", "draft")]
        long = ("limit=2", *paths, "max_new_tokens=150", "ignore_eos=true")  # enough for the kernel's clock
        stopped = run_py(saved_pair, results, environment, "strict=true", *long)
        assert (stopped.returncode, stopped.stdout) == (1, ""), stopped.stderr
        assert "error: strict=true: other processes use" in stopped.stderr and "Traceback" not in stopped.stderr
        warned = run_py(saved_pair, results, environment, *long)
    assert warned.returncode == 0 and "warning: other processes use" in warned.stderr
    assert "texts were measured while other processes used" in " ".join(warned.stdout.split())
