"""The energy pass: balanced blocks under a meter, rounds that pair, failures that are repeated, figures from records.

The passes run in processes of their own on the stub of NVML, with decoders that sleep and draw a known power.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from experiments.energy import missing_rounds, settled_rounds
from experiments.energy_report import Energy
from experiments.journal import Journal, Row
from tests.nvml import ROOT, Curve, nvml_environment

LABELS = ("fast", "slow")
IDLE = 15.0  # watts of the stub's first GPU
TEXTS = {"fast": (0.015, 60.0), "slow": (0.021, 120.0)}  # seconds of a text, watts while it is written
TOKENS = 5  # of every text

# One process of the pass on the first GPU. Arguments: journal, process id, and JSON: seconds of a block, rounds, after
# how many blocks it dies, and in which blocks the counter is reset. Appends what every text truly drew to a file.
PROGRAM = """
import ctypes, json, os, signal, sys, time
from pathlib import Path
from experiments.energy import EnergyPass, MeterSettings, Timed
from experiments.journal import Journal
from mtad.generate import Output
from mtad.meter.meter import open_meter
from mtad.counts import Counts
from tests.nvml import UUIDS
from tests.test_energy import IDLE, LABELS, TEXTS, TOKENS, timed_rows

path, process, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
stub, journal = ctypes.CDLL("libnvidia-ml.so.1"), Journal(path, {"kind", "process_id"})
settings = MeterSettings(options["seconds"], options["rounds"], 0.5, gpus=(UUIDS[0],), rapl=None)
blocks = 0

def write(label, prompt, turn, repeat):
    seconds, watts = TEXTS[label]
    if blocks in options["resets"]:
        stub.nvml_stub_reset(0)
    started = time.perf_counter()
    stub.nvml_stub_load(0, ctypes.c_double(watts))
    time.sleep(seconds)
    stub.nvml_stub_load(0, ctypes.c_double(0))
    spent = time.perf_counter() - started
    with path.with_name("truth.jsonl").open("a") as truth:
        print(json.dumps([process, blocks, label, watts * spent]), file=truth)
    return Output((7,) * TOKENS, "", "limit", (), Counts(), Counts(), 0.0, spent)

def append(record):
    global blocks
    journal.append(record)
    blocks += record["kind"] == "block"
    if blocks == options["dies_after"]:
        os.kill(os.getpid(), signal.SIGKILL)

stamp = {"run_id": "r", "process_id": process, "code": "c"}
meter = open_meter(gpus=settings.gpus, rapl=None, hertz=settings.hertz)
EnergyPass(stamp, LABELS, Timed(timed_rows()), write, meter, settings, 0, append).run(journal.rows())
"""


def timed_rows(prompts: int = 150) -> list[Row]:
    """What the timed pass would have left; every text took twice as long there, so a list is too short for a block."""
    return [
        {
            "variant": label,
            "prompt_id": f"p{number}",
            "turn": 0,
            "repeat": 0,
            "token_ids": [7] * TOKENS,
            "seconds": {"prefill": TEXTS[label][0], "decode": TEXTS[label][0]},
        }
        for number in range(prompts)
        for label in LABELS
    ]


def energy_pass(
    folder: Path,
    environment: Mapping[str, str],
    process: str,
    seconds: float,
    rounds: int,
    dies_after: int = -1,
    resets: Sequence[int] = (),
) -> int:
    """Let a process do its part; its exit status."""
    options = {"seconds": seconds, "rounds": rounds, "dies_after": dies_after, "resets": list(resets)}
    command = [sys.executable, "-c", PROGRAM, str(folder / "energy.jsonl"), process, json.dumps(options)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def records_in(folder: Path) -> list[Row]:
    return Journal(folder / "energy.jsonl", {"kind", "process_id"}).rows()


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The stub with a constant power, to which the texts add theirs."""
    return nvml_environment(tmp_path_factory.mktemp("nvml"), [Curve(IDLE)] * 3)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, steady: Mapping[str, str]) -> Path:
    """A pass killed after the first block of its third round, and ended by a second process."""
    folder = tmp_path_factory.mktemp("run")
    assert energy_pass(folder, steady, "one", seconds=0.3, rounds=5, dies_after=5) == -signal.SIGKILL
    assert energy_pass(folder, steady, "two", seconds=0.3, rounds=5) == 0
    return folder


def test_every_variant_has_five_long_blocks_of_the_same_texts(resumed: Path) -> None:
    rounds = settled_rounds(records_in(resumed), LABELS)
    assert list(rounds) == [0, 1, 2, 3, 4]
    for blocks in rounds.values():
        fast, slow = blocks["fast"], blocks["slow"]
        assert fast["items"] == slow["items"] and fast["process_id"] == slow["process_id"]
        assert {fast["order"], slow["order"]} == {0, 1}
        for block in (fast, slow):
            assert block["work_seconds"] >= 0.3 and block["devices"][0]["seconds"] >= block["work_seconds"]
            assert block["texts"] == block["passes"] * len(block["items"]) and block["passes"] >= 2
            assert block["tokens"] == block["texts"] * TOKENS and block["texts_differing"] == 0
            assert block["text_seconds"] <= block["work_seconds"]
    assert len({tuple(blocks[label]["order"] for label in LABELS) for blocks in rounds.values()}) == 2
    assert rounds[1]["fast"]["items"][0] == ["p10", 0, 0]  # where the list of round 0 ended


def test_a_killed_pass_goes_on_with_the_rounds_that_are_missing(resumed: Path) -> None:
    records = records_in(resumed)
    by_process = {
        process: [r["round"] for r in records if r["kind"] == "block" and r["process_id"] == process]
        for process in ("one", "two")
    }
    assert by_process == {"one": [0, 0, 1, 1, 2], "two": [2, 2, 3, 3, 4, 4]}
    idle = [(r["process_id"], r["when"], len(r["windows"])) for r in records if r["kind"] == "idle"]
    assert idle == [("one", "before", 5), ("two", "before", 5), ("two", "after", 5)]
    assert missing_rounds(records, LABELS, 5) == [] and missing_rounds(records, LABELS, 6) == [5]


def test_figures_are_those_of_the_known_power(resumed: Path) -> None:
    drawn = {label: np.zeros(2) for label in LABELS}  # joules beyond those of idling, tokens
    for line in (resumed / "truth.jsonl").read_text().splitlines():
        process, block, label, joules = json.loads(line)
        if (process, block) != ("one", 4):
            drawn[label] += (joules, TOKENS)
    energy = Energy(records_in(resumed), LABELS)
    net = {label: joules / tokens for label, (joules, tokens) in drawn.items()}
    gross = {label: net[label] + IDLE * energy.figures(label)["seconds"] / drawn[label][1] for label in LABELS}
    for label in LABELS:
        figures = energy.figures(label)
        assert figures["blocks"] == 5 and figures["methods"] == ["nvml_total_energy"] and not figures["failures"]
        assert figures["joules_per_token"] == pytest.approx(gross[label], rel=0.02)
        assert figures["joules_per_token_net"] == pytest.approx(net[label], rel=0.03)
        assert figures["cpu_joules_per_token"] is None
        assert figures["cpu_joules_per_token_reason"] == "RAPL was left out"
    found, without_idle = energy.ratio("slow", "fast"), energy.ratio_net("slow", "fast")
    assert found.value == pytest.approx(gross["slow"] / gross["fast"], rel=0.03)
    assert found.low is not None and found.high is not None and found.low <= found.value <= found.high
    assert without_idle.value == pytest.approx(net["slow"] / net["fast"], rel=0.03)
    assert without_idle.low is None and "before or after its blocks only" in (without_idle.reason or "")  # killed


def test_a_round_with_a_reset_is_repeated_twice_at_most_and_then_its_reason_stands(
    tmp_path: Path, steady: Mapping[str, str]
) -> None:
    # Blocks as they come: round 0 is healthy; round 1 fails in its second, first and first block; round 2 in its first.
    assert energy_pass(tmp_path, steady, "one", seconds=0.15, rounds=4, resets=(3, 4, 5, 6)) == 0
    records = records_in(tmp_path)
    blocks = [r for r in records if r["kind"] == "block"]
    tried = [(r["round"], r["attempt"], r["joules"] is not None) for r in blocks]
    assert tried == [
        *[(0, 0, True), (0, 0, True)],
        *[(1, 0, True), (1, 0, False), (1, 1, False), (1, 2, False)],
        *[(2, 0, False), (2, 1, True), (2, 1, True)],
        *[(3, 0, True), (3, 0, True)],
    ]
    assert all("the energy counter was reset" in r["joules_reason"] for r in blocks if r["joules"] is None)
    figures = Energy(records, LABELS).figures("fast")
    assert figures["blocks"] == 3 and figures["joules_per_token"] > 0
    assert len(figures["failures"]) == 3 and all("was reset" in reason for reason in figures["failures"])


def test_without_permission_the_pass_ends_after_its_first_idling_with_the_reason(tmp_path: Path) -> None:
    environment = nvml_environment(tmp_path, no_permission={0: 1})
    assert energy_pass(tmp_path, environment, "one", seconds=10, rounds=5) == 0
    [record] = records_in(tmp_path)
    assert record["kind"] == "idle"
    energy = Energy([record], LABELS)
    figures = energy.figures("slow")
    assert figures["joules_per_token"] is None and "no permission" in figures["joules_per_token_reason"]
    assert "no permission" in figures["joules_per_token_net_reason"] and figures["blocks"] == 0
    assert energy.compare([("slow", "fast")]) == []
