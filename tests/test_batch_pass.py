"""The batch pass of a run: windows, records, resuming, figures; and the option that asks for it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import batch_pass, process, runner
from experiments.batch_equal import UNEXPLAINED
from experiments.batch_figures import batches
from experiments.batch_windows import ENGINE, POINT, Asked, arranged, batch_sizes, batched
from experiments.journal import Row
from experiments.plan import prepare
from experiments.stopping import Stopped, stoppable
from experiments.table_batches import batch_notes, batch_tables
from mtad.batch import write_batch
from mtad.errors import UserError
from mtad.meter.device import Kind
from mtad.meter.meter import Record
from mtad.session import Session
from tests.test_passes import files, lines
from tests.toy import settings_of, toy_settings

pytestmark = pytest.mark.runs


def run_toy(pair: Path, results: Path, *overrides: str) -> dict[str, Any]:
    runner.run(toy_settings(pair, results, *overrides))
    return files(results)[1]["batches"]


def test_a_run_measures_windows_once_and_goes_on_after_a_kill(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ("engine=eager", "limit=6", "reference=[autoregressive]", "batch_size=3", "max_new_tokens=6")
    found = run_toy(saved_pair, tmp_path, *few)
    assert (found["sizes"], found["windows"], found["schedule"]) == ([1, 3], 2, "continuous")
    said = capsys.readouterr()
    assert "schedule continuous" in said.out and "intervals need 5 windows, and so 15 texts\n" in said.out + said.err
    rows, _, folder = files(tmp_path)
    records = lines(folder / "batches.jsonl")
    assert {(r["window"], r["variant"], r["batch_size"]) for r in records} == {
        (window, label, size) for window in (0, 1) for label in ("mtad", "autoregressive") for size in (1, 3)
    }
    written = {(row["variant"], row["prompt_id"]): row["token_ids"] for row in rows}
    for record in records:
        names = [item[0] for item in record["items"]]
        assert record["tokens"] == sum(len(written[record["variant"], name]) for name in names)
        assert (record["texts"], record["texts_differing"]) == (3, 0) and record["joules"] is None
        assert 0 < record["latency_median_seconds"] <= record["latency_p95_seconds"] <= record["seconds"]
        assert {"code", "git", "process_id", "isolation", "prefill_seconds"} <= record.keys()
    forwards = {(r["window"], r["variant"], r["batch_size"]): r["target_forwards"] for r in records}
    assert all(forwards[w, label, 3] < forwards[w, label, 1] for w in (0, 1) for label in ("mtad", "autoregressive"))

    monkeypatch.setattr(process, "Bench", None)  # nothing is to be measured again
    assert run_toy(saved_pair, tmp_path, *few) == found
    without = run_toy(saved_pair, tmp_path, *few[:3], few[4])
    assert without == found  # asked for before
    monkeypatch.undo()
    kept = [json.dumps(record) for record in records if record["window"] == 0 or record["order"] < 2]
    (folder / "batches.jsonl").write_text("\n".join(kept) + "\n{", encoding="utf-8")  # as a kill would leave it
    again = run_toy(saved_pair, tmp_path, *few)
    assert again["windows"] == 2 and len(again["processes"]) == 2
    assert len(lines(folder / "batches.jsonl")) == 6 + 4  # the second window anew


def test_a_signal_in_a_window_ends_the_run_and_the_window_is_none(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def told(queue: Any, rows: list[tuple[Session, Session]], *clock: Any) -> Any:
        begun.append(len(rows))
        if len(begun) == 4:  # two cells are warmed up before
            os.kill(os.getpid(), signal.SIGTERM)
        return write_batch(queue, rows, *clock)

    monkeypatch.setattr("experiments.batch_pass.write_batch", told)
    few = ("engine=eager", "limit=2", "reference=[]", "batch_size=2", "max_new_tokens=6")
    with pytest.raises(SystemExit), stoppable():
        runner.run(toy_settings(saved_pair, tmp_path, *few))
    (journal,) = tmp_path.glob("*/*/batches.jsonl")
    assert len(lines(journal)) == 1
    monkeypatch.undo()
    assert run_toy(saved_pair, tmp_path, *few)["windows"] == 1
    assert len(lines(journal)) == 1 + 2
    assert issubclass(Stopped, BaseException)


class Ticking:
    """A meter whose window grows by 0.4 s whenever it is asked; three joules a window."""

    devices, reasons = (), dict[str, str]()
    elapsed_before = 0.0

    def window(self) -> Ticking:
        return Ticking()

    def __enter__(self) -> Ticking:
        return self

    def __exit__(self, *_: object) -> None:
        self.record = Three("now", 1.2, (), None)

    @property
    def elapsed(self) -> float:
        self.elapsed_before += 0.4
        return self.elapsed_before


class Three(Record):
    def joules(self, kind: Kind) -> tuple[float | None, str | None]:
        return 3.0, None


def test_under_a_meter_a_window_writes_its_whole_list_until_the_time_is_up(saved_pair: Path, tmp_path: Path) -> None:
    talk = ("task=talk", "repeats=2")  # of one, two and three turns
    few = ("engine=eager", *talk, "reference=[]", "batch_size=2", "meter.seconds=1", "max_new_tokens=4")
    metered = process.Process(prepare(toy_settings(saved_pair, tmp_path, *few)))
    with metered.plan.folder.locked():
        runner.measure(metered)
        runner.score(metered)
        metered.meter = Ticking()  # type: ignore[assignment]
        batch_pass.measure_batches(metered)
        runner.report(metered)
    _, summary, folder = files(tmp_path)
    for record in lines(folder / "batches.jsonl"):
        assert (record["passes"], record["texts"]) == (3, 3 * len(record["items"]))
        assert record["texts_differing"] == 0 and len({item[0] for item in record["items"]}) == 1
        assert (record["joules"], record["least_seconds"], record["source"]) == (3.0, 1.0, "cpu")
    (single, double) = summary["batches"]["decoders"]["mtad"]
    assert single["joules_per_token"] == 3.0 * summary["batches"]["windows"] / single["tokens"]
    assert double["energy_ratio_to_single"]["value"] == 1.0


@pytest.mark.parametrize("asked", [0, "x", [2, 2], True, [], 2.5, [2, 0], {"a": 1}, [2, False]])
def test_a_batch_size_that_is_none_is_one_line(asked: object) -> None:
    with pytest.raises(UserError, match="batch_size must be a whole number") as caught:
        batch_sizes(asked)
    assert "\n" not in str(caught.value)


def test_size_one_is_measured_with_every_other() -> None:
    assert batch_sizes(None) is None and batch_sizes(8) == (1, 8) and batch_sizes([4, 1, 2]) == (1, 2, 4)
    settings = settings_of("batch_size=[4,2]", "reference=[hf_generate]", "frontier.top_p=[0.5]")
    assert (settings.batch_sizes, settings.rows) == ((1, 2, 4), 4)
    variants, left_out = batched(settings.variants)
    assert [variant.label for variant in variants] == ["mtad", "autoregressive"]
    assert left_out.pop("hf_generate") == ENGINE and set(left_out.values()) == {POINT}
    with pytest.raises(UserError, match="batch_size"):
        settings_of("batch_size=true")


def asked(*sizes: int) -> Asked:
    return Asked(sizes, ("mtad", "autoregressive"), {}, 0.0, None)


@pytest.mark.parametrize(
    ("prompts", "repeats", "sizes", "windows", "left"),
    [(100, 1, (1, 16), 5, ()), (60, 1, (1, 4), 7, ()), (8, 1, (1, 2, 16), 1, (16,)), (300, 2, (1, 2), 20, ())],
)
def test_windows_share_no_prompt_and_fill_the_rows(
    prompts: int, repeats: int, sizes: tuple[int, ...], windows: int, left: tuple[int, ...]
) -> None:
    items = [(f"p{i}", 0, repeat) for repeat in range(repeats) for i in range(prompts)]
    found, wanted = arranged(items, asked(*sizes))
    assert len(found) == windows and sorted(item for window in found for item in window) == sorted(items)
    assert len({(item[0], number) for number, window in enumerate(found) for item in window}) == prompts
    assert [name for name in wanted.left_out if name.startswith("batch")] == [f"batch {size}" for size in left]
    assert min(map(len, found)) >= wanted.sizes[-1]


def test_prompts_of_different_turns_are_spread_so_that_every_window_fills_the_rows() -> None:
    turns = [3, 1, 1, 1, 1] * 4  # were they dealt in turn, one window would have all the long ones
    items = [(f"p{i}", turn, 0) for i, count in enumerate(turns) for turn in range(count)]
    found, wanted = arranged(items, asked(1, 5))
    assert sorted(map(len, found)) == [5, 5, 5, 6, 7] and not wanted.left_out
    few, wanted = arranged([(f"p{i}", turn, 0) for i in range(3) for turn in range((7, 2, 2)[i])], asked(1, 4))
    assert sorted(map(len, few)) == [4, 7] and not wanted.left_out


def made(windows: int = 6, joules: float | None = 30.0) -> tuple[list[Row], list[Row]]:
    """Rows of a run and records of its windows: twice the tokens/s at batch 2, mtad three times as fast."""
    random = np.random.default_rng(0)
    rows = [
        {"variant": label, "prompt_id": f"p{i}", "turn": 0, "repeat": 0, "token_ids": [1], "seconds": SECONDS}
        for i in range(4 * windows)
        for label in ("mtad", "autoregressive")
    ]
    lists, _ = arranged([(f"p{i}", 0, 0) for i in range(4 * windows)], asked(1, 2))
    records = []
    for number, items in enumerate(lists):
        pace = 1 + 0.1 * random.random()
        for label, speed in (("mtad", 3), ("autoregressive", 1)):
            for size in (1, 2):
                seconds = 4 * pace / speed / size
                records.append(
                    {
                        "window": number,
                        "variant": label,
                        "batch_size": size,
                        "items": [list(item) for item in items],
                        "process_id": "1",
                        "code": "c",
                        "texts": len(items),
                        "tokens": 40,
                        "seconds": seconds,
                        "prefill_seconds": 0.1,
                        "latency_seconds": [seconds / 2] * len(items),
                        "target_forwards": 10,
                        "draft_forwards": 5,
                        "texts_differing": 2,
                        "texts_unexplained": int(size == 2 and label == "mtad"),
                        "joules": joules and joules * seconds,
                        "joules_reason": None if joules else "no meter",
                        "least_seconds": 0.0,
                        "source": "gpu" if joules else None,
                        "devices": [DEVICE],
                        "isolation": LAP,
                    }
                )
    return records, rows


SECONDS = {"prefill": 0.0, "decode": 1.0}
LAP = {"others_cpu_cores": 0.0, "stolen_cpu_cores": 0.0, "gpu_processes": 0, "throttle": []}
DEVICE = {"kind": "gpu", "uuid": "GPU-1", "method": "nvml_total_energy", "method_reason": None, "shared": False}
DEVICE |= {"disagrees": False, "states": [{"clock_events": []}]}
ASKED = {"sizes": [1, 2], "labels": ["mtad", "autoregressive"], "left_out": {}, "seconds": 0.0, "source": None}


def test_figures_of_windows_are_ratios_of_sums_with_intervals() -> None:
    records, rows = made()
    found = batches(records, rows, ASKED)
    assert found is not None and found["windows"] == 6
    single, double = found["decoders"]["mtad"]
    seconds = sum(r["seconds"] for r in records if (r["variant"], r["batch_size"]) == ("mtad", 2))
    assert double["tokens_per_second"] == pytest.approx(240 / seconds)
    assert double["tokens_per_second_low"] < double["tokens_per_second"] < double["tokens_per_second_high"]
    assert double["joules_per_token"] == pytest.approx(30 * seconds / 240)
    assert double["latency_mean_seconds"] == pytest.approx(seconds / 12)
    assert double["speedup_over_single"]["value"] == pytest.approx(2) == 1 / double["energy_ratio_to_single"]["value"]
    assert double["speedup"]["value"] == pytest.approx(3) and double["reference"] == "autoregressive"
    assert single["speedup_over_single"]["reason"] == "the reference itself"
    few = batches(*made(2), ASKED)
    assert few is not None and few["decoders"]["mtad"][1]["tokens_per_second_low_reason"].endswith("than 5 windows")
    assert batches(records, rows, None) is None


def test_joules_are_of_the_windows_that_have_them_in_all_cells_and_the_notes_tell_how() -> None:
    records, rows = made()
    lost = {**records[0], "joules": None, "joules_reason": "the counter was reset"}
    traced = {**records[5], "devices": [{**DEVICE, "disagrees": True, "method": "nvml_power_trace"}]}
    found = batches([lost, *records[1:5], traced, *records[6:]], rows, ASKED)
    assert found is not None and (found["windows"], found["energy"]["windows"]) == (6, 5)
    double = found["decoders"]["mtad"][1]
    seconds = sum(r["seconds"] for r in records[4:] if (r["variant"], r["batch_size"]) == ("mtad", 2))
    assert double["joules_per_token"] == pytest.approx(30 * seconds / 200) and double["joules_per_token_low"]
    assert double["energy_ratio_to_single"]["value"] == pytest.approx(0.5)
    notes = "; ".join(batch_notes({"batches": found}))
    assert (
        "J/token: gross, of the GPUs in use, prefill included; windows of 0.7 s or more (nvml_power_trace, nv" in notes
    )
    assert "J/token: of 5 of 6 windows: the counter was reset" in notes and "in 1 of 20 measurements counter" in notes
    assert "windows shorter than 10 s" in notes
    none = batches([{**record, "joules": None, "joules_reason": "lost"} for record in records], rows, ASKED)
    assert none is not None and none["energy"] is None
    assert none["decoders"]["mtad"][0]["energy_ratio_to_single"]["reason"] == "lost"


def test_a_window_counts_only_if_one_process_has_measured_all_of_it() -> None:
    records, rows = made()
    found = batches([{**records[0], "process_id": "2"}, *records[1:]], rows, ASKED)
    assert found is not None and found["windows"] == 5
    none = batches(records[:3], rows, ASKED)
    assert none is not None and none["decoders"] == {} and "no window" in none["reason"]
    assert list(batch_tables({"batches": none})) == [] and none["reason"] in " ".join(batch_notes({"batches": none}))
    longer = batches(records, rows, {**ASKED, "seconds": 10.0, "source": "gpu"})  # of a meter, and these are not
    assert longer is not None and longer["windows"] == 0


LEFT_OUT = {"a": POINT, "vllm": ENGINE, "b": POINT}


def test_the_notes_say_what_was_left_out_and_which_texts_nobody_can_explain() -> None:
    records, rows = made(joules=None)
    notes = " ".join(batch_notes({"batches": batches(records, rows, {**ASKED, "left_out": LEFT_OUT})}))
    assert f"vllm is left out: {ENGINE}" in notes and f"a, b are left out: {POINT}" in notes
    assert "J/token: no meter" in notes
    assert "48 of 96 texts leave those written alone, 42 of them where" in notes
    assert "UNEXPLAINED: 6 texts of mtad at batch 2" in notes and UNEXPLAINED.upper() in notes
    assert list(batch_notes({})) == [] == list(batch_tables({"batches": None}))
