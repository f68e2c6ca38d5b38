"""What a benchmark task is: prompts with answers, and grades for a model's outputs.

A task knows no model and no tokenizer: `experiments/prompting.py` turns its prompts into token ids.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PATHS = ("path", "databases", "include")  # options that are places on this machine


@dataclass(frozen=True)
class Turn:
    """What a user says at once: `text`, then `document`, then `after`.

    Attributes:
        document: the part that loses its end where the prompt would be longer than the task's `max_prompt_tokens`.
        after: what follows the document and, like `text`, is never cut.
        instruction: put in front where a chat template is used; a base model does without, it just continues.
        reply: the answer that later turns look back on; None: whatever the decoder has written.
    """

    text: str
    document: str = ""
    after: str = ""
    instruction: str = ""
    reply: str | None = None

    @property
    def plain(self) -> str:
        """All of it, as a base model reads it."""
        return self.text + self.document + self.after


@dataclass(frozen=True)
class Prompt:
    """One or more turns, each to be answered. What belongs to one prompt is resampled together.

    Attributes:
        id: unique within the task.
        answer: JSON data that only its task understands.
        group: a part of the task with figures of its own; None: there are none.
        private: its texts may not be published again (see `publish` in conf/config.yaml).
        place: where it stands in the data, for messages; no part of what it is.
    """

    id: str
    turns: tuple[Turn, ...]
    answer: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    private: bool = False
    place: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """The first turn as a base model reads it."""
        return self.turns[0].plain


class Task(ABC):
    """A set of prompts and the way to grade outputs; tasks are frozen dataclasses.

    Their fields are the options of their YAML. Only `name`, `max_new_tokens` and `prompts` have no default.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The task's name in configurations and results."""

    @property
    @abstractmethod
    def max_new_tokens(self) -> int:
        """The longest output, in tokens."""

    @abstractmethod
    def prompts(self) -> Sequence[Prompt]:
        """All prompts, shuffled once and for all so that any prefix is a fair sample. Raises UserError."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an output which continues a plain prompt; it is graded up to the first of them."""
        return ()

    @property
    def chat_stop(self) -> tuple[str, ...]:
        """The same for an answer under a chat template, which ends by itself."""
        return ()

    @property
    def templated(self) -> bool:
        """Whether a model with a chat template gets the prompts in it; if not, it continues them as they are."""
        return True

    @property
    def dialogue(self) -> bool:
        """Whether a plain prompt ends each turn and each reply with a newline, as in a written dialogue."""
        return False

    @property
    def max_prompt_tokens(self) -> int | None:
        """Longer prompts lose the end of their document; None: nothing is cut."""
        return None

    @property
    def heavy(self) -> bool:
        """Whether grading takes long enough to be spread over processes."""
        return False

    @property
    def grouping(self) -> str:
        """What the groups of its prompts are, as in "score by group"."""
        return "group"

    def check(self) -> None:
        """Called before anything is generated. Raises UserError if outputs could not be graded here."""
        return None

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        """Scores in [0, 1] of an output cut before the stop string; the first one is the headline score.

        The other ones may also be shares that say why (`timed_out`). Empty: the task has no score. Must not raise for
        any text. With `heavy` it is called in other processes, so a task must survive pickling.
        """
        return {}

    def reference(self, prompt: Prompt) -> str | None:
        """A text whose probability under the target is of interest by itself (teacher-forced perplexity)."""
        return None

    def figures(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Figures of one variant's graded rows that are no mean of grades, by name.

        Each is a mapping with `value`, `stderr` (or None), and a `reason` where `value` is None.
        """
        return {}

    def files(self, label: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """JSON lines for other tools, by their file in the run's folder `exports`, of the rows of variant `label`."""
        return {}

    def origin(self) -> Mapping[str, Any]:
        """Where the prompts come from (JSON data), with licence and citation; empty for embedded tasks."""
        return {}


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Prompts from a JSON-lines file with one ``{"id", "text", "answer"}`` object a line."""
    with path.open(encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        return tuple(Prompt(row["id"], (Turn(row["text"]),), row["answer"]) for row in rows)
