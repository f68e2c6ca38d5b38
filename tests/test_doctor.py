"""The doctor: every check speaks whatever the others find, nothing is written, and what would fail is named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copy, copytree

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.hf_api import ModelInfo
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from transformers import (
    AutoConfig,
    BloomConfig,
    FalconConfig,
    GPTJConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen3NextConfig,
    T5Config,
)

import run as entry
from experiments.doctor import disk
from experiments.doctor.examine import diagnose
from experiments.doctor.finding import Finding
from experiments.doctor.slurm import Use, slurm
from experiments.plan import prepare
from experiments.settings import read_each
from mtad.attention import check_trees
from mtad.errors import UserError
from tests.checkpoints import POSITIONS, save_tokenizer
from tests.toy import ROOT, WORDS, composed_here

MODELS = sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml"))
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
ALWAYS = {"vocabulary", "disk", "device", "placement", "prompts", "task", "positions", "memory", "energy", "SLURM"}
Doctor = Callable[..., dict[str, Finding]]


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, an empty cache of the hub, and no job that these tests run in."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("SLURM_JOB_ID", "SLURM_STEP_NUM_TASKS", *TORCHRUN):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> Iterator[None]:
    """Hydra reads each file of conf once for all of these tests."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.fixture
def doctor(saved_pair: Path, tmp_path: Path) -> Doctor:
    """What the doctor finds of a run of the toy task on the saved pair, by check."""

    def found(*overrides: str, pair: Path = saved_pair) -> dict[str, Finding]:
        own = [] if any(one.startswith("model=") for one in overrides) else ["target", "draft"]
        paths = [f"model.{role}.path={pair / role}" for role in own]
        config = composed_here("task=toy", "reference=[]", *paths, f"results_dir={tmp_path / 'results'}", *overrides)
        findings = diagnose(read_each(config))
        assert not (tmp_path / "results").exists()
        return {finding.check: finding for finding in findings}

    return found


def failed(findings: dict[str, Finding]) -> set[str]:
    return {check for check, finding in findings.items() if finding.verdict == "fails"}


def test_a_pair_that_would_run_fails_in_nothing(doctor: Doctor) -> None:
    findings = doctor()
    assert not failed(findings) and findings.keys() >= ALWAYS
    assert findings["vocabulary"].found.startswith(f"{len(WORDS) + 2} tokens")
    assert findings["positions"].found == f"the longest prompt has 5 tokens with 12 new ones, of {POSITIONS} positions"


@pytest.mark.parametrize("name", MODELS)
def test_every_model_yaml_is_examined_offline_on_its_shapes(doctor: Doctor, name: str) -> None:
    findings = doctor(f"model={name}")
    assert findings.keys() >= {*ALWAYS, "target: attention", "draft: attention"}
    assert {findings[f"{role}: attention"].verdict for role in ("target", "draft")} == {"ok"}
    assert findings["vocabulary"].verdict == "ok"
    if name == "tiny":
        assert not failed(findings)
    else:
        assert failed(findings) - {"disk", "memory"} == {"target: access", "draft: access"}
        assert findings["positions"].verdict == "not checked" and "cannot be had" in findings["positions"].found
        assert "committed shape" in findings["memory"].found


def test_random_weights_need_no_access(doctor: Doctor) -> None:
    findings = doctor("model=llama2-13b", "model.weights=random", "model.scale=debug")
    assert not failed(findings)
    assert "not needed" in findings["target: shape"].found and findings["disk"].found == "nothing is to be downloaded"
    findings = doctor("model=llama2-7b", "model.draft.id=facebook/opt-125m", "model.weights=random")
    assert failed(findings) >= {"vocabulary"} and "50272 for draft" in findings["vocabulary"].found
    assert "pair" not in findings


def test_two_families_are_named_without_tokenizers(doctor: Doctor) -> None:
    finding = doctor("model=llama2-7b", "model.draft.id=facebook/opt-125m")["vocabulary"]
    assert finding.verdict == "fails" and finding.advice
    assert "llama-2 (meta-llama/Llama-2-7b-hf) and opt (facebook/opt-125m)" in finding.found


def test_two_tables_are_named_by_their_first_differing_token(doctor: Doctor, saved_pair: Path, tmp_path: Path) -> None:
    pair = copytree(saved_pair, tmp_path / "pair")
    save_tokenizer(pair / "draft", ["other", *WORDS[1:]])
    findings = doctor(pair=pair)
    assert failed(findings) == {"vocabulary"} and findings["memory"].verdict == "ok"
    assert "token 2 is 'w0'" in findings["vocabulary"].found and "'other'" in findings["vocabulary"].found


def test_seventy_billion_weights_do_not_fit_and_the_numbers_say_so(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.memory.device_memory", lambda device: (20 * 10**9, 25 * 10**9))
    finding = doctor("model=llama2-70b")["memory"]
    assert finding.verdict == "fails"
    assert all(said in finding.found for said in ("138.0 GB", "25.0 GB", "bits", "device_map"))
    monkeypatch.setattr("experiments.memory.device_memory", lambda device: (130 * 10**9, 192 * 10**9))
    assert doctor("model=llama2-70b")["memory"].verdict == "warning"


def test_a_prompt_that_is_too_long_is_named_and_memory_is_told_all_the_same(doctor: Doctor) -> None:
    findings = doctor("max_new_tokens=61")
    assert failed(findings) == {"positions"} and "prompt toy/0 has 5 tokens" in findings["positions"].found
    assert "for texts of all its positions" in findings["memory"].found
    assert "max_new_tokens=4096" in doctor("model=llama2-7b", "max_new_tokens=4096")["positions"].found


def test_an_unknown_dtype_is_named_and_the_rest_is_checked(doctor: Doctor) -> None:
    findings = doctor("dtype=int3")
    assert failed(findings) == {"target: dtype", "draft: dtype"}
    assert "unknown dtype 'int3'" in findings["target: dtype"].found and findings["memory"].verdict == "ok"
    assert "dtype=auto" in findings["target: dtype"].advice


def test_a_folder_without_weights_hides_nothing_of_the_draft(doctor: Doctor, saved_pair: Path, tmp_path: Path) -> None:
    pair = copytree(saved_pair, tmp_path / "pair")
    (pair / "target" / "model.safetensors").unlink()
    findings = doctor(pair=pair)
    assert failed(findings) == {"target: folder"} and "no weights" in findings["target: folder"].found
    assert not {finding.verdict for finding in findings.values()} - {"ok", "fails"}, "its configuration tells the rest"
    (pair / "target" / "config.json").unlink()
    findings = doctor(pair=pair)
    assert failed(findings) == {"target: folder"} and "no config.json" in findings["target: folder"].found
    assert findings["draft: attention"].verdict == "ok" and findings["memory"].verdict == "not checked"


def test_models_are_looked_for_once_for_several_tasks(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("mtad.sources.commit_of", lambda *wanted: asked.append(wanted) or "c" * 40)
    findings = doctor("model=llama2-7b", "tasks=[toy,{task: talk, refuses: true}]")
    assert len(asked) == 2
    assert findings["task (toy)"].verdict == "ok" and findings["task (talk)"].verdict == "fails"
    assert {"positions (toy)", "memory (talk)"} <= findings.keys()


def test_what_else_would_end_a_run_is_found(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    findings = doctor("chat=true", "device=cuda:77", f"results_dir={tmp_path / 'file' / 'results'}")
    assert failed(findings) == {"prompting", "device", "results"}
    assert "torchrun" in doctor("tp_plan=auto")["placement"].found


def test_opt_is_refused_tensor_parallelism_and_told_of_device_map(doctor: Doctor) -> None:
    finding = doctor("model=opt-13b", "tp_plan=auto")["tp_plan"]
    assert finding.verdict == "fails" and "device_map=auto" in finding.found


def test_bits_make_the_weights_smaller_by_the_shape_and_unknown_ones_are_named(doctor: Doctor) -> None:
    findings = doctor("model=llama2-70b", "model.target.bits=8")
    assert (
        findings["target: bits"].found.startswith("int8 weights (torchao") and "weights 69" in findings["memory"].found
    )
    findings = doctor("model.target.bits=3")
    assert failed(findings) == {"target: bits"} and "not 3" in findings["target: bits"].found


def test_only_what_is_not_in_the_cache_is_to_be_downloaded(
    doctor: Doctor, saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    siblings = [{"rfilename": f"model-0000{i}-of-00002.safetensors", "size": i * 10**9} for i in (1, 2)]
    siblings += [{"rfilename": name, "size": 9 * 10**9} for name in ("pytorch_model.bin", "original/model.pth")]
    snapshot = tmp_path / "hub" / "models--us--ours" / "snapshots" / ("c" * 40)
    copytree(saved_pair / "target", snapshot, ignore=lambda *_: ["model.safetensors"])
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("c" * 40)
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: ModelInfo(id="us/ours", siblings=siblings))
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", lambda *_, **__: AutoConfig.for_model("llama"))
    wanted = ("model.target.id=us/ours", "model.target.path=null")
    assert doctor(*wanted)["disk"].found.startswith("3.0 GB to be downloaded")
    (snapshot / str(siblings[1]["rfilename"])).write_text("")
    assert doctor(*wanted)["disk"].found.startswith("1.0 GB to be downloaded")
    monkeypatch.setattr(disk, "free_bytes", lambda folder: 10**8)
    assert doctor(*wanted)["disk"].verdict == "fails"
    copy(saved_pair / "target" / "model.safetensors", snapshot)
    findings = doctor(*wanted)
    assert findings["disk"].found.startswith("all weights are in the cache")
    assert findings["target: access"].found == "us/ours is readable, commit ccccccc"


@pytest.mark.parametrize(
    ("config", "longest", "said"),
    [
        (MambaConfig(), None, "recurrent"),
        (Qwen3NextConfig(), None, "recurrent"),
        (T5Config(), None, "encoder"),
        (BloomConfig(), None, "positions by itself"),
        (FalconConfig(alibi=True), None, "positions by itself"),
        (GPTJConfig(), None, "sdpa"),
        (MistralConfig(sliding_window=128), 129, "last 128 tokens"),
    ],
)
def test_models_that_cannot_read_trees_are_refused_with_the_reason(
    config: PretrainedConfig, longest: int | None, said: str
) -> None:
    with pytest.raises(UserError, match=rf"^the target \({config.model_type}\).*{said}"):
        check_trees("the target", config, longest)


@pytest.mark.parametrize("config", [LlamaConfig(), OPTConfig(), MistralConfig(sliding_window=128)])
def test_models_that_read_trees_pass(config: PretrainedConfig) -> None:
    check_trees("the target", config, 128)


CPU_RUN = Use(gpus=0, on_gpu=False, threads=2, bytes=10**9)
GPU_RUN = Use(gpus=2, on_gpu=True, threads=2, bytes=None)


@pytest.mark.parametrize(
    ("variables", "use", "verdict", "said"),
    [
        ({"SLURM_NTASKS": "4"}, CPU_RUN, "warning", "4 tasks"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, CPU_RUN, "fails", "start one (--ntasks=1)"),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, CPU_RUN, "ok", "job 7"),
        ({"SLURM_NTASKS": "2", "WORLD_SIZE": "2"}, CPU_RUN, "ok", "job 7"),
        ({"SLURM_GPUS_ON_NODE": "2"}, CPU_RUN, "fails", "torch sees 0"),
        ({"SLURM_JOB_GPUS": "0,1,3"}, GPU_RUN, "warning", "3 GPUs, and torch sees 2"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, GPU_RUN, "warning", "asked for no GPU"),
        ({"SLURM_GPUS_ON_NODE": "2"}, GPU_RUN, "ok", "2 GPUs on this node"),
        ({"SLURM_CPUS_PER_TASK": "1"}, CPU_RUN, "warning", "2 threads"),
        ({"SLURM_MEM_PER_NODE": "500"}, CPU_RUN, "fails", "needs 1.0 GB, and the job has 524.3 MB"),
        ({"SLURM_MEM_PER_CPU": "250", "SLURM_CPUS_ON_NODE": "2"}, CPU_RUN, "fails", "has 524.3 MB"),
        ({"SLURM_MEM_PER_NODE": "0"}, CPU_RUN, "ok", "job 7"),
        ({"SLURM_RESTART_COUNT": "2"}, CPU_RUN, "ok", "restarted 2 times"),
        (
            dict.fromkeys(("SLURM_NTASKS", "SLURM_GPUS_ON_NODE", "SLURM_CPUS_PER_TASK", "SLURM_MEM_PER_NODE"), "4(x2)"),
            CPU_RUN,
            "ok",
            "job 7",
        ),
    ],
)
def test_a_job_is_compared_with_the_run(variables: dict[str, str], use: Use, verdict: str, said: str) -> None:
    last = slurm({"SLURM_JOB_ID": "7", **variables}, use)[-1]
    assert last.verdict == verdict and said in last.found
    assert last.advice or verdict == "ok" or "start one" in last.found


def test_a_run_of_several_tasks_without_torchrun_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(UserError, match=r"^srun has started 2 tasks, and each would do the same run: start one "):
        prepare(*read_each(composed_here("task=toy")))


def test_the_command_ends_in_the_table_and_its_exit_code(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = [f"hydra.searchpath=[file://{ROOT}/tests/conf]", "task=toy", "doctor=true"]
    pair = [f"model.{role}.path={saved_pair / role}" for role in ("target", "draft")]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(GlobalHydra.instance(), "hydra", None)  # the command starts its own
    monkeypatch.setattr("mtad.loading.read_weights", lambda *_: pytest.fail("weights were read"))
    monkeypatch.setattr(sys, "argv", ["run.py", *toy, *pair])
    entry.main()
    assert "doctor: target+draft, toy" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["run.py", *toy, *pair, "max_new_tokens=64"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == "error: this would not run here, a check fails: positions"
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100 and "-> lower max_new_tokens" in printed
    assert not list(tmp_path.iterdir())


def test_threads_are_those_of_the_run(doctor: Doctor) -> None:
    before = torch.get_num_threads()
    try:
        assert doctor("threads=3")["device"].found == "cpu: 3 threads"
    finally:
        torch.set_num_threads(before)
