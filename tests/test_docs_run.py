"""The main commands of the documentation run, at a small size; of every other one it is said why no test runs it.

A command in a block of a page is in `RUN`, and is really run, or has a reason in `NOT_RUN`. One in neither fails, so
whoever prints a new command decides which it is. `tests/test_docs.py` holds all of them to what programs accept.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import PythonRun
from tests.doc_commands import Command, commands, pages
from tests.toy import ROOT

EVERY = [command for page in pages() for command in commands(page)]
FENCED = [command for command in EVERY if command.fenced]

SMALL = ("limit=1", "max_new_tokens=8")
RUN: Mapping[str, Sequence[str]] = {  # overrides of each in README and docs -> what makes it small
    "": SMALL,
    "decoder=mmtad decoder.gamma=8 task=code": SMALL,
    "decoder=mjgd reference=[autoregressive,mtad] limit=50 repeats=3": ("limit=1", "repeats=2", "max_new_tokens=8"),
    "reference=all sampling=greedy": ("limit=1", "max_new_tokens=4"),
    "reference=[autoregressive,{decoder: mtad, tau: 0.1, label: low}]": SMALL,
    "experiment=figure1 debug=tiny": SMALL,
    "experiment=tune reference=all": (*SMALL, "reference=[autoregressive,mmtad]", "tune.trials=2", "tune.prompts=1"),
    "--help": (),
    "task=lm_eval task.name=local_sums task.include=tests/fixtures/lm_eval": (
        *SMALL,
        f"task.include={ROOT}/tests/fixtures/lm_eval",
    ),
}
NOT_RUN = (  # pattern, and why no test runs what it matches
    (r"-m scripts\.|-m experiments\.(rescore|replay)", "on real results: the chains below, and tests of their own"),
    (r"-m experiments\.conformance", "tests/test_conformance.py runs the kit"),
    (r"^make test", "that is what runs this"),
    (r"\bpip install", "needs a package index; .ci/run installs from one"),
    (r"^(git|cd|export|wandb|hf|huggingface-cli|sbatch) ", "not this project's, see tests/doc_commands.py"),
    (r"tracker=wandb", "needs wandb's servers or leaves a run for them; tests/test_tracker.py"),
    (r"hydra/launcher=slurm", "needs a cluster; tests/test_slurm.py starts one"),
    (r"^torchrun ", "needs four GPUs; tests/test_parallel.py runs two processes"),
    (r"/(data|models|scratch)/", "files of the reader's"),
    (r"task=\S*\b(gsm8k|humaneval)\b|--tasks gsm8k", "data of the hub; tests/test_tasks.py runs them on own rows"),
    (r"model=(llama|opt|vicuna|qwen|smollm)", "weights of gigabytes, most of them gated, or a GPU"),
    (r"experiment=(?!\S+ debug=tiny)", "a pair of the paper, so weights of gigabytes and a GPU"),
    (r"experiment=glob\(\*\) debug=tiny", "takes minutes; the chain below sweeps over a part of it"),
    (r"-m experiments\.lm_eval --model mtad --tasks local_sums", "tests/test_lm_eval.py runs it"),
    (r"model=tiny .*results_dir=traced", "the chain of a replay below"),
)


def plain(command: Command) -> str:
    """Without quotes."""
    return " ".join(command.words)


def overrides(command: Command) -> str | None:
    """What a command gives to run.py, as one line; None if it is another program's."""
    words = [word for word in command.words if word not in {".venv/bin/python", "python"}]
    if words[:2] == ["make", "run"]:
        given = dict(word.split("=", 1) for word in words[2:]).get("ARGS", "")
        return " ".join(shlex.split(given))
    return " ".join(words[1:]) if words[0] == "run.py" else None


def smaller(words: Sequence[str], small: Sequence[str]) -> list[str]:
    """The words, but those of which `small` has another value."""
    keys = {one.split("=")[0] for one in small}
    return [*(word for word in words if word.split("=")[0] not in keys), *small]


def split(line: str) -> list[str]:
    """Overrides of a line in RUN: spaces part them outside of brackets only."""
    return re.findall(r"(?:\[[^\]]*\]|\S)+", line)


def test_every_command_is_run_or_it_is_said_why_not() -> None:
    unclassified = [
        f"{command.page}: {command.text}"
        for command in FENCED
        if overrides(command) not in RUN and not any(re.search(pattern, plain(command)) for pattern, _ in NOT_RUN)
    ]
    assert not unclassified


def test_what_is_run_or_excused_is_printed_somewhere() -> None:
    printed = {overrides(command) for command in EVERY}
    assert not set(RUN) - printed
    assert not [pattern for pattern, _ in NOT_RUN if not any(re.search(pattern, plain(one)) for one in FENCED)]


@pytest.mark.platform
@pytest.mark.parametrize("line", RUN)
def test_a_printed_command_runs(line: str, python_run: PythonRun, tmp_path: Path) -> None:
    words = split(line) if line == "--help" else [*smaller(split(line), RUN[line]), f"results_dir={tmp_path}"]
    code, out, err = python_run(*words)
    assert code == 0, err
    if line == "--help":
        assert "Groups" in out
    else:
        assert "(run " in out and list(tmp_path.glob("*/*/summary.json"))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`python -m MODULE ARGUMENTS` in this process, which must end well."""

    def called(module: str, *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        importlib.import_module(module).main()

    return called


@pytest.mark.platform
def test_from_a_sweep_to_a_paper_as_printed(
    python_run: PythonRun, call: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = python_run("-m", "experiment=table1,ablation_width", "debug=tiny", *SMALL, "results_dir=sweep")
    assert code == 0, err
    printed = [one.words for one in FENCED if one.page == "README.md" and "sweep --out paper" in one.text]
    assert len(printed) == 4
    for words in printed:
        call(*words[2:])
    made = {path.suffix for path in Path("paper").iterdir()}
    assert made >= {".tex", ".md", ".csv", ".pdf", ".png", ".json", ".html"}
    (run,) = Path("sweep/tiny-sql-table1").iterdir()
    prompt = re.search(r'"prompt_id": ?"([^"]+)"', (run / "samples.jsonl").read_text(encoding="utf-8"))
    assert prompt
    call("scripts.trace", str(run), prompt[1], "--variants", "mtad")
    call("experiments.rescore", str(run))


@pytest.mark.platform
def test_a_trace_is_made_and_replayed_as_printed(
    python_run: PythonRun, call: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, _, third = [one.words for one in FENCED if one.page == "docs/replay.md"]
    code, _, err = python_run(*first[2:], *SMALL)
    assert code == 0, err
    call("experiments.replay.__main__", *third[3:], "results_dir=replayed")
    assert list(Path("replayed").glob("llama2-13b-random-debug-replay-*/*/summary.json"))
