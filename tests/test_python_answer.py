"""Answers of models: the function passes however it is written down, and nonsense is read in bounded time."""

from __future__ import annotations

import time

import pytest

from experiments.fences import fenced
from experiments.python_answer import solution
from experiments.safety.sandbox import missing
from tests.humaneval_rows import PASSED, grade, rows


@pytest.fixture
def _box() -> None:
    if reason := missing():
        pytest.skip(reason)


def written(row: dict[str, str]) -> dict[str, str]:
    """The gold answer as models may write it down."""
    body = row["canonical_solution"]
    head = row["prompt"].split("def " + row["entry_point"])[1]
    whole = f"def {row['entry_point']}{head}{body}"
    signature, wrong = f"def {row['entry_point']}{head}", f"def {row['entry_point']}(*_): return None"
    return {
        "continued": body,
        "continued, then prose after a fence": f"{body}```\n\nThis returns what was asked for, isn't it?",
        "in a block": f"Sure! Here it is:\n\n```python\n{whole}\n```\n\nHope that helps.",
        "in a block after a blank": f" Sure:\n```py\n{whole}\n```",
        "in a block that is not closed": f"```python\n{whole}",
        "bare": whole,
        "the body alone in a block": f"Here is the body:\n```python\n{body}```",
        "with the prompt's other functions": f"```python\n{row['prompt']}{body}\n```",
        "with a closing fence alone": f"{whole}```\n\nThis function does what was asked for.",
        "bare amid prose": f"Here is the function:\n\n{whole}\n\nThis function doesn't need more.\nNote: it is short.",
        "after another language": f"```\npip install x\n```\nThen:\n```python\n{whole}```\n",
        "after its call": f"```python\nprint({row['entry_point']}(1))\n```\nis made by\n```python\n{whole}```\n",
        "before its signature again": f"```python\n{whole}```\nIt is a\n```python\n{signature}```",
        "after a draft": f"<think>\n```python\n{wrong}\n```\n</think>\n```python\n{whole}```",
        "after a draft without fences": f"<think>def {row['entry_point']}?\n</think>\n{whole}",
        "after a first try": f"```python\n{wrong}\n```\nNo:\n```python\n{whole}```",
        "fences on lines of code": f"```{whole.rstrip()}```",
        "a fence after prose": f"Here it is: ```python\n{whole}```",
        "with a future import": f"```python\nfrom __future__ import annotations\n\n{whole}```",
    }


@pytest.mark.usefixtures("_box")
@pytest.mark.parametrize("row", rows(), ids=lambda row: row["entry_point"])
def test_the_gold_function_passes_however_it_is_written_down(row: dict[str, str]) -> None:
    for name, text in written(row).items():
        assert grade(text, row) == PASSED, name


@pytest.mark.usefixtures("_box")
def test_helpers_may_stand_in_blocks_of_their_own() -> None:
    helper = "```python\nimport math\n\ndef places(numbers):\n    return sorted(set(numbers))\n```"
    broken = "```python\nsecond_largest([1, 2]) -> 1\n```"
    whole = "```python\ndef second_largest(numbers):\n    return places(numbers)[-2 + math.floor(0)]\n```"
    assert grade(f"{helper}\nand\n{broken}\nand\n{whole}", rows()[0]) == PASSED


def test_a_new_function_keeps_the_prompts_imports_and_replaces_its_beginning() -> None:
    row = rows()[1]
    text = solution(row["prompt"], "unshift", "```python\ndef unshift(text):\n    return 1\n```")
    assert text.startswith("import string") and "def shift" in text
    assert text.count("def unshift") == 1 and text.endswith("    return 1\n")


@pytest.mark.parametrize(
    "part", ["def second_largest(x):\n", "x y\n", "import a\n", "```\ndef second_largest(x): (\n```\n"]
)
def test_nonsense_of_any_length_is_read_in_bounded_time(part: str) -> None:
    start = time.monotonic()
    for size in (99_000, 1_000_000):
        solution(rows()[0]["prompt"], "second_largest", "def second_largest(x):\n" + part * (size // len(part)))
    assert time.monotonic() - start < 8


def test_fences_yield_the_block_of_the_language_asked_for() -> None:
    assert fenced("no fence at all", "sql") == "no fence at all"
    assert fenced("a\n```sql\nSELECT 1\n```\nb", "sql") == "SELECT 1\n"
    assert fenced("```text\nx\n```\n~~~SQL\ny\n~~~", "sql") == "y\n"
    assert fenced("```text\nx\n```", "sql") == "x\n"
    assert fenced("1. So:\n   ```\n   a\n     b\n   ```", "py") == "a\n  b\n"
    assert fenced("````\n```\nx\n```\n````") == "```\nx\n```\n"
    assert fenced("```py\nx = 1") == "x = 1\n"
    assert fenced("`x` and ```y```") == "`x` and ```y```"
