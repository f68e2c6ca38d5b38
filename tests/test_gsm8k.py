"""GSM8K: prompts, and grades that are lm-eval's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.dataset.row_task import Row
from experiments.task import Prompt
from experiments.tasks.gsm8k import Gsm8k
from mtad.errors import UserError

FIXTURE = Path(__file__).parent / "fixtures" / "gsm8k.jsonl"
RIGHT, WRONG = {"strict_match": 1.0, "flexible_match": 1.0}, {"strict_match": 0.0, "flexible_match": 0.0}


def answers(task: Gsm8k) -> dict[str, str]:
    return {row.id(task.name): row.text("answer") for row in task.rows()}


def corrupted(answer: str) -> str:
    """With another final number."""
    return re.sub(r"#### .*", lambda match: match[0] + "7", answer)


def assert_references_score(task: Gsm8k) -> None:
    gold, prompts = answers(task), task.prompts()
    assert len(prompts) == len(gold) > 0
    for prompt in prompts:
        assert task.grade(prompt, f" {gold[prompt.id]}") == RIGHT, prompt.id
        assert task.grade(prompt, corrupted(gold[prompt.id])) == WRONG, prompt.id


def test_references_score_one_and_changed_numbers_zero() -> None:
    assert_references_score(Gsm8k(path=str(FIXTURE)))


@pytest.mark.parametrize("split", ["test", "train"])
def test_all_real_references_score_one_and_changed_numbers_zero(data: Path, split: str) -> None:
    assert_references_score(Gsm8k(path=str(data / "gsm8k"), split=split))


TEXTS = [
    "#### 1280",
    "#### 1,280",
    "#### 1280.",
    "#### $1280",
    "####1280",
    "so #### 1280 and then #### 5",
    "#### 5\n#### 1280",
    "The answer is 1280.",
    "The answer is $1,280.00",
    "1280 seats in 40 rows",
    "#### -1280",
    "#### 1280\n\nThat is 40 rows.",
    "```\n#### 1280\n```",
    "#### .",
    "...",
    "#### \u0661",
    "",
    "\x00\ud800",
]


def lm_eval(text: str, target: str) -> dict[str, float]:
    """The same text under lm-eval's own filters and metric, as its gsm8k.yaml sets them."""
    pytest.importorskip("lm_eval")
    import lm_eval.tasks
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    path = Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    options = {key: config["metric_list"][0][key] for key in ("regexes_to_ignore", "ignore_case", "ignore_punctuation")}
    found = {}
    for ours, listed in zip(RIGHT, config["filter_list"], strict=True):
        regex = {key: value for key, value in listed["filter"][0].items() if key != "function"}
        [[answer]] = RegexFilter(**regex).apply([[text]], [{}])
        found[ours] = float(exact_match_hf_evaluate([answer], [target], **options)["exact_match"])
    return found


@pytest.mark.parametrize("text", TEXTS)
def test_grades_are_those_of_lm_eval(text: str) -> None:
    task = Gsm8k(path=str(FIXTURE))
    gold = answers(task)
    for prompt in task.prompts():
        assert task.grade(prompt, text) == lm_eval(text, gold[prompt.id])


@pytest.mark.parametrize("text", ["9" * 10**6, "$1" * 10**6, "#### " * 10**5, "-" * 10**6, "#### \ud800\x00"])
def test_nonsense_scores_zero_in_no_time(text: str) -> None:
    assert Gsm8k().grade(Prompt("a", (), {"number": "18"}), text) == WRONG


def test_worked_examples_stand_before_the_question_as_many_as_asked() -> None:
    for shots in range(5):
        task = Gsm8k(path=str(FIXTURE), shots=shots)
        for prompt in task.prompts():
            blocks = prompt.text.split("\n\n")
            assert len(blocks) == shots + 1 and re.fullmatch(r"Question: .*\nAnswer:", blocks[-1])
            assert all(re.fullmatch(r"Question: .*\nAnswer: (.|\n)*\n#### \d+", block) for block in blocks[:-1])


def test_the_steps_of_the_worked_examples_are_right() -> None:
    text = next(iter(Gsm8k(path=str(FIXTURE)).prompts())).text
    steps = re.findall(r"<<([^=]*)=([^>]*)>>", text)
    assert len(steps) == 10
    for left, right in steps:
        assert eval(left) == float(right)  # arithmetic of ours


@pytest.mark.parametrize(
    ("answer", "number"),
    [("#### 1,200", "1200"), ("1 #### 2 #### $3.50", "3.50"), ("#### -4.", "-4"), ("#### .5", ".5")],
)
def test_the_number_is_all_that_follows_the_last_mark(answer: str, number: str) -> None:
    prompt = Gsm8k().prompt(Row({"question": "?", "answer": answer}, 1, "x"))
    assert prompt.answer == {"number": number}
    assert lm_eval(f"#### {number}", answer)["strict_match"] == 1.0


@pytest.mark.parametrize(
    "answer", ["#### 7 apples", "#### 5 ", "####  9", "#### .", "#### -", "#### 5\nof them", "####5"]
)
def test_a_row_that_no_answer_could_meet_is_refused(answer: str) -> None:
    with pytest.raises(UserError, match="x: row 2: 'answer' is without a final '#### number'"):
        Gsm8k().prompt(Row({"question": "?", "answer": answer}, 2, "x"))


def test_bad_options_and_rows_are_said_in_one_line() -> None:
    for shots in (5, -1, 1.5, True):
        with pytest.raises(UserError, match=r"task\.shots must be a whole number from 0 to 4"):
            Gsm8k(shots=shots)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"x: row 3: 'answer' is without a final '#### number': '18'"):
        Gsm8k().prompt(Row({"question": "?", "answer": "18"}, 3, "x"))
    with pytest.raises(UserError, match="x: row 3 has no field 'question'; it has: answer"):
        Gsm8k().prompt(Row({"answer": "#### 18"}, 3, "x"))
