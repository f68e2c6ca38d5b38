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
from typing import Any

import numpy as np
import pytest

from experiments.energy import MeterSettings, Timed, missing_rounds, settled_rounds
from experiments.energy_report import Energy
from experiments.journal import Journal, Row
from mtad.errors import UserError
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
from mtad.session import Counts
from tests.nvml import UUIDS
from tests.test_energy import IDLE, LABELS, TEXTS, TOKENS, timed_rows

path, process, options = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
stub, journal = ctypes.CDLL("libnvidia-ml.so.1"), Journal(path, {"kind", "process_id"})
settings = MeterSettings(options["seconds"], options["rounds"], 0.5, gpus=(UUIDS[0],), rapl=None)
blocks = 0

def write(label, prompt, repeat):
    seconds, watts = TEXTS[label]
    if blocks in options["resets"]:
        stub.nvml_stub_reset(0)
    started = time.perf_counter()
    stub.nvml_stub_load(0, ctypes.c_double(watts))
    time.sleep(seconds)
    stub.nvml_stub_load(0, ctypes.c_double(0))
    spent = time.perf_counter() - started
    with path.with_name("truth.jsonl").open("a") as truth:
        print(json.dumps([process, blocks, label, watts * spent, IDLE * spent]), file=truth)
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
    """What the timed pass would have left."""
    return [
        {
            "variant": label,
            "prompt_id": f"p{number}",
            "repeat": 0,
            "token_ids": [7] * TOKENS,
            "seconds": {"prefill": 0.0, "decode": TEXTS[label][0]},
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
    assert energy_pass(folder, steady, "one", seconds=0.6, rounds=5, dies_after=5) == -signal.SIGKILL
    assert energy_pass(folder, steady, "two", seconds=0.6, rounds=5) == 0
    return folder


def test_every_variant_has_five_long_blocks_of_the_same_texts(resumed: Path) -> None:
    rounds = settled_rounds(records_in(resumed), LABELS)
    assert list(rounds) == [0, 1, 2, 3, 4]
    for blocks in rounds.values():
        fast, slow = blocks["fast"], blocks["slow"]
        assert fast["items"] == slow["items"] and fast["process_id"] == slow["process_id"]
        assert {fast["order"], slow["order"]} == {0, 1}
        for block in (fast, slow):
            assert block["work_seconds"] >= 0.6 and block["devices"][0]["seconds"] >= block["work_seconds"]
            assert block["texts"] == block["passes"] * len(block["items"])
            assert block["tokens"] == block["texts"] * TOKENS and block["texts_differing"] == 0
            assert block["text_seconds"] <= block["work_seconds"]
    assert len({tuple(blocks[label]["order"] for label in LABELS) for blocks in rounds.values()}) == 2
    assert rounds[1]["fast"]["items"][0] == ["p40", 0]  # where the list of round 0 ended


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
    drawn = {label: np.zeros(3) for label in LABELS}  # joules of the texts, of idling meanwhile, tokens
    for line in (resumed / "truth.jsonl").read_text().splitlines():
        process, block, label, joules, idle = json.loads(line)
        if (process, block) != ("one", 4):
            drawn[label] += (joules, idle, TOKENS)
    energy = Energy(records_in(resumed), LABELS)
    net = {label: texts / tokens for label, (texts, _, tokens) in drawn.items()}
    gross = {label: (texts + idle) / tokens for label, (texts, idle, tokens) in drawn.items()}
    for label in LABELS:
        figures = energy.figures(label)
        assert figures["blocks"] == 5 and figures["methods"] == ["nvml_total_energy"] and not figures["failures"]
        assert figures["joules_per_token"] == pytest.approx(gross[label], rel=0.04)  # the counter's last wait is in it
        assert figures["joules_per_token_net"] == pytest.approx(net[label], rel=0.03)
        assert figures["cpu_joules_per_token"] is None
        assert figures["cpu_joules_per_token_reason"] == "RAPL was left out"
    for found, truth in (
        (energy.ratio("slow", "fast"), gross["slow"] / gross["fast"]),
        (energy.ratio_net("slow", "fast"), net["slow"] / net["fast"]),
    ):
        assert found.value == pytest.approx(truth, rel=0.03)
        assert found.low is not None and found.high is not None and found.low <= found.value <= found.high


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


# -- figures from records ----------------------------------------------------------------------------------------------


def device(joules: float, seconds: float, uuid: str = "GPU-a", **changes: object) -> Row:
    """A reading, as far as figures need it."""
    reading = {
        "uuid": uuid,
        "kind": "gpu",
        "joules": joules,
        "seconds": seconds,
        "method": "nvml_total_energy",
        "method_reason": None,
        "shared": False,
        "disagrees": False,
        "states": [],
    }
    return {**reading, **changes}


def window(*devices: Row) -> Row:
    joules = sum(entry["joules"] for entry in devices)
    return {
        "source": "gpu",
        "joules": joules,
        "joules_reason": None,
        "joules_cpu": None,
        "joules_cpu_reason": "no RAPL",
        "devices": list(devices),
    }


def block(number: int, label: str, *devices: Row, process: str = "one", tokens: int = 100, attempt: int = 0) -> Row:
    where = {"kind": "block", "round": number, "variant": label, "process_id": process, "attempt": attempt}
    return {**where, "tokens": tokens, "texts": 10, "texts_differing": 0, **window(*devices)}


def idle(*watts: float, process: str = "one") -> Row:
    """Windows of two seconds on two GPUs that draw the same."""
    windows = [window(device(2 * w, 2), device(2 * w, 2, "GPU-b")) for w in watts]
    return {"kind": "idle", "process_id": process, "windows": windows}


def run_of(idles: Sequence[Row], noise: Sequence[float] = (0, 1, -1, 2, -2)) -> list[Row]:
    """Five rounds on two GPUs: a draws 3000 J in 10 s, b 2000 J in 11 s, for 100 tokens."""
    rounds = [
        [
            block(i, "a", device(1800 + n, 10), device(1200, 10, "GPU-b")),
            block(i, "b", device(1000, 11), device(1000 - n, 11, "GPU-b")),
        ]
        for i, n in enumerate(noise)
    ]
    return [*idles, *(record for blocks in rounds for record in blocks)]


def test_gross_and_net_follow_from_all_devices_and_their_own_seconds() -> None:
    energy = Energy(run_of([idle(50, 50, 50)]), ("a", "b"))
    a, b = energy.figures("a"), energy.figures("b")
    assert a["joules_per_token"] == pytest.approx(30) and b["joules_per_token"] == pytest.approx(20)
    assert a["joules_per_token_net"] == pytest.approx((3000 - 2 * 50 * 10) / 100)
    assert b["joules_per_token_net"] == pytest.approx((2000 - 2 * 50 * 11) / 100)
    assert a["watts"] == pytest.approx(300) and a["devices"] == ["GPU-a", "GPU-b"]
    assert energy.ratio("a", "b").value == pytest.approx(1.5)
    assert energy.ratio_net("a", "b").value == pytest.approx(2000 / 900)
    compared = energy.compare([("a", "b")])
    assert [found["metric"] for found in compared] == ["energy_ratio", "energy_ratio_net"]
    assert all(found["better"] == "lower" and found["null"] == 1 for found in compared)


def test_the_spread_of_idling_widens_the_net_interval_alone() -> None:
    steady, restless = (Energy(run_of([idle(*watts)]), ("a", "b")) for watts in ((50,) * 6, (40, 60) * 3))

    def width(found: Any) -> float:
        return float(found.high - found.low)

    assert width(restless.ratio("a", "b")) == width(steady.ratio("a", "b"))
    assert restless.ratio_net("a", "b").value == pytest.approx(steady.ratio_net("a", "b").value)
    assert width(restless.ratio_net("a", "b")) > 5 * width(steady.ratio_net("a", "b"))


def test_every_process_is_netted_by_its_own_idling() -> None:
    records = [idle(50, 50), idle(80, 80, process="two")]
    for i, process in enumerate(("one", "two")):
        records += [block(i, label, device(1000, 10), device(1000, 10, "GPU-b"), process=process) for label in "ab"]
    net = Energy(records, ("a", "b")).figures("a")["joules_per_token_net"]
    assert net == pytest.approx((2000 - 1000 + 2000 - 1600) / 200)
    without = Energy(records[1:], ("a", "b")).figures("a")
    assert without["joules_per_token_net"] is None and "idling" in without["joules_per_token_net_reason"]


def test_a_round_counts_only_if_one_process_and_attempt_made_it_whole() -> None:
    one = device(1, 1)
    halves = [block(0, "a", one, process="one"), block(0, "b", one, process="two")]
    attempts = [block(0, "a", one, attempt=0), block(0, "b", one, attempt=1)]
    assert settled_rounds(halves, "ab") == {} and settled_rounds(attempts, "ab") == {}
    failed = {**block(0, "b", one, process="two"), "joules": None}
    assert settled_rounds([*halves, failed], "ab") == {}
    whole = [*halves, block(0, "a", one, process="two", tokens=7)]
    assert settled_rounds(whole, "ab")[0]["a"]["tokens"] == 7


def test_disagreement_and_throttling_are_counted_by_blocks() -> None:
    hot = [{"seconds": 0.0, "clock_events": ["gpu_idle", "sw_power_cap"]}]
    records = [
        block(0, "a", device(1, 1, disagrees=True), device(1, 1, "GPU-b", disagrees=True)),
        block(1, "a", device(1, 1, states=hot)),
    ]
    figures = Energy(records, ("a",)).figures("a")
    assert (figures["blocks_disagreeing"], figures["blocks_throttled"]) == (1, 1)
    assert figures["throttles"] == ["sw_power_cap"]


def test_no_records_leave_the_reason_that_is_given() -> None:
    figures = Energy([], ("a",), absent="no NVML: nothing there").figures("a")
    assert figures["joules_per_token"] is None and figures["joules_per_token_reason"] == "no NVML: nothing there"
    json.dumps(figures, allow_nan=False)


# -- settings and lists ------------------------------------------------------------------------------------------------


def test_the_list_of_a_round_is_what_the_fastest_needs_and_begins_where_the_last_ended() -> None:
    timed = Timed(timed_rows(prompts=10))
    lists = timed.lists(LABELS, seconds=0.055, rounds=4)
    assert [[prompt for prompt, _ in items] for items in lists] == [
        ["p0", "p1", "p2", "p3"],
        ["p4", "p5", "p6", "p7"],
        ["p8", "p9", "p0", "p1"],
        ["p2", "p3", "p4", "p5"],
    ]
    assert [len(items) for items in timed.lists(LABELS, seconds=99, rounds=2)] == [10, 10]  # each text once


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": -1}, "meter.seconds must be a number > 0, not -1"),
        ({"seconds": float("nan")}, "meter.seconds must be"),
        ({"idle_seconds": 0}, "meter.idle_seconds must be a number > 0, not 0"),
        ({"blocks": 0}, "meter.blocks must be a whole number >= 1, not 0"),
        ({"hertz": 0}, "meter.hertz must be a number from 10 to 200, not 0"),
        ({"gpus": "GPU-a"}, "meter.gpus must be a list of UUIDs"),
    ],
)
def test_settings_that_cannot_be_measured_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        MeterSettings(**settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_settings_take_what_a_configuration_file_holds() -> None:
    settings = MeterSettings(gpus=["GPU-a"], rapl="/sys")  # type: ignore[arg-type]
    assert settings.gpus == ("GPU-a",) and settings.rapl == Path("/sys")
