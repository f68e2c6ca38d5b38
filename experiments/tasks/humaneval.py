"""HumanEval: complete a Python function from its signature and docstring (Chen et al. 2021, arXiv 2107.03374).

The answer is run against the data set's tests, in a box: see `experiments/safety/sandbox.py`.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb, sqrt
from statistics import mean, stdev
from typing import Any

from experiments.dataset.row_task import Row, RowTask
from experiments.python_answer import parsed, solution
from experiments.safety.sandbox import Limits, Outcome, missing, program, run_python
from experiments.task import Prompt, Turn
from mtad.errors import UserError

_INSTRUCTION = (
    "Complete this Python function. Answer with the whole function in one ```python block, with its imports.\n\n"
)
_MOST_MB = 1_000_000
_TRIES = (1, 2, 5, 10, 100)  # the k of pass@k; the number of texts per prompt is one too
_EASY_ROW = {
    "prompt": 'def one():\n    """ Return 1. """\n',
    "entry_point": "one",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
}
_EASY = Prompt("the simplest function", (Turn(_EASY_ROW["prompt"]),), _EASY_ROW)


@dataclass(frozen=True, kw_only=True)
class HumanEval(RowTask):
    """A row is a function's beginning, with the tests that the whole of it must pass.

    Attributes:
        seconds: for the run of one answer.
        memory_mb: for each process of it.
        unsafe: whether answers run without the sandbox.
    """

    id: str | None = "openai/openai_humaneval"
    max_new_tokens: int = 512
    max_prompt_tokens: int | None = None
    seconds: float = 10.0
    memory_mb: int = 512
    unsafe: bool = False
    name: str = field(default="humaneval", init=False)
    stop: tuple[str, ...] = field(default=("\nclass", "\ndef", "\n#", "\nif", "\nprint"), init=False)
    heavy: bool = field(default=True, init=False)

    def check(self) -> None:
        """Nothing is generated that could not be run safely, unless the user takes the risk."""
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float) or not 0 < self.seconds < 86_400:
            raise UserError(
                f"task.seconds={self.seconds}: the time for one answer is a number above 0, and below a day"
            )
        if (
            isinstance(self.memory_mb, bool)
            or not isinstance(self.memory_mb, int)
            or not 0 < self.memory_mb <= _MOST_MB
        ):
            raise UserError(
                f"task.memory_mb={self.memory_mb}: the memory for an answer is a whole number of MB, 1 to {_MOST_MB}"
            )
        if not self.unsafe and (reason := missing()):
            raise UserError(
                f"task=humaneval runs code that a model wrote, and it cannot be boxed in here: {reason}; "
                "task.unsafe=true runs it without a sandbox, with your rights"
            )
        if self.grade(_EASY, "    return 1\n") != {"pass@1": 1.0, "timed_out": 0.0}:
            raise UserError(
                f"task=humaneval: not even the simplest right answer passes with task.seconds={self.seconds} and "
                f"task.memory_mb={self.memory_mb}; raise them"
            )

    def prompt(self, row: Row) -> Prompt:
        answer = {name: row.text(name) for name in ("prompt", "entry_point", "test")}
        if not re.search(rf"^(async )?def {re.escape(answer['entry_point'])}\b", answer["prompt"], re.MULTILINE):
            raise row.wrong("entry_point", "no function of the prompt", answer["entry_point"])
        if parsed(answer["prompt"]) is None:
            raise row.wrong("prompt", "no Python that ends in a documented function", answer["prompt"])
        if not _defines(answer["test"], "check"):
            raise row.wrong("test", "no Python that defines check()", answer["test"])
        return Prompt(row.text("task_id"), (Turn(answer["prompt"], instruction=_INSTRUCTION),), answer)

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        """Whether the function passes; an answer that runs out of time does not."""
        head, name = prompt.answer["prompt"], prompt.answer["entry_point"]
        task = json.dumps({"setting": head, "test": prompt.answer["test"]})
        frames = [part.encode("utf-8", "surrogatepass") for part in (solution(head, name, text), name, task)]
        outcome = self._run(frames)
        if _no_verdict(outcome):  # a lack of processes or memory may have passed since
            outcome = self._run(frames)
        if _no_verdict(outcome):
            reason = outcome.said.decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(
                f"task=humaneval: the sandbox itself failed on {prompt.id} ({'; '.join(reason)[:200]}): "
                f"raise task.memory_mb={self.memory_mb}, or grade again with fewer other processes on this machine"
            )
        return {"pass@1": float(outcome.said == b"passed"), "timed_out": float(outcome.timed_out)}

    def _run(self, frames: Sequence[bytes]) -> Outcome:
        limits = Limits(seconds=self.seconds, memory_mb=self.memory_mb)
        return run_python(program("box_check"), *frames, limits=limits, unsafe=self.unsafe)

    def figures(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """The authors' unbiased pass@k from the repeats, as many of each prompt as every prompt has."""
        passed: dict[str, list[float]] = defaultdict(list)
        for row in sorted(rows, key=lambda row: row["repeat"]):
            passed[row["prompt_id"]].append(row["grades"]["pass@1"])
        n = min(map(len, passed.values()), default=0)
        counts = [round(sum(found[:n])) for found in passed.values()]
        figures = {}
        for k in sorted(k for k in {*_TRIES, n} if 0 < k <= n):
            values = [pass_at(k, n, c) for c in counts]
            stderr = stdev(values) / sqrt(len(values)) if len(values) > 1 else None
            figures[f"pass@{k}"] = {"value": mean(values), "stderr": stderr}
        return figures


def _no_verdict(outcome: Outcome) -> bool:
    """Whether the box itself failed: no answer can say anything there."""
    return bool(outcome.said) and not outcome.said.startswith((b"passed", b"failed"))


def _defines(text: str, name: str) -> bool:
    tree = parsed(text)
    return any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body) if tree else False


def pass_at(k: int, n: int, c: int) -> float:
    """The probability that of `k` texts at least one passes, given that `c` of `n` did."""
    return 1.0 - comb(n - c, k) / comb(n, k)
