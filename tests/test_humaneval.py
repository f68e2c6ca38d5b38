"""HumanEval: right functions pass however they are written down, wrong ones and forgers do not, pass@k is unbiased."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from textwrap import indent

import pytest
from omegaconf import OmegaConf

from experiments.dataset.row_task import Row
from experiments.fences import fenced
from experiments.safety.sandbox import missing
from experiments.task import Prompt
from experiments.tasks.humaneval import HumanEval, pass_at, solution
from mtad.errors import UserError

ROWS = Path(__file__).parent / "fixtures" / "humaneval.jsonl"
PASSED = {"pass@1": 1.0, "timed_out": 0.0}
FAILED = {"pass@1": 0.0, "timed_out": 0.0}


@pytest.fixture
def _box() -> None:
    if reason := missing():
        pytest.skip(reason)


def rows(path: Path = ROWS) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompt(row: dict[str, str]) -> Prompt:
    return HumanEval().prompt(Row(row, 1, "here"))


def grade(text: str, row: dict[str, str], **options: float) -> dict[str, float]:
    return dict(HumanEval(**options).grade(prompt(row), text))  # type: ignore[arg-type]


def written(row: dict[str, str]) -> dict[str, str]:
    """The gold answer as models may write it down."""
    body = row["canonical_solution"]
    head = row["prompt"].split("def " + row["entry_point"])[1]
    whole = f"def {row['entry_point']}{head}{body}"
    return {
        "continued": body,
        "continued, then prose after a fence": f"{body}```\n\nThis returns what was asked for, isn't it?",
        "in a block": f"Sure! Here it is:\n\n```python\n{whole}\n```\n\nHope that helps.",
        "in a block after a blank": f" Sure:\n```py\n{whole}\n```",
        "in a block that is not closed": f"```python\n{whole}",
        "bare": whole,
        "the body alone in a block": f"Here is the body:\n```python\n{body}```",
        "with the prompt's other functions": f"```python\n{row['prompt']}{body}\n```",
    }


@pytest.mark.usefixtures("_box")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row["entry_point"])
def test_the_gold_function_passes_however_it_is_written_down(row: dict[str, str]) -> None:
    for name, text in written(row).items():
        assert grade(text, row) == PASSED, name


@pytest.mark.usefixtures("_box")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row["entry_point"])
@pytest.mark.parametrize(
    "text", ["", "    return None\n", "    pass", "    return 2\n", "\x00", "\ud800", "    return (" * 3000]
)
def test_wrong_functions_and_nonsense_fail_without_raising(text: str, row: dict[str, str]) -> None:
    assert grade(text, row) == FAILED


@pytest.mark.usefixtures("_box")
def test_a_megabyte_of_anything_is_graded() -> None:
    for part in (" ", "`", "```\n", "x", "\n", "    x\n", "é"):
        assert grade(part * (1_000_000 // len(part)), rows()[0])["pass@1"] == 0.0


@pytest.mark.usefixtures("_box")
def test_an_answer_that_takes_too_long_is_said_to() -> None:
    assert grade("    while True: pass\n", rows()[0], seconds=1) == {"pass@1": 0.0, "timed_out": 1.0}


@pytest.mark.usefixtures("_box")
def test_subclasses_of_plain_data_count_as_plain_data() -> None:
    places = rows()[2]["canonical_solution"]
    for change in (
        "import collections\n    places = collections.OrderedDict()",
        "import collections as c\n    places = c.defaultdict(list)",
    ):
        assert grade("    " + change + places.removeprefix("    places = {}"), rows()[2]) == PASSED


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


@pytest.mark.parametrize(
    "text", ["    return sorted(set(numbers))[-2]\n", "    return 0\n", "    import os; os._exit(0)\n"]
)
def test_without_the_sandbox_the_grades_are_the_same(text: str) -> None:
    assert grade(text, rows()[0], unsafe=True)["pass@1"] == float("sorted" in text)


def test_without_the_sandbox_the_task_refuses_unless_told_to_be_unsafe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing.cache_clear()
    try:
        with pytest.raises(UserError, match=r"cannot be boxed in here: .*task\.unsafe=true") as caught:
            HumanEval().check()
        HumanEval(unsafe=True).check()
    finally:
        missing.cache_clear()
    assert "\n" not in str(caught.value)


def test_the_defaults_pass_the_check_without_the_sandbox() -> None:
    HumanEval(unsafe=True).check()


@pytest.mark.usefixtures("_box")
def test_the_defaults_pass_the_check_in_the_sandbox() -> None:
    HumanEval().check()


@pytest.mark.parametrize(
    "options", [{"memory_mb": 8}, {"memory_mb": -1}, {"seconds": 0.001}, {"seconds": float("nan")}]
)
def test_limits_that_no_answer_can_keep_are_refused_before_anything_is_generated(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"task\.(memory_mb|seconds)=") as caught:
        HumanEval(unsafe=True, **options).check()  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_new_function_keeps_the_prompts_imports_and_replaces_its_beginning() -> None:
    row = rows()[1]
    text = solution(row["prompt"], "unshift", "```python\ndef unshift(text):\n    return 1\n```")
    assert text.startswith("import string") and "def shift" in text
    assert text.count("def unshift") == 1 and text.endswith("    return 1\n")


def test_a_row_without_its_test_is_named() -> None:
    row = {key: value for key, value in rows()[0].items() if key != "test"}
    with pytest.raises(UserError, match="here: row 1 has no field 'test'"):
        prompt(row)


def test_the_task_survives_pickling_and_its_yaml_names_its_options() -> None:
    task = HumanEval(path=str(ROWS))
    assert pickle.loads(pickle.dumps(task)) == task
    config = OmegaConf.load(Path(__file__).parents[1] / "conf" / "task" / "humaneval.yaml")
    options = {key: value for key, value in config.items() if key != "_target_"}
    assert options["licence"] == "MIT" and "2107.03374" in options["citation"]
    assert HumanEval(**options).unsafe is False


def graded(passed: Sequence[Sequence[int]]) -> list[dict[str, object]]:
    """Rows of prompts whose repeats passed or not."""
    return [
        {"prompt_id": f"p{i}", "repeat": j, "grades": {"pass@1": float(value), "timed_out": 0.0}}
        for i, repeats in enumerate(passed)
        for j, value in enumerate(repeats)
    ]


def test_pass_at_k_is_the_mean_over_all_choices_of_k_texts() -> None:
    for n, c in ((5, 0), (5, 2), (6, 5), (4, 4)):
        found = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            assert pass_at(k, n, c) == pytest.approx(mean(map(max, itertools.combinations(found, k))))


def test_figures_are_means_over_prompts_with_their_error() -> None:
    figures = HumanEval().figures(graded([[1, 0, 0], [0, 0, 0], [1, 1, 1, 0]]))  # three of each prompt
    assert list(figures) == ["pass@1", "pass@2", "pass@3"]
    values = [1 / 3, 0, 1]
    assert figures["pass@1"]["value"] == pytest.approx(mean(values))
    assert figures["pass@1"]["stderr"] == pytest.approx(stdev(values) / sqrt(3))
    assert figures["pass@3"]["value"] == pytest.approx(2 / 3)


def test_one_repeat_gives_pass_at_one_alone_and_one_prompt_no_error() -> None:
    assert HumanEval().figures(graded([[1]])) == {"pass@1": {"value": 1.0, "stderr": None}}
    assert HumanEval().figures([]) == {}


@pytest.mark.usefixtures("_box")
def test_real_canonical_solutions_pass_and_corrupted_ones_fail(data: Path) -> None:
    sample = rows(data / "humaneval" / "HumanEval.jsonl")[::6]
    assert len(sample) > 20
    for row in sample:
        gold = row["canonical_solution"]
        assert grade(gold, row) == PASSED, row["task_id"]
        assert grade(f"    return None\n{gold}", row) == FAILED, row["task_id"]


def test_fences_yield_the_block_of_the_language_asked_for() -> None:
    assert fenced("no fence at all", "sql") == "no fence at all"
    assert fenced("a\n```sql\nSELECT 1\n```\nb", "sql") == "SELECT 1\n"
    assert fenced("```text\nx\n```\n~~~SQL\ny\n~~~", "sql") == "y\n"
    assert fenced("```text\nx\n```", "sql") == "x\n"
    assert fenced("1. So:\n   ```\n   a\n     b\n   ```", "py") == "a\n  b\n"
    assert fenced("````\n```\nx\n```\n````") == "```\nx\n```\n"
    assert fenced("```py\nx = 1") == "x = 1\n"
    assert fenced("`x` and ```y```") == "`x` and ```y```"
