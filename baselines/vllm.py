"""vLLM with a draft model, in a process of its own; optional, and left out where vLLM is not installed.

Kwon et al.: "Efficient Memory Management for Large Language Model Serving with PagedAttention", arXiv 2309.06180; its
speculative decoding follows Leviathan, Kalman, Matias, arXiv 2211.17192.

    draft   x_1..x_gamma, one by one, by vLLM's `draft_model` method
    verify  by vLLM's own rejection sampler

The paper's defaults: none for drafts. What differs here: one text at a time, as everything here is measured. It has
never been run against a real vLLM, only against a stand-in of the few names it uses (tests/test_vllm.py); so it is not
called lossless either, and vLLM is reported to verify drafts without their probabilities (its issue 40149). It needs
the checkpoints of both models where vLLM finds them, and `memory` of the GPU beside the pair already loaded there.
vLLM does not tell how many tokens each forward was fed: rounds are the steps of its engine, each after the first taken
to have drafted gamma, and forwards are counted by that scheme; their times are null. Prefill is a request for the
prompt but its last token, whose blocks vLLM then finds in its prefix cache. Padded rows of embeddings are not excluded.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from tempfile import TemporaryFile
from time import perf_counter
from typing import Any
from weakref import finalize

from baselines.hf_shared import model_of
from mtad.counts import Counts
from mtad.decoder import Round, Source, Text, Written
from mtad.errors import UserError
from mtad.model import CausalModel
from mtad.options import at_least
from mtad.session import Reader


@dataclass(frozen=True)
class Vllm:
    """One text at a time from a vLLM that lives as long as this process.

    Attributes:
        gamma: draft length in tokens.
        memory: share of the GPU's memory that vLLM may take.
    """

    gamma: int = 4
    memory: float = 0.4

    joint = False
    drafts = True
    lossless = False

    def __post_init__(self) -> None:
        at_least("gamma", self.gamma, 1)
        at_least("memory", self.memory, 0)
        if self.memory > 1:
            raise UserError(f"memory must be a share of the GPU's memory, in [0, 1], not {self.memory!r}")

    @staticmethod
    def missing() -> str | None:
        """Why it cannot run here, if so."""
        return None if importlib.util.find_spec("vllm") else "vllm is not installed"

    def run(self, text: Text, target: Reader, draft: Reader) -> Written:
        started = perf_counter()
        worker = self._worker(model_of(target), model_of(draft))
        prepared = perf_counter() - started
        warp = target.warp
        answer = worker.ask(
            prompt=list(text.tokens),
            max_tokens=text.room,
            temperature=0.0 if text.greedy else warp.temperature,
            top_k=-1 if text.greedy or not warp.top_k else warp.top_k,
            top_p=1.0 if text.greedy else warp.top_p,
            stop=list(text.stop),
            stop_token_ids=sorted(text.eos),
            seed=int(text.luck.last(text.start) * 2**31),
        )
        rounds = self._rounds(answer["tokens"], answer["lengths"])
        fed = Counter(step.drafted + 1 for step in rounds)
        drafted = Counter({1: sum(step.drafted for step in rounds)})
        counts = Counts(fed, timed=False), Counts(drafted, timed=False)
        return Written(rounds, *counts, answer["prefill_seconds"], prepared)

    def _rounds(self, tokens: Sequence[int], lengths: Sequence[int]) -> list[Round]:
        """One for each step of the engine; the first only reads what is left of the prompt."""
        rounds = []
        for start, end in pairwise([0, *lengths]):
            drafted, accepted = (self.gamma if start else 0), end - start - 1
            last = Source.CORRECTED if accepted < drafted else Source.TARGET
            sources = (Source.DRAFT,) * accepted + (last,)
            rounds.append(Round(tuple(tokens[start:end]), sources, drafted, accepted, drafted))
        return rounds

    def _worker(self, target: CausalModel, draft: CausalModel) -> Worker:
        """The process that serves this pair and these options. Raises UserError."""
        if reason := self.missing():
            raise UserError(f"decoder vllm cannot run here: {reason}")
        load = {
            "target": target.lm.name_or_path,
            "target_revision": getattr(target.lm.config, "_commit_hash", None),
            "draft": draft.lm.name_or_path,
            "draft_revision": getattr(draft.lm.config, "_commit_hash", None),
            "dtype": str(target.lm.dtype).removeprefix("torch."),
            "max_model_len": min(target.max_positions, draft.max_positions),
            "gamma": self.gamma,
            "memory": self.memory,
        }
        key = f"{id(target.lm)} {json.dumps(load)}"
        if key not in _WORKERS:
            _WORKERS[key] = Worker(load)
            finalize(target.lm, _let_go, _WORKERS, key)  # the next pair needs the device's memory
        return _WORKERS[key]


class Worker:
    """The other process, spoken to in lines of JSON; it ends at this process's exit, whatever kind that is."""

    def __init__(self, load: Mapping[str, Any]) -> None:
        """Starts it and waits until vLLM has loaded. Raises UserError."""
        self._log = TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "baselines.vllm_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            encoding="utf-8",
            # The engine's loop within that process: its steps are then forwards, and no further process is left over.
            env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        )
        atexit.register(self.end)
        self.ask(**load)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer. Raises UserError if vLLM has ended."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin and stdout
        try:
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UserError(f"vllm ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End the process, if it still runs."""
        self._process.kill()
        self._process.wait()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else "it said nothing"


def _let_go(workers: dict[str, Worker], key: str) -> None:
    workers.pop(key).end()


_WORKERS: dict[str, Worker] = {}  # by model and what it was told to load; a worker ends with its model
