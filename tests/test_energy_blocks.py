"""Single blocks of the energy pass: errors in the middle, disturbed ones, what is kept of texts; settings and lists."""

from __future__ import annotations

import json
import time
import weakref
from pathlib import Path
from typing import Any, Literal

import pytest

from experiments import process, runner
from experiments.energy import EnergyPass, MeterSettings, Timed, missing_rounds
from experiments.energy_report import Energy
from experiments.journal import Row
from mtad.counts import Counts
from mtad.errors import UserError
from mtad.generate import Output
from mtad.meter.device import Kind
from mtad.meter.meter import Meter
from tests.made_rows import QUIET
from tests.test_energy import LABELS, TOKENS, timed_rows
from tests.toy import toy_settings


class Clockwork:
    """A device that draws 50 W by the clock."""

    uuid, name, counter, shared = "GPU-clockwork", "Clockwork", "clock", False
    kind: Kind = "gpu"
    power: Literal["instant", "average"] | None = "instant"

    def joules(self) -> float:
        return 50 * time.perf_counter()

    def watts(self) -> float:
        return 50.0

    def state(self) -> dict[str, Any]:
        return {}

    def describe(self) -> dict[str, Any]:
        return {}


def test_a_block_whose_writing_fails_leaves_a_record_without_joules_and_the_error_passes() -> None:
    records: list[Row] = []

    def write(label: str, prompt: str, turn: int, repeat: int) -> Output:
        if prompt == "p1":
            raise RuntimeError("CUDA error: the GPU is lost")
        return Output((8,) * TOKENS, "", "limit", (), Counts(), Counts(), 0.0, 0.01)

    settings = MeterSettings(seconds=0.1, idle_seconds=0.01, rapl=None)
    meter = Meter([Clockwork()], {"cpu": "RAPL was left out"})
    stamp = {"process_id": "one"}
    with pytest.raises(RuntimeError, match="lost"):
        EnergyPass(stamp, ["fast"], Timed(timed_rows()), write, meter, settings, 0, records.append).run([])
    assert [record["kind"] for record in records] == ["idle", "block"]
    broken = records[1]
    assert broken["joules"] is None and broken["joules_reason"] == "writing ended in RuntimeError"
    assert (broken["texts"], broken["texts_differing"], broken["passes"]) == (1, 1, 0)
    assert missing_rounds(records, ["fast"], 1) == [0]


def test_a_block_whose_window_does_not_open_is_a_record_with_the_errors_type() -> None:
    class Broken:
        def begin(self) -> None:
            raise RuntimeError("no monitor")

    def write(label: str, prompt: str, turn: int, repeat: int) -> Output:
        raise AssertionError("the window never opened")

    records: list[Row] = []
    meter = Meter([Clockwork()], {})
    settings = MeterSettings(seconds=0.1, idle_seconds=0.01, rapl=None)

    def append(record: Row) -> None:
        records.append(record)
        meter.zeus = Broken()  # type: ignore[assignment]  # after the first idling

    with pytest.raises(RuntimeError, match="no monitor"):
        EnergyPass({"process_id": "one"}, ["fast"], Timed(timed_rows()), write, meter, settings, 0, append).run([])
    broken = records[1]
    assert (broken["joules"], broken["texts"], broken["devices"]) == (None, 0, ())
    assert broken["joules_reason"] == "the meter ended in RuntimeError"
    assert missing_rounds(records, ["fast"], 1) == [0]


def test_a_text_is_let_go_once_it_is_counted() -> None:
    alive: list[weakref.ref[Output]] = []

    def write(label: str, prompt: str, turn: int, repeat: int) -> Output:
        assert sum(output() is not None for output in alive) <= 1
        time.sleep(0.005)
        output = Output((7,) * TOKENS, "", "limit", (), Counts(), Counts(), 0.0, 0.005)
        alive.append(weakref.ref(output))
        return output

    records: list[Row] = []
    settings = MeterSettings(seconds=0.1, blocks=1, idle_seconds=0.01, rapl=None)
    meter = Meter([Clockwork()], {}, ["the order of GPUs is doubtful"])
    EnergyPass({"process_id": "one"}, ["fast"], Timed(timed_rows()), write, meter, settings, 0, records.append).run([])
    assert records[1]["texts"] == len(alive) > 5 and records[1]["tokens"] == TOKENS * len(alive)
    assert Energy(records, ["fast"]).figures("fast")["notes"] == ["the order of GPUs is doubtful"]


class Scripted:
    """A watch on others that is quiet but for one lap."""

    def __init__(self, loud: int) -> None:
        self.loud, self.laps = loud, 0

    def before(self) -> list[Any]:
        return []

    def start(self) -> None:
        pass

    def lap(self) -> Row:
        self.laps += 1
        return {**QUIET, "others_cpu_cores": 1.5 if self.laps == self.loud else 0.0}


def test_under_strict_a_disturbed_block_does_not_count_and_is_measured_again(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Laps: one text, the spell before, and the only block of the only round.
    monkeypatch.setattr(process, "Watch", lambda *where: Scripted(loud=3))
    monkeypatch.setattr(process, "find_meter", lambda *asked: (Meter([Clockwork()], {}), None))
    options = ["energy=true", "meter.seconds=0.1", "meter.idle_seconds=0.05", "meter.blocks=1", "strict=true"]
    settings = toy_settings(saved_pair, tmp_path, "limit=1", "reference=[]", *options)
    with pytest.raises(UserError, match="strict=true: "):
        runner.run(settings)
    (journal,) = tmp_path.glob("*/*/energy.jsonl")
    blocks = [record for record in map(json.loads, journal.read_text().splitlines()) if record["kind"] == "block"]
    assert [block["joules"] for block in blocks] == [None]
    assert "1 of 1 blocks were measured while other processes used" in blocks[0]["joules_reason"]
    monkeypatch.setattr(process, "Watch", lambda *where: Scripted(loud=-1))
    runner.run(settings)
    figures = json.loads(journal.with_name("summary.json").read_text())["decoders"]["mtad"]["energy"]
    assert figures["blocks"] == 1 and figures["joules_per_token"] > 0


# -- settings and lists ------------------------------------------------------------------------------------------------


def test_the_list_of_a_round_is_what_the_fastest_needs_and_begins_where_the_last_ended() -> None:
    timed = Timed(timed_rows(prompts=10))
    lists = timed.lists(LABELS, seconds=0.11, rounds=4)
    assert [[prompt for prompt, *_ in items] for items in lists] == [
        ["p0", "p1", "p2", "p3"],
        ["p4", "p5", "p6", "p7"],
        ["p8", "p9", "p0", "p1"],
        ["p2", "p3", "p4", "p5"],
    ]
    assert [len(items) for items in timed.lists(LABELS, seconds=99, rounds=2)] == [10, 10]  # each text once


def test_the_expected_duration_counts_whole_lists_of_every_variant_and_two_spells() -> None:
    timed = Timed(timed_rows(prompts=10))  # texts of 0.03 s and 0.042 s; a list is of 4: 0.12 s and 0.168 s
    settings = MeterSettings(seconds=0.11, blocks=4, idle_seconds=2)
    assert timed.expected_seconds(LABELS, settings, [1, 3]) == pytest.approx(2 * (0.12 + 0.168) + 2 * (2 + 2))
    long = MeterSettings(seconds=0.5, blocks=1, idle_seconds=20)  # all ten texts, of 0.3 s and 0.42 s, twice
    assert timed.expected_seconds(LABELS, long, [0]) == pytest.approx(2 * (0.3 + 0.42) + 2 * (20 + 5))


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
