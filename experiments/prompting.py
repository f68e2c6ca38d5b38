"""From the turns of a prompt to token ids: as plain text, or in the model's chat template, cut where it is too long.

What is cut is the end of a document, never what is asked about it; where a model cannot read that much, also the ends
of its own earlier answers. Knows tokenizers; refuses to know answers and models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from experiments.task import Prompt, Task, Turn
from mtad.errors import UserError, first_line

# What templates that name the day, such as Llama 3's, are told: the one that Llama 3.1's names by default. Else a run
# that goes on after midnight would ask something else.
TODAY = "26 Jul 2024"


@dataclass(frozen=True)
class Prompting:
    """How one task's prompts are put to one model.

    Attributes:
        chat: in the tokenizer's chat template.
        dialogue: plain turns and replies end with a newline.
        longest: tokens of a prompt, beyond which documents are cut; None: they are not.
        room: tokens of a prompt, beyond which the decoder's own answers are cut.
    """

    tokenizer: Any
    chat: bool
    dialogue: bool
    longest: int | None
    room: int

    def encode(self, prompt: Prompt, turn: int = 0, own: Sequence[str] = ()) -> list[int]:
        """The ids that turn number `turn` is answered after, its template's special tokens among them.

        Args:
            own: what the decoder has answered to each turn before; needed where a turn has no `reply`.

        Raises:
            UserError: the template does not take these messages.
        """
        turns = list(prompt.turns[: turn + 1])
        replies = [own[i] if said.reply is None else said.reply for i, said in enumerate(turns[:-1])]
        documents, free = [said.document for said in turns], [said.reply is None for said in turns[:-1]]
        if self.longest is not None and any(documents):
            kept = self._most(lambda n: (_with_documents(turns, _cut(documents, n)), replies), documents, self.longest)
            turns = _with_documents(turns, _cut(documents, kept))
        if any(free):
            answers = [reply if mine else "" for reply, mine in zip(replies, free, strict=True)]
            given = [None if mine else reply for reply, mine in zip(replies, free, strict=True)]
            kept = self._most(lambda n: (turns, _filled(given, _cut(answers, n))), answers, self.room)
            replies = _filled(given, _cut(answers, kept))
        return self._tokens(turns, replies)

    def cuts(self, prompt: Prompt) -> bool:
        """Whether a document of the prompt loses its end, whatever the decoder answers."""
        turns, longest = prompt.turns, self.longest
        replies = [said.reply or "" for said in turns[:-1]]
        return (
            longest is not None
            and any(said.document for said in turns)
            and any(len(self._tokens(turns[: i + 1], replies[:i])) > longest for i in range(len(turns)))
        )

    def describe(self) -> dict[str, Any]:
        """All that decides the tokens of a prompt besides its text and the tokenizer's vocabulary, as JSON data."""
        template = self.tokenizer.chat_template if self.chat else None
        return {"chat": self.chat, "template": template, "dialogue": self.dialogue, "longest": self.longest}

    def _most(
        self, put: Callable[[int], tuple[Sequence[Turn], Sequence[str]]], texts: Sequence[str], longest: int
    ) -> int:
        """How many characters of `texts` may stay so that what they are put into has at most `longest` tokens.

        Args:
            put: turns and replies with only so many characters of the texts.
        """
        low, high = 0, sum(map(len, texts))
        middle = high  # mostly all of it fits
        while low < high:
            if len(self._tokens(*put(middle))) <= longest:
                low = middle
            else:
                high = middle - 1
            middle = (low + high + 1) // 2
        return low

    def ids(self, text: str) -> list[int]:
        """A plain text's, with what the tokenizer begins texts with."""
        return [int(token) for token in self.tokenizer(text, verbose=False)["input_ids"]]

    def _tokens(self, turns: Sequence[Turn], replies: Sequence[str]) -> list[int]:
        if not self.chat:
            end = "\n" if self.dialogue else ""
            said = [turns[0].plain]
            for reply, turn in zip(replies, turns[1:], strict=True):
                said += [reply, turn.plain]
            return self.ids("".join(text + end for text in said))
        messages: list[Mapping[str, str]] = []
        for i, turn in enumerate(turns):
            messages.append({"role": "user", "content": turn.instruction + turn.plain})
            messages += [{"role": "assistant", "content": reply} for reply in replies[i : i + 1]]
        try:
            found = self.tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=True,
                return_dict=True,
                tokenizer_kwargs={"verbose": False},
                date_string=TODAY,
            )
        except Exception as error:  # templates are programs of others, and raise what they like
            raise UserError(
                f"the chat template refuses a prompt ({first_line(error)}); chat=false does without"
            ) from None
        return [int(token) for token in found["input_ids"]]


def prompting(task: Task, tokenizer: Any, chat: bool | None, room: int) -> Prompting:
    """How `task` is put to the model of `tokenizer`; `chat` as in conf/config.yaml. Raises UserError."""
    if task.max_prompt_tokens is not None and task.max_prompt_tokens < 1:
        raise UserError(f"task.max_prompt_tokens must be >= 1, or null, not {task.max_prompt_tokens}")
    template = bool(getattr(tokenizer, "chat_template", None))
    if chat and not template:
        raise UserError("chat=true, but the target's tokenizer has no chat template; leave it out, or chat=false")
    if chat and not task.templated:
        raise UserError(f"chat=true, but task {task.name} is written for a model that continues its text; leave it out")
    used = template and task.templated if chat is None else chat
    return Prompting(tokenizer, used, task.dialogue, task.max_prompt_tokens, room)


def looks_back(prompt: Prompt, turn: int) -> bool:
    """Whether what is asked in a turn depends on what the decoder has answered before."""
    return any(said.reply is None for said in prompt.turns[:turn])


def _with_documents(turns: Sequence[Turn], documents: Sequence[str]) -> list[Turn]:
    return [replace(turn, document=document) for turn, document in zip(turns, documents, strict=True)]


def _filled(given: Sequence[str | None], answers: Sequence[str]) -> list[str]:
    """The replies: those given, and in place of None the decoder's own."""
    return [answer if reply is None else reply for reply, answer in zip(given, answers, strict=True)]


def _cut(texts: Sequence[str], kept: int) -> list[str]:
    """The first `kept` characters of all texts together."""
    cut = []
    for text in texts:
        cut.append(text[:kept])
        kept -= len(cut[-1])
    return cut
