"""WikiText: lines become articles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from experiments.dataset.row_task import Row
from experiments.task import Prompt
from experiments.tasks.wikitext import WikiText, articles
from mtad.errors import UserError

FIXTURE = Path(__file__).parent / "fixtures" / "wikitext.txt"


def rows(lines: Iterable[str]) -> list[Row]:
    return [Row({"text": line}, number, "some.txt") for number, line in enumerate(lines, 1)]


def fixture(end: str = "") -> list[Row]:
    return rows(line + end for line in FIXTURE.read_text(encoding="utf-8").splitlines())


def test_articles_begin_at_headings_of_level_one_between_empty_lines() -> None:
    found = list(articles(fixture()))
    assert [row.text("title") for row in found] == ["Larch Bridge", "Miller 's Gambit ( chess )", "Ninety"]
    assert "= 1 part and a nominal part =" in found[0].text("text")  # a formula's line, not a heading
    assert "= = History = =" in found[0].text("text") and found[0].text("text").endswith("of their length .")
    assert found[1].text("text").startswith("= Miller 's Gambit ( chess ) =")


def test_lines_that_end_with_a_newline_as_on_the_hub_make_the_same_articles() -> None:
    assert [row.values for row in articles(fixture("\n"))] == [row.values for row in articles(fixture())]


def test_an_article_is_the_document_and_the_reference() -> None:
    task = WikiText()
    prompts = list(task.made_of(fixture()))
    assert [prompt.id for prompt in prompts] == [
        "wikitext/1/Larch Bridge",
        "wikitext/2/Miller 's Gambit ( chess )",
        "wikitext/3/Ninety",
    ]
    for prompt in prompts:
        (turn,) = prompt.turns
        assert task.reference(prompt) == turn.document == prompt.text and not turn.text and not turn.after
    assert not task.templated and task.max_prompt_tokens == 256 and not task.grade(prompts[0], "anything")


@pytest.mark.parametrize("lines", [["", " some text ", " = Title = "], ["", " some text "], ["", " = = Deep = = ", ""]])
def test_text_before_the_first_article_is_named_by_its_row(lines: list[str]) -> None:
    with pytest.raises(UserError, match=r"some.txt: row 2 is text before the first article.* = Title = "):
        list(articles(rows(lines)))


def test_no_lines_are_no_articles() -> None:
    assert list(articles(rows([]))) == list(articles(rows(["", " "]))) == []


def test_a_file_is_read_a_line_a_row() -> None:
    assert len(WikiText(path=str(FIXTURE)).prompts()) == 3


@pytest.mark.parametrize(("split", "words"), [("test", 241_211), ("valid", 213_886)])
def test_the_real_splits_have_sixty_articles_and_lose_no_word(data: Path, split: str, words: int) -> None:
    prompts: list[Prompt] = list(WikiText(path=str(data / "text" / "wikitext-2" / f"{split}.txt.gz")).prompts())
    assert len(prompts) == len({prompt.id for prompt in prompts}) == 60
    assert sum(len(prompt.text.split()) for prompt in prompts) == words
