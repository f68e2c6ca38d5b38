"""Threads, number types and engines: what a user asks for is what runs, and what ran is in the record."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import modeling_utils
from transformers.utils import logging

from experiments import bench as bench_module
from experiments.bench import Shelf
from experiments.plan import prepare
from experiments.process import Process
from experiments.table import engine_notes
from experiments.threads import sensible
from mtad.dtypes import find_dtype, has_bf16
from mtad.errors import UserError
from mtad.placement import ON_CPU
from mtad.recorded import CannotRecordError
from mtad.session import Session
from tests.fakes import llama
from tests.toy import ROOT, settings_of, toy_settings

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("own", "cores", "quota", "variables", "threads"),
    [
        (64, 64, None, {}, 64),
        (64, 4, None, {}, 4),
        (64, 64, 2.0, {}, 2),
        (64, 64, 2.9, {}, 2),  # three would wait for the one that is held back
        (64, 64, 0.5, {}, 1),
        (4, 64, 8.0, {}, 4),
        (7, 2, 1.0, {"OMP_NUM_THREADS": "7"}, 7),
        (7, 2, 1.0, {"MKL_NUM_THREADS": "7"}, 7),
        (64, 2, None, {"OMP_NUM_THREADS": ""}, 2),
    ],
)
def test_torchs_own_number_is_cut_to_what_the_process_may_use_unless_the_user_has_set_it(
    own: int, cores: int, quota: float | None, variables: dict[str, str], threads: int
) -> None:
    assert sensible(own, cores, quota, variables) == threads


SHOW = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
torch.get_num_threads = lambda: 64  # as on a large machine whose container may use little of it
found = []
torch.set_num_threads = found.append
from experiments.threads import set_threads
set_threads(None), set_threads(3), set_threads(None)
os.environ["OMP_NUM_THREADS"] = "64"
set_threads(None), set_threads(3)
print(found)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_caps_the_threads_a_variable_beats_it_and_threads_beats_both_for_its_run_alone() -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", SHOW]
    done = subprocess.run(command, env=inherited, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 3, 1, 64, 3]"


def test_auto_is_bf16_where_the_device_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for unit in ("avx512_bf16", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{unit}_supported", lambda: False, raising=False)
    assert find_dtype("auto", CPU, "target") is torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    assert find_dtype("auto", CPU, "target") is torch.bfloat16
    for capability, has in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert has_bf16(torch.device("cuda", 0)) is has


def test_a_torch_that_cannot_tell_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for unit in ("avx512_bf16", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{unit}_supported", raising=False)
    assert not has_bf16(CPU)


@pytest.mark.parametrize("override", ["dtype=auto", "model.target.dtype=auto"])
def test_what_auto_became_is_in_the_weights_of_the_record(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    def planned(has: bool) -> Any:
        monkeypatch.setattr("mtad.dtypes.has_bf16", lambda _: has)
        return prepare(toy_settings(saved_pair, tmp_path, override))

    with_it, without = planned(True), planned(False)
    assert with_it.weights["target"]["dtype"] == "bfloat16" and without.weights["target"]["dtype"] == "float32"
    both = {"dtype=auto": "bfloat16", "model.target.dtype=auto": "float32"}
    assert with_it.weights["draft"]["dtype"] == both[override]
    assert with_it.id != without.id


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine=fast", "engine must be one of auto, recorded, eager, not 'fast'"),
        ("engine=null", "engine must be one of auto, recorded, eager, not None"),
        ("threads=0", "threads must be >= 1, not 0"),
        ("threads=many", "threads must be a whole number, not 'many'"),
        ("threads=true", "threads must be a whole number, not True"),
    ],
)
def test_a_wrong_engine_or_number_of_threads_is_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        settings_of(override)
    assert str(error.value) == message


def test_engine_and_threads_are_of_the_run_id(saved_pair: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    asked = ("engine=auto", "engine=eager", "threads=1")
    assert len({prepare(toy_settings(saved_pair, tmp_path, override)).id for override in asked}) == 3
    torch.set_num_threads(before)


def test_a_pair_is_loaded_anew_for_another_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(_rows: int, engine: str) -> object:
        loaded.append(engine)
        return object()

    blueprint = SimpleNamespace(origins={}, vocabulary=8, eos=frozenset(), placement=ON_CPU, load=load)
    shelf = Shelf()
    for engine in ("auto", "auto", "eager"):
        shelf.take(blueprint, engine)  # type: ignore[arg-type]
    assert loaded == ["auto", "eager"]


def test_what_runs_the_forwards_is_recorded_and_a_fallback_is_said(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cannot(*_: object) -> None:
        raise CannotRecordError("no reason")

    monkeypatch.setattr("mtad.model.Traced", cannot)
    monkeypatch.setattr(bench_module, "shelf", Shelf())
    for engine, fallback in (("recorded", "forwards run eagerly: no reason"), ("eager", None)):
        plan = prepare(toy_settings(saved_pair, tmp_path, "limit=1", f"engine={engine}", "reference=[]"))
        process = Process(plan)
        with plan.folder.locked():
            assert process.bench.pair
            process.begin()
        (here,) = plan.folder.read_json("environment.json")["processes"]
        runs = {"engine": "eager", "fallback": fallback}
        assert here["engines"] == {"target": runs, "draft": runs}
        said = capsys.readouterr().err
        assert said.count("of the target, forwards run eagerly") == (1 if fallback else 0)
        told = [f"of the {role}, {fallback}" for role in ("target", "draft") if fallback]
        assert list(engine_notes({"engines": [here["engines"]]})) == told and list(engine_notes({})) == []


def test_a_recording_says_nothing_of_attributes_that_it_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bool] = []

    def listen(*_: object) -> None:
        heard.append(modeling_utils.logger.isEnabledFor(logging.WARNING))

    monkeypatch.setattr(modeling_utils.logger, "warning_once", listen)
    verbosity = logging.get_verbosity()
    model = llama(0)
    Session(model).open([3, 5])
    model.record()
    assert model.engine == "traced" and not any(heard) and logging.get_verbosity() == verbosity
