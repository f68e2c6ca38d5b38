"""HumanEval: right functions pass however they are written down, wrong ones and forgers do not, pass@k is unbiased."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev

import pytest
from omegaconf import OmegaConf

from experiments.safety.sandbox import Outcome, missing
from experiments.tasks import humaneval
from experiments.tasks.humaneval import HumanEval, pass_at
from mtad.errors import UserError
from tests.humaneval_rows import FAILED, PASSED, ROWS, grade, prompt, rows


@pytest.fixture
def _box() -> None:
    if reason := missing():
        pytest.skip(reason)


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


ANSWERS = {  # the function, and what of it the test sees
    "a huge number": ("return 10**6000", "candidate() == 10**6000 and candidate() > 0"),
    "a generator": ("return (i for i in range(3))", "list(candidate()) == [0, 1, 2] and candidate() != [0, 1, 2]"),
    "a range": ("return range(3)", "candidate() == range(3) and candidate() != [0, 1, 2]"),
    "an endless iterator": ("import itertools\n    return itertools.count()", "next(candidate()) == 0"),
    "a dataclass": (
        "return Point(1).x\nimport dataclasses\n@dataclasses.dataclass\nclass Point:\n    x: 'int'",
        "candidate() == 1",
    ),
    "an error of its own": ("class Wrong(KeyError): pass\n    raise Wrong", "raised(candidate) is KeyError"),
    "an error of a library": ("import json\n    json.loads('x')", "raised(candidate) is ValueError"),
}


@pytest.mark.usefixtures("_box")
@pytest.mark.parametrize("name", ANSWERS)
def test_the_test_sees_what_the_function_gives(name: str) -> None:
    body, seen = ANSWERS[name]
    raised = "def raised(f):\n    try: f()\n    except Exception as error: return type(error)\n"
    row = {**rows()[0], "test": f"{raised}def check(candidate):\n    assert {seen}\n"}
    assert (
        grade(f"```python\nfrom __future__ import annotations\ndef second_largest():\n    {body}\n```", row) == PASSED
    )
    assert grade("    return 5\n", row) == FAILED


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
    "options",
    [
        {"memory_mb": 8},
        {"memory_mb": -1},
        {"seconds": 0.001},
        {"seconds": float("nan")},
        {"seconds": True},
        {"memory_mb": 10**13},
    ],
)
def test_limits_that_no_answer_can_keep_are_refused_before_anything_is_generated(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"task\.(memory_mb|seconds)=") as caught:
        HumanEval(unsafe=True, **options).check()  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_row_without_its_test_is_named() -> None:
    row = {key: value for key, value in rows()[0].items() if key != "test"}
    with pytest.raises(UserError, match="here: row 1 has no field 'test'"):
        prompt(row)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("test", "def check(candidate:\n"),
        ("test", "assert second_largest([1, 2]) == 1\n"),
        ("entry_point", "third_largest"),
        ("prompt", "def second_largest(numbers:\n"),
    ],
)
def test_a_row_that_no_answer_can_pass_is_refused_by_its_number(key: str, value: str) -> None:
    with pytest.raises(UserError, match=f"here: row 1: '({key}|entry_point)' is no ") as caught:
        prompt({**rows()[0], key: value})
    assert "\n" not in str(caught.value)


def test_a_box_that_fails_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [b"Traceback\nBlockingIOError: no process", b"passed"]
    monkeypatch.setattr(humaneval, "run_python", lambda *_, **__: Outcome(said.pop(0), False))
    assert grade("", rows()[0]) == PASSED
    said[:] = [b"Traceback\nBlockingIOError: no process"] * 2
    with pytest.raises(UserError, match=r"the sandbox itself failed on Invented/0 .*no process"):
        grade("", rows()[0])


def test_the_task_survives_pickling_and_its_yaml_names_its_options() -> None:
    task = HumanEval(path=str(ROWS))
    assert pickle.loads(pickle.dumps(task)) == task
    config = OmegaConf.load(Path(__file__).parents[1] / "conf" / "task" / "humaneval.yaml")
    options = {str(key): value for key, value in config.items() if key != "_target_"}
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
