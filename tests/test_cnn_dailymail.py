"""CNN/DailyMail: prompts that lose the article's end only, and ROUGE."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from experiments.task import Prompt
from experiments.tasks.cnn_dailymail import CnnDailymail
from mtad.errors import UserError

FIXTURE = Path(__file__).parent / "fixtures" / "cnn_dailymail.jsonl"
MEASURES = ["rougeL", "rouge1", "rouge2", "rougeLsum"]


def grade(highlights: str, text: str) -> Mapping[str, float]:
    return CnnDailymail().grade(Prompt("a", (), {"highlights": highlights}), text)


def assert_highlights_score(task: CnnDailymail) -> None:
    for prompt in task.prompts():
        assert task.grade(prompt, prompt.answer["highlights"]) == dict.fromkeys(MEASURES, 1.0), prompt.id
        assert task.grade(prompt, "") == dict.fromkeys(MEASURES, 0.0), prompt.id


def test_highlights_score_one_and_nothing_scores_zero() -> None:
    assert_highlights_score(CnnDailymail(path=str(FIXTURE)))


def test_all_real_highlights_score_one_and_nothing_scores_zero(data: Path) -> None:
    assert_highlights_score(CnnDailymail(path=str(data / "cnn_dailymail")))


def test_the_headline_is_rouge_l_and_the_scores_are_f1_of_stemmed_words() -> None:
    grades = grade("cats running home", "The cat runs")
    assert list(grades) == MEASURES  # the, cat, run against cat, run, home
    assert grades == {
        "rougeL": pytest.approx(2 / 3),
        "rouge1": pytest.approx(2 / 3),
        "rouge2": 0.5,
        "rougeLsum": pytest.approx(2 / 3),
    }


def test_only_the_summary_measure_looks_at_lines() -> None:
    highlights = "the red fox sleeps\na blue bird sings"
    lines, swapped = grade(highlights, highlights), grade(highlights, "a blue bird sings\nthe red fox sleeps")
    assert lines["rougeL"] == 1.0 and swapped["rougeLsum"] == 1.0 and swapped["rougeL"] == 0.5


@pytest.mark.parametrize("text", ["a b " * 250_000, "x" * 10**6, "\x00\ud800", "\n" * 10**6, ". . ."])
def test_nonsense_scores_next_to_nothing(text: str) -> None:
    assert max(grade("the fox sleeps\nthe bird sings", text).values()) < 0.01


def test_a_prompt_is_the_papers_and_only_the_article_may_be_cut() -> None:
    task = CnnDailymail(path=str(FIXTURE))
    assert task.max_prompt_tokens == 512
    for prompt in task.prompts():
        [turn] = prompt.turns
        assert turn.text == "Summarize: " and prompt.text == f"Summarize: {turn.document}" and not turn.after
        assert prompt.private


def test_a_missing_package_is_named_before_anything_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.tasks import cnn_dailymail

    cnn_dailymail._scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(UserError, match=r"package rouge-score: pip install 'mtad-bench\[tasks\]'"):
        CnnDailymail(path=str(FIXTURE)).check()
