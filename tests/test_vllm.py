"""The engine of vLLM against a stand-in with the few names it uses: the lines between the processes, no real speed."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pytest

from baselines import vllm
from baselines.vllm import Vllm
from mtad.decoder import Engine, Source
from mtad.errors import UserError
from mtad.law import Sampling
from mtad.model import CausalModel
from tests.fakes import TableModel, llama
from tests.helpers import PURE, write

ROOT = Path(__file__).parents[1]
STAND_IN = '''
"""Writes prompt[-1] + 1, + 2, ... modulo 26, in steps of 1, 3, 2, 3, 2, ... tokens."""
import json, os
from types import SimpleNamespace
__version__ = "0.stand-in"
print("what vLLM prints")

class SamplingParams(SimpleNamespace):
    pass

class LLM:
    def __init__(self, **load):
        print("loading", load)
        if load["model"] == "broken":
            raise RuntimeError("no room on the GPU")
        self.llm_engine = Engine()
        note(load)

    def reset_prefix_cache(self):
        pass

def note(what):
    with open(os.environ["STAND_IN_LOG"], "a") as log:
        log.write(json.dumps(what) + "\\n")

class Engine:
    steps = None

    def add_request(self, name, prompt, params):
        ids = prompt["prompt_token_ids"]
        note({"prompt": ids, **vars(params)})
        tokens = [(ids[-1] + 1 + i) % 26 for i in range(params.max_tokens)]
        text = "".join(chr(ord("a") + token) for token in tokens)
        ends = [text.find(stop) + len(stop) for stop in getattr(params, "stop", []) if stop in text]
        ends += [tokens.index(token) + 1 for token in getattr(params, "stop_token_ids", []) if token in tokens]
        tokens = tokens[: min(ends, default=len(tokens))]
        lengths, size = [], 1
        while not lengths or lengths[-1] < len(tokens):
            lengths.append(min(len(tokens), (lengths[-1] if lengths else 0) + size))
            size = 2 if size == 3 else 3
        self.steps = [tokens[:length] for length in lengths]

    def has_unfinished_requests(self):
        return bool(self.steps)

    def step(self):
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=self.steps.pop(0))])]
'''


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The log of a stand-in that both processes import as vllm."""
    (tmp_path / "vllm.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(vllm, "_WORKERS", {})
    yield tmp_path / "log"
    for worker in vllm._WORKERS.values():
        worker.end()


def named(name: str) -> CausalModel:
    model = llama(0)
    model.lm.name_or_path = name
    return model


def test_texts_rounds_and_counts_come_from_the_other_process(stand_in: Path) -> None:
    output = write(Vllm(gamma=4), named("big"), named("little"), [3, 5], limit=9)
    assert output.tokens == tuple(range(6, 15)) and output.finish == "limit"
    assert [(len(step.tokens), step.drafted, step.accepted) for step in output.rounds] == [
        (1, 0, 0),
        (3, 4, 2),
        (2, 4, 1),
        (3, 4, 2),
    ]
    assert output.rounds[1].sources == (Source.DRAFT, Source.DRAFT, Source.CORRECTED)
    assert output.target.reads == Counter({5: 3, 1: 1}) and output.draft.forwards == 12
    assert output.phases["target"] is None and output.prefill_seconds >= 0 and output.decode_seconds < 1


def test_the_other_process_is_told_everything_and_started_once(stand_in: Path) -> None:
    models = named("big"), named("little")
    write(Vllm(gamma=3), *models, [3, 5], limit=4, eos=[7], sampling=Sampling(0.7, 0, 0.9))
    write(Vllm(gamma=3), *models, [4], limit=4, stop=["gh"], sampling=Sampling(greedy=True))
    load, prefill, first, second = map(json.loads, stand_in.read_text(encoding="utf-8").splitlines())
    assert (load["model"], load["dtype"], load["max_model_len"]) == ("big", "float32", 512)
    assert load["speculative_config"]["model"] == "little"
    assert load["speculative_config"]["num_speculative_tokens"] == 3
    assert prefill == {"prompt": [3], "max_tokens": 1}
    assert (first["temperature"], first["top_k"], first["top_p"]) == (0.7, -1, 0.9)
    assert first["stop_token_ids"] == [7] and first["ignore_eos"] is True and first["prompt"] == [3, 5]
    assert second["temperature"] == 0 and second["stop"] == ["gh"] and second["prompt"] == [4]


def test_ends_are_ours(stand_in: Path) -> None:
    models = named("big"), named("little")
    assert write(Vllm(), *models, [3], limit=20, eos=[9]).finish == "eos"
    stopped = write(Vllm(), *models, [3], limit=20, stop=["gh"])
    assert stopped.finish == "stop" and stopped.text == "ef"


def test_what_vllm_dies_of_is_one_line(stand_in: Path) -> None:
    with pytest.raises(UserError, match=r"vllm ended: RuntimeError: no room on the GPU$"):
        write(Vllm(), named("broken"), named("little"))


def test_it_ends_with_the_process_that_started_it_even_if_that_is_killed(stand_in: Path) -> None:
    program = (
        "from tests.test_vllm import named, write, Vllm, vllm\n"
        "models = named('big'), named('little')\n"
        "write(Vllm(), *models)\n"
        "print(next(iter(vllm._WORKERS.values()))._process.pid, flush=True)\n"
        "input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert parent.stdout
    worker = int(parent.stdout.readline())
    assert running(worker)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    for _ in range(100):
        if not running(worker):
            return
        sleep(0.05)
    pytest.fail("the worker outlives its parent")


def test_it_ends_with_the_model_that_it_stands_for(stand_in: Path) -> None:
    models = named("big"), named("little")
    write(Vllm(), *models, [3], limit=4)
    (worker,) = (worker._process.pid for worker in vllm._WORKERS.values())
    assert running(worker)
    del models
    gc.collect()
    assert not running(worker) and not vllm._WORKERS


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_vllm_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm.importlib.util, "find_spec", lambda name: None)
    assert Vllm.missing() == "vllm is not installed"
    with pytest.raises(UserError, match=r"decoder vllm cannot run here: vllm is not installed$"):
        write(Vllm(), named("big"), named("little"), sampling=PURE)


def test_it_is_an_engine_for_models_of_transformers(stand_in: Path) -> None:
    assert isinstance(Vllm(), Engine) and Vllm.missing() is None
    with pytest.raises(UserError, match="transformers' own code"):
        write(Vllm(), TableModel([[1, 1], [1, 1]]), TableModel([[1, 1], [1, 1]]))
    with pytest.raises(UserError, match="gamma"):
        Vllm(gamma=0)
