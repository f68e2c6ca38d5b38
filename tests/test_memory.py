"""Memory: what is said before a run is what is then allocated, to the byte, and what cannot fit is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import memory
from experiments.bench import Bench
from experiments.isolation import Watch
from experiments.memory import Need, describe, device_memory, estimate, forecast, longest_prompt, peak
from experiments.memory_report import memory_notes, spoken, summed_up
from experiments.plan import Plan, prepare
from experiments.prompting import looks_back
from experiments.rows import Provenance
from experiments.runner import run
from mtad import loading
from mtad.errors import UserError
from mtad.placement import Placement
from tests.toy import WORDS, settings_of, toy_settings

CPU = torch.device("cpu")
NEED = Need(
    weights={"target": 26 * 10**9, "draft": 136 * 10**6},
    caches={"target": 10**9, "draft": 2 * 10**8},
    workspace={"target": 9 * 10**8, "draft": 10**8},
    recorded=0,
    by_device={"cpu": 28_236_000_000},
    rows=1,
    room=1100,
    capacity=1280,
)


@pytest.fixture
def planned(saved_pair: Path, tmp_path: Path) -> Callable[..., Plan]:
    """A plan with more settings for a small run on the saved pair."""
    return lambda *more: prepare(toy_settings(saved_pair, tmp_path, "limit=2", "reference=[]", *more))


@pytest.mark.parametrize("overrides", [(), ("dtype=bf16", "decoder=speculative", "batch_size=3")])
def test_the_forecast_is_what_is_allocated_and_caches_do_not_grow(
    planned: Callable[..., Plan], overrides: tuple[str, ...]
) -> None:
    plan = planned(*overrides)
    need = forecast(plan, rows=plan.settings.rows)
    bench = Bench(plan, Provenance(plan.id, "p", None, "c", 0), Watch(plan.device))
    bench.reserve(need.room)
    bench.warm_up()
    for prompt in plan.prompts:
        bench.write(plan.settings.variants[0], prompt.id, 0, 0)
    for role, model in (("target", bench.pair.target), ("draft", bench.pair.draft)):
        assert need.weights[role] == sum(tensor.nbytes for tensor in (*model.lm.parameters(), *model.lm.buffers()))
        assert need.caches[role] == model.cache.nbytes and need.rows == model.cache.rows
        assert model.cache.capacity == need.capacity >= need.room


def test_rows_multiply_the_caches_and_a_judge_adds_its_weights(planned: Callable[..., Plan]) -> None:
    plan = planned()
    one, four = forecast(plan), forecast(plan, plan.blueprint.draft, rows=4)
    assert four.caches == {role: 4 * size for role, size in one.caches.items()} and four.rows == 4
    assert four.weights == {**one.weights, "judge": one.weights["draft"]}


def test_turns_that_follow_answers_are_as_long_as_these_can_be(saved_pair: Path, tmp_path: Path) -> None:
    plan = prepare(toy_settings(saved_pair, tmp_path, "task=talk", "max_new_tokens=4"))
    words = " ".join(WORDS[:4])
    asked = [plan.asked(prompt, turn, [words] * turn) for prompt in plan.prompts for turn in range(len(prompt.turns))]
    assert longest_prompt(plan) >= max(map(len, asked))
    talk = next(prompt for prompt in plan.prompts if looks_back(prompt, len(prompt.turns) - 1))
    known = {key: tokens for key, tokens in plan.encoded.items() if key[0] == talk.id}
    longest = len(plan.asked(talk, len(talk.turns) - 1, [words] * len(talk.turns)))
    assert longest_prompt(replace(plan, prompts=[talk], encoded=known)) >= longest > max(map(len, known.values()))


def test_what_is_said_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "device_memory", lambda _: (139 * 10**9, 140 * 10**9))
    said = "memory: weights 26.0 GB + 136.0 MB, caches 1.2 GB for 1 row of 1280 positions, workspace 900.0 MB"
    assert NEED.say(CPU) == [f"{said}; 139.0 GB free on cpu"]
    assert NEED.say(CPU, loaded=True) == [said]
    monkeypatch.setattr(memory, "device_memory", lambda _: (28 * 10**9, 140 * 10**9))
    assert "little or nothing of the free memory" in NEED.say(CPU)[1]
    monkeypatch.setattr(memory, "device_memory", lambda _: (24 * 10**9, 25 * 10**9))
    with pytest.raises(
        UserError, match=r"^the run does not fit on cpu: it needs 28.2 GB there \(weights 26.0 .* cpu has 25.0 GB; "
    ):
        NEED.say(CPU)
    monkeypatch.setattr(memory, "device_memory", lambda _: (None, None))
    assert NEED.say(CPU) == [said]


def test_a_run_that_cannot_fit_ends_before_weights_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "device_memory", lambda _: (20 * 10**9, 25 * 10**9))
    with pytest.raises(UserError, match=r"weights 138.0 GB \+ 2.2 GB"):
        run(settings_of("model=llama2-70b", "model.weights=random", "limit=1", f"results_dir={tmp_path}"))


def test_free_memory_is_that_of_the_machine_within_the_limits_of_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "cgroup")
    assert device_memory(CPU) == (None, None)
    (tmp_path / "meminfo").write_text("MemTotal:  4000 kB\nMemFree: 1 kB\nMemAvailable:  3000 kB\n")
    assert device_memory(CPU) == (3000 * 1024, 4000 * 1024)
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cgroup").write_text("3:memory:/old\n0::/job/step\n")
    (tmp_path / "cgroup" / "job" / "step").mkdir(parents=True)
    (tmp_path / "cgroup" / "job" / "step" / "memory.max").write_text("max\n")
    (tmp_path / "cgroup" / "job" / "memory.max").write_text("3500000\n")
    assert device_memory(CPU) == (3000 * 1024, 3500000)
    (tmp_path / "cgroup" / "memory" / "old").mkdir(parents=True)
    (tmp_path / "cgroup" / "memory" / "old" / "memory.limit_in_bytes").write_text("1000000\n")
    assert device_memory(CPU) == (1000000, 1000000)
    (tmp_path / "cgroup" / "memory" / "old" / "memory.usage_in_bytes").write_text("400000\n")
    assert device_memory(CPU) == (600000, 1000000)
    (tmp_path / "cgroup" / "memory" / "old" / "memory.stat").write_text("cache 9\ntotal_inactive_file 100000\n")
    assert device_memory(CPU) == (700000, 1000000)  # what was only read from files makes room
    (tmp_path / "cgroup" / "job" / "memory.current").write_text("3400000\n")
    assert device_memory(CPU) == (100000, 1000000)


def test_the_peak_of_a_process_holds_what_it_has_touched() -> None:
    block = torch.ones(20_000_000)
    assert peak([CPU])["cpu"] > block.nbytes


def test_peaks_of_several_gpus_are_summed_and_stand_beside_it_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [torch.device("cuda", i) for i in range(2)]
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 10 + device.index)
    assert peak([*gpus, CPU]) == {"cuda:0": 10, "cuda:1": 11}
    told = describe(NEED, {"texts": peak(gpus)})
    assert told["peak_bytes"] == {"texts": 21} and told["peak_of"] == "tensors on the devices, each at its own peak"
    assert told["peak_bytes_by_device"] == {"texts": {"cuda:0": 10, "cuda:1": 11}}
    assert describe(NEED, {"texts": peak(gpus[:1])})["peak_of"] == "tensors on the device"


def test_the_record_and_the_note_are_of_the_process_with_the_highest_peak() -> None:
    of_passes = ({}, {"run": {"cpu": 5}}, {"texts": {"cpu": 7}, "run": {"cpu": 3 * 10**9}})
    killed, low, high = (describe(NEED, peaks) for peaks in of_passes)
    assert killed["peak_bytes"] is None and "end of a pass" in killed["peak_bytes_reason"]
    found = summed_up([{}, {"memory": killed}, {"memory": low}, {"memory": high}])
    assert found is not None and found["peak_bytes"] == 3 * 10**9 and found["weights_bytes"] == 26_136_000_000
    (note,) = memory_notes({"memory": found})
    assert (
        note
        == "memory: weights 26.1 GB, caches 1.2 GB, workspace 900.0 MB; at most 3.0 GB, resident memory of the process"
    )
    older = {key: value for key, value in found.items() if key != "workspace_bytes"}
    assert list(memory_notes({"memory": older})) == [note.replace(", workspace 900.0 MB", "")]
    assert summed_up([{}, {"memory": killed}]) is None and not list(memory_notes({}))
    assert (spoken(999_900_000), spoken(1_000_000_000)) == ("999.9 MB", "1.0 GB")


def test_layers_over_two_devices_are_summed_for_each_and_the_fuller_one_refuses(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    blueprint = planned().blueprint
    alone = estimate(blueprint, 20, 30, packs=False)
    assert alone.by_device == {"cpu": alone.total}
    weights, caches = sum(alone.weights.values()), sum(alone.caches.values())
    assert alone.total == weights + caches + max(alone.workspace.values())
    first, last = torch.device("cuda:0"), torch.device("cuda:1")
    monkeypatch.setattr(loading, "_share", lambda device: 1.0)
    parted = estimate(replace(blueprint, placement=Placement((first, last), last)), 20, 30, packs=False)
    assert parted.weights == alone.weights and list(parted.by_device) == ["cuda:0", "cuda:1"]
    assert parted.total == weights + caches + 2 * max(alone.workspace.values())  # each device needs its own
    second = parted.by_device["cuda:1"]
    monkeypatch.setattr(memory, "device_memory", lambda device: (second, second if device.index else second - 1))
    with pytest.raises(UserError, match=r"does not fit on cuda:0: it needs .* there, .* in all \(weights"):
        replace(parted, by_device={"cuda:0": second, "cuda:1": second}).say(CPU)


def test_processes_that_share_the_target_hold_half_of_its_layers_each(planned: Callable[..., Plan]) -> None:
    blueprint = planned().blueprint
    shared = replace(blueprint, placement=Placement((CPU,), CPU, 2))
    one, half = (estimate(asked, 20, 30) for asked in (blueprint, shared))
    assert half.caches["target"] == one.caches["target"] / 2 and half.caches["draft"] == one.caches["draft"]
    assert one.weights["target"] / 2 < half.weights["target"] < one.weights["target"]  # norms and embeddings are whole


def test_a_judge_needs_no_cache_and_a_longer_limit_more_of_everything(planned: Callable[..., Plan]) -> None:
    blueprint = planned().blueprint
    one, longer = estimate(blueprint, 20, 30), estimate(blueprint, 20, 3000, judge=blueprint.draft)
    assert set(longer.weights) == {"target", "draft", "judge"} and set(longer.caches) == {"target", "draft"}
    assert longer.room == 20 + 3000 + 256 and all(longer.caches[role] > one.caches[role] for role in one.caches)
    assert longer.workspace["target"] > one.workspace["target"]
