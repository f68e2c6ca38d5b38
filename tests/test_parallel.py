"""Tensor parallel: two processes of a real torchrun, over gloo on the CPU, and what is refused before they start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtad.errors import UserError
from mtad.parallel import Team
from mtad.shared import check_shared
from mtad.sources import ModelSpec, find_model
from tests.started_runs import TOY
from tests.toy import ROOT

RUN = (*TOY, "decoder=mtad", "reference=[autoregressive,speculative]", "limit=3", "max_new_tokens=8", "chat=false")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")

# `run.py` whose target, in the process of this rank, fails in its fourth forward.
FAILING = """
import os, sys
from mtad.model import CausalModel
from mtad.parallel import team
import run
rank, forward, count = sys.argv.pop(1), CausalModel._run, iter(range(99))
def failing(self, *arguments):
    if team._telling or os.environ["RANK"] != "0":
        if os.environ["RANK"] == rank and next(count) == 3:
            raise RuntimeError("no kernel for this")
    return forward(self, *arguments)
CausalModel._run = failing
run.main()
"""


def models(pair: Path) -> list[str]:
    return [f"model.{role}.path={pair / role}" for role in ("target", "draft")]


def start(*command: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    words = list(map(str, command))
    return subprocess.Popen(words, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-1, start_new_session=True)


def run(*command: object) -> tuple[int, str, str]:
    ended = start(*command)
    out, err = ended.communicate(timeout=120)
    return ended.returncode, out, err


def rows(results: Path) -> list[dict[str, object]]:
    (file,) = results.glob("*/*/samples.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def texts(results: Path) -> dict[tuple[object, ...], object]:
    return {(row["variant"], row["prompt_id"]): (row["token_ids"], row["finish"]) for row in rows(results)}


@pytest.mark.parallel
def test_two_processes_that_share_the_target_write_what_one_writes(sharded_llama: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    command = ["run.py", *RUN, *models(sharded_llama)]
    assert run(sys.executable, *command, f"results_dir={one}")[0] == 0
    code, out, err = run(*TORCHRUN, *command, "tp_plan=auto", f"results_dir={two}")
    assert code == 0, err
    assert texts(two) == texts(one) and len(texts(one)) == 9
    assert out.count("Against autoregressive") == 1, "the followers print too"
    likelihoods = [[row["log_likelihoods"] for row in rows(results)] for results in (one, two)]
    for ours, theirs in zip(*likelihoods, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert "its layers are shared among processes" in err
    (record,) = two.glob("*/*/environment.json")
    (process,) = json.loads(record.read_text())["processes"]
    assert process["device"] == "target on 2 processes; draft on cpu"
    code, out, err = run(*TORCHRUN, *command, "tp_plan=auto", f"results_dir={two}")
    assert code == 0 and "complete already" in err, "followers that are never asked end too"


@pytest.mark.parallel
def test_cells_of_a_sweep_share_one_team_and_the_model_that_stays_loaded(sharded_llama: Path, tmp_path: Path) -> None:
    command = ["run.py", *RUN, *models(sharded_llama), "tp_plan=auto", f"results_dir={tmp_path}"]
    code, _, err = run(*TORCHRUN, *command, "seed=1,2", "-m")
    assert code == 0, err
    assert len(list(tmp_path.glob("*/*/summary.json"))) == 2


@pytest.mark.parallel
@pytest.mark.parametrize("rank", [0, 1])
def test_a_forward_that_fails_in_one_process_ends_all_cells(sharded_llama: Path, tmp_path: Path, rank: int) -> None:
    program = tmp_path / "failing.py"
    program.write_text(FAILING)
    command = [*RUN, *models(sharded_llama), "tp_plan=auto", f"results_dir={tmp_path}", "seed=1,2", "-m"]
    code, _, err = run(*TORCHRUN, program, rank, f"--config-path={ROOT / 'conf'}", *command)
    assert code == 1 and "RuntimeError: no kernel for this" in err
    assert not list(tmp_path.glob("*/*/summary.json"))


def test_processes_of_several_machines_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="works within one machine"), Team().together():
        pass


@pytest.mark.parallel
def test_a_leader_that_is_killed_takes_the_others_with_it(sharded_llama: Path, tmp_path: Path) -> None:
    command = ["run.py", *RUN, *models(sharded_llama), "tp_plan=auto", f"results_dir={tmp_path}", "limit=50"]
    team = start(*TORCHRUN, *command, "repeats=20")
    while not list(tmp_path.glob("*/*/samples.jsonl")):
        assert team.poll() is None, team.communicate()[1]
        time.sleep(0.2)
    leader, follower = sorted(children(team.pid), key=lambda pid: rank(pid))
    os.kill(leader, signal.SIGKILL)
    team.communicate(timeout=90)
    assert team.returncode != 0
    assert not Path(f"/proc/{follower}").exists()
    assert rows(tmp_path), "the rows so far are whole"


@pytest.mark.parallel
@pytest.mark.parametrize(
    ("family", "override", "message"),
    [
        (
            "sharded_opt",
            "tp_plan=auto",
            "has no tensor-parallel plan for opt; spread its layers over GPUs with device_map",
        ),
        ("sharded_llama", "tp_plan=null", "torchrun has started 2 processes: share the target with tp_plan=auto"),
    ],
)
def test_what_processes_cannot_share_is_refused_in_one_line_by_one_of_them(
    family: str, override: str, message: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pair = request.getfixturevalue(family)
    code, _, err = run(*TORCHRUN, "run.py", *RUN, *models(pair), override, f"results_dir={tmp_path}")
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 1 and len(errors) == 1 and message in errors[0]
    assert not list(tmp_path.iterdir())


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank(pid: int) -> int:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(int(one.partition(b"=")[2]) for one in variables if one.startswith(b"RANK="))


def source_of(pair: Path, **more: object):  # type: ignore[no-untyped-def]
    return find_model("model.target", ModelSpec(path=str(pair / "target"), **more))  # type: ignore[arg-type]


def test_opt_has_no_plan_and_is_told_of_device_map(sharded_opt: Path) -> None:
    with pytest.raises(
        UserError, match=r"no tensor-parallel plan for opt; spread its layers over GPUs with device_map"
    ):
        check_shared(source_of(sharded_opt), 2)


def test_heads_must_divide_among_the_processes_and_weights_be_whole_numbers_that_are_read(sharded_llama: Path) -> None:
    check_shared(source_of(sharded_llama), 2)
    with pytest.raises(UserError, match="4 processes cannot share its num_key_value_heads=2 equally"):
        check_shared(source_of(sharded_llama), 4)
    with pytest.raises(UserError, match="quantized weights are not shared"):
        check_shared(source_of(sharded_llama, bits=8), 2)
    drawn = ModelSpec("meta-llama/Llama-2-13b-hf", weights="random", scale="debug")
    with pytest.raises(UserError, match="only weights that are read can be shared"):
        check_shared(find_model("model.target", drawn), 2)
