"""GSM8K: grade-school word problems with worked steps (Cobbe et al. 2021, arXiv 2110.14168).

Prompts, stop strings and both ways to find the answer in a text are those of lm-eval's task `gsm8k`. The worked
examples are our own: a file of problems is enough, and none of them is a problem of the data set.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from experiments.dataset.row_task import Row, RowTask
from experiments.task import Prompt, Turn
from mtad.errors import UserError

_MARK = "#### "
_STRICT = re.compile(rf"{_MARK}(-?[0-9.,]+)")
_WHOLE = re.compile(r"-?[0-9]*\.?[0-9]+")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_INSTRUCTION = "Solve the problem step by step. End with a line that holds #### and the final number.\n\n"
_EXAMPLES = (
    (
        "A baker fills 6 trays with 12 rolls each. She sells 50 rolls before noon. How many rolls are left?",
        "The baker makes 6 * 12 = <<6*12=72>>72 rolls.\nAfter noon 72 - 50 = <<72-50=22>>22 rolls are left.\n#### 22",
    ),
    (
        "Omar earns $15 an hour. He works 4 hours on Saturday and half as long on Sunday. What does he earn?",
        "On Sunday he works 4 / 2 = <<4/2=2>>2 hours.\nIn all he works 4 + 2 = <<4+2=6>>6 hours.\n"
        "He earns 6 * $15 = $<<6*15=90>>90.\n#### 90",
    ),
    (
        "A library has 1,200 books. A quarter of them are novels, and a third of the novels are out on loan. "
        "How many novels stand on the shelves?",
        "There are 1200 / 4 = <<1200/4=300>>300 novels.\nOut on loan are 300 / 3 = <<300/3=100>>100 of them.\n"
        "On the shelves stand 300 - 100 = <<300-100=200>>200 novels.\n#### 200",
    ),
    (
        "Mina is 4 years older than Jo. In 6 years Mina will be 22. How old is Jo now?",
        "Mina is 22 - 6 = <<22-6=16>>16 years old now.\nJo is 16 - 4 = <<16-4=12>>12 years old now.\n#### 12",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Gsm8k(RowTask):
    """A question after worked examples; the answer ends with a line ``#### number``.

    Attributes:
        shots: worked examples in front of each question, 0 to 4.
    """

    shots: int = 4
    max_new_tokens: int = 256
    max_prompt_tokens: int | None = None
    name: str = field(default="gsm8k", init=False)
    stop: tuple[str, ...] = field(default=("Question:", "</s>", "<|im_end|>"), init=False)

    def __post_init__(self) -> None:
        if type(self.shots) is not int or not 0 <= self.shots <= len(_EXAMPLES):
            raise UserError(f"task.shots must be a whole number from 0 to {len(_EXAMPLES)}, not {self.shots!r}")

    def prompt(self, row: Row) -> Prompt:
        answer = row.text("answer")
        # As lm-eval does, all that follows the mark is the answer; one that is no number could never be met.
        number = _number(answer.rpartition(_MARK)[2])
        if _MARK not in answer or not _WHOLE.fullmatch(number):
            raise row.wrong("answer", "without a final '#### number'", answer)
        examples = [f"Question: {question}\nAnswer: {steps}\n\n" for question, steps in _EXAMPLES[: self.shots]]
        text = f"{''.join(examples)}Question: {row.text('question')}\nAnswer:"
        return Prompt(row.id(self.name), (Turn(text, instruction=_INSTRUCTION),), {"number": number})

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        """Strict: the first number marked with ####. Flexible: the last number, wherever it stands."""
        strict = _STRICT.search(text)
        found = {"strict_match": strict[1] if strict else None, "flexible_match": _last_number(text)}
        wanted = prompt.answer["number"]
        return {name: float(answer is not None and _number(answer) == wanted) for name, answer in found.items()}


def _last_number(text: str) -> str | None:
    last = deque(_FLEXIBLE.finditer(text), maxlen=1)
    return last[0][0] if last else None


def _number(text: str) -> str:
    """Without what lm-eval ignores: commas, dollars, a dot at the end."""
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", text))
