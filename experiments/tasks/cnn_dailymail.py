"""CNN/DailyMail: news articles to be summarised (Hermann et al. 2015, arXiv 1506.03340; See et al., arXiv 1704.04368).

The prompt is that of Qin et al. (arXiv 2407.09722): "Summarize: " and the article, cut at 512 tokens. Grades are F1 of
ROUGE-1, -2 and -L (Lin 2004) by the package `rouge-score`, with Porter's stemmer and its own tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from experiments.dataset.row_task import Row, RowTask
from experiments.optional import need
from experiments.task import Prompt, Turn

# rougeL is the headline: the longest common subsequence of both texts as they are. What papers on this data set call
# ROUGE-L is mostly rougeLsum, which takes each line for a sentence, so that it depends on where a model breaks lines.
_MEASURES = ("rougeL", "rouge1", "rouge2", "rougeLsum")
_LONGEST = 20_000  # characters: the time taken grows with the product of both lengths


@dataclass(frozen=True, kw_only=True)
class CnnDailymail(RowTask):
    """A summary of an article; the reference is its highlights, one sentence a line."""

    name: str = field(default="cnn_dailymail", init=False)

    def check(self) -> None:
        super().check()
        _scorer()

    def prompt(self, row: Row) -> Prompt:
        turn = Turn("Summarize: ", document=row.text("article"))
        return Prompt(row.id(self.name), (turn,), {"highlights": row.text("highlights")}, private=True)

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        """ROUGE against the highlights, as F1."""
        scores = _scorer().score(prompt.answer["highlights"], text[:_LONGEST])
        return {measure: float(scores[measure].fmeasure) for measure in _MEASURES}


@cache
def _scorer() -> Any:
    return need("rouge_score.rouge_scorer", "tasks").RougeScorer(list(_MEASURES), use_stemmer=True)
