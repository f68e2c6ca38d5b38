"""WikiText: articles of Wikipedia, continued, and scored as they stand (Merity et al. 2016, arXiv 1609.07843).

Knows how articles are told apart in the lines of the files; refuses to know tokens. The text stays as it is there:
WikiText-2 without `raw` has `<unk>` for rare words, both have blanks around punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from experiments.dataset.row_task import Row, RowTask
from experiments.task import Prompt, Turn
from mtad.errors import UserError

HEADING = re.compile(r"\s*= (?!=)(.+)(?<!=) =\s*")  # of level one; deeper ones have more signs


@dataclass(frozen=True, kw_only=True)
class WikiText(RowTask):
    """The beginning of each article, `max_prompt_tokens` long, is continued; the whole article is scored.

    No article is left out: one that is shorter than the prompt is continued after its end. A row is a line.
    """

    max_prompt_tokens: int | None = 256
    name: str = field(default="wikitext", init=False)
    templated: bool = field(default=False, init=False)

    def prompt(self, row: Row) -> Prompt:
        """Of an article, see `articles`."""
        return Prompt(f"{self.name}/{row.number}/{row.text('title')}", (Turn("", document=row.text("text")),))

    def made_of(self, rows: Iterable[Row]) -> Iterable[Prompt]:
        return map(self.prompt, articles(rows))

    def reference(self, prompt: Prompt) -> str:
        """The article, for the teacher-forced perplexity of the target."""
        return prompt.text


def articles(rows: Iterable[Row]) -> Iterator[Row]:
    """Title and text of each article; its number is that among the articles.

    An article begins where a heading of level one stands between empty lines. The empty lines tell it from a line of a
    formula, of which WikiText-2 has two in the test split; it has 60 articles there. Raises UserError.
    """
    rows = list(rows)
    lines = [row.text("text").rstrip("\n") for row in rows]
    blank = [True, *(not line.strip() for line in lines), True]  # as if empty lines stood around all
    starts = [i for i, line in enumerate(lines) if blank[i] and blank[i + 2] and HEADING.fullmatch(line)]
    first = starts[0] if starts else len(lines)
    if stray := [row for row, empty in zip(rows[:first], blank[1:], strict=False) if not empty]:
        raise UserError(
            f"{stray[0].where}: row {stray[0].number} is text before the first article, which begins with a line "
            "such as ' = Title = ' between two empty ones"
        )
    for number, (start, end) in enumerate(pairwise([*starts, len(lines)]), 1):
        title = lines[start].strip().removeprefix("= ").removesuffix(" =")
        yield Row({"title": title, "text": "\n".join(lines[start:end]).strip()}, number, rows[start].where)
