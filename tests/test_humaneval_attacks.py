"""HumanEval: no answer forges its verdict, and none ends the run that grades it."""

from __future__ import annotations

from textwrap import indent
from typing import Any

import pytest

from experiments.safety.sandbox import Outcome, missing, run_python
from experiments.tasks import humaneval
from tests.humaneval_rows import FAILED, PASSED, grade, rows


@pytest.fixture
def _box() -> None:
    if reason := missing():
        pytest.skip(reason)


FORGERIES = {  # bodies of the function, indented below
    "leaves": "import os; os._exit(0)",
    "leaves politely": "raise SystemExit(0)",
    "prints": "print('passed', flush=True)",
    "writes everywhere": """
import os
for descriptor in range(1024):
    try: os.write(descriptor, b'passed')
    except OSError: pass
os._exit(0)""",
    "replies with nonsense": """
import os
for descriptor in range(3, 64):
    try: os.write(descriptor, b'{"value": {"eval": []}}\\n')
    except OSError: pass""",
    "equals everything": """
class Any(int):
    __eq__ = __le__ = __lt__ = lambda *_: True
    __hash__ = None
return Any(7)""",
    "is no data": """
class Any:
    __eq__ = lambda *_: True
return Any()""",
    "asserts nothing": """
import builtins
builtins.AssertionError = type('Nothing', (BaseException,), {})
builtins.isinstance = lambda *_: True""",
    "kills the judge": "import os\nos.kill(os.getppid(), 9)",
    "forks": "import os\nos.fork() or os._exit(0)\nprint('passed')",
    "at exit": "import atexit\natexit.register(print, 'passed')\nreturn 0",
    "patches the packing": "import json\njson.dumps = lambda *_: '7'\njson.loads = lambda *_: [[], {}]",
    "raises the recursion limit": "import sys\nsys.setrecursionlimit(10**9)\nreturn second_largest(numbers)",
}


@pytest.mark.attacks
@pytest.mark.usefixtures("_box")
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_verdict_does_not_count(name: str) -> None:
    assert grade(indent(FORGERIES[name], "    "), rows()[0], seconds=1)["pass@1"] == 0.0


@pytest.mark.attacks
@pytest.mark.usefixtures("_box")
@pytest.mark.parametrize(
    "attack",
    [
        *(f"os.kill(os.getppid(), {number})" for number in (1, 2, 3, 10, 13, 15)),
        "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))",
        "resource.prlimit(os.getppid(), resource.RLIMIT_AS, (1, 1))",
    ],
)
def test_an_attack_on_the_judge_fails_the_answer_and_not_the_run(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[Outcome] = []

    def run(*frames: Any, **options: Any) -> Outcome:
        outcomes.append(run_python(*frames, **options))
        return outcomes[-1]

    monkeypatch.setattr(humaneval, "run_python", run)
    text = f"```python\nimport os, resource\n{attack}\ndef second_largest(numbers): return 0\n```"
    for _ in range(4):
        assert grade(text, rows()[0])["pass@1"] == 0.0
    assert len(outcomes) == 4, outcomes  # none was a failure of the box, to be tried again


@pytest.mark.attacks
@pytest.mark.usefixtures("_box")
def test_a_program_that_ends_before_it_defines_anything_fails() -> None:
    for end in (
        "check = lambda candidate: None; exit()",
        "import os; os._exit(0)",
        "exit()",
        "raise SystemExit",
        "print('passed'); import os; os._exit(0)",
    ):
        block = f"```python\n{end}\ndef second_largest(numbers): return 2\n```"
        assert grade(block, rows()[0]) == FAILED


@pytest.mark.attacks
@pytest.mark.usefixtures("_box")
def test_the_answers_process_has_two_pipes_and_nothing_else() -> None:
    pipes = """
    import os
    found = {}
    for descriptor in range(1024):
        try: found[descriptor] = os.fstat(descriptor).st_mode >> 12  # 1: pipe, 2: character device
        except OSError: pass
    return 2 if sorted(found.values()) == [1, 1, 2, 2, 2] and found[0] == found[1] == found[2] == 2 else found
"""
    always_two = {**rows()[0], "test": "def check(candidate):\n    assert candidate([1]) == 2\n"}
    assert grade(pipes, always_two) == PASSED


@pytest.mark.attacks
@pytest.mark.usefixtures("_box")
def test_the_answers_process_holds_no_text_of_the_test() -> None:
    # What it looks for is not in its own constants: an expected value of the test, with what stands before it.
    spy = """
    import gc, sys
    seen, frame = [repr(thing) for thing in gc.get_objects()], sys._getframe()
    while frame:
        seen.append(repr(frame.f_locals) + repr(frame.f_globals))
        frame = frame.f_back
    return {answer} if any("== " + str(98) in text for text in seen) else {other}
"""
    honest = "sorted(set(numbers))[-2]"
    assert grade(spy.format(answer=0, other=honest), rows()[0]) == PASSED
    assert grade(spy.format(answer=honest, other=0), rows()[0]) == FAILED
