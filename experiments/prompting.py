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
        tokens = self._tokens(turns, replies)
        if self.longest is not None and len(tokens) > self.longest and any(documents):
            tokens = _longest_fit(
                lambda kept: self._tokens(_with_documents(turns, _cut(documents, kept)), replies),
                sum(map(len, documents)),
                self.longest,
            )
        if len(tokens) > self.room and any(free):
            answers = [reply if mine else "" for reply, mine in zip(replies, free, strict=True)]
            tokens = _longest_fit(
                lambda kept: self._tokens(
                    turns,
                    [cut if mine else r for r, cut, mine in zip(replies, _cut(answers, kept), free, strict=True)],
                ),
                sum(map(len, answers)),
                self.room,
            )
        return tokens

    def ids(self, text: str) -> list[int]:
        """A plain text's, with what the tokenizer begins texts with."""
        return [int(token) for token in self.tokenizer(text, verbose=False)["input_ids"]]

    def _tokens(self, turns: Sequence[Turn], replies: Sequence[str]) -> list[int]:
        if not self.chat:
            end = "\n" if self.dialogue else ""
            said = [turns[0].plain, *(text for pair in zip(replies, turns[1:], strict=True) for text in _both(*pair))]
            return self.ids("".join(text + end for text in said))
        messages: list[Mapping[str, str]] = []
        for i, turn in enumerate(turns):
            messages.append({"role": "user", "content": turn.instruction + turn.plain})
            messages += [{"role": "assistant", "content": reply} for reply in replies[i : i + 1]]
        try:
            found = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        except Exception as error:  # templates are programs of others, and raise what they like
            raise UserError(
                f"the chat template refuses a prompt ({first_line(error)}); chat=false does without"
            ) from None
        return [int(token) for token in found["input_ids"]]


def prompting(task: Task, tokenizer: Any, chat: bool | None, room: int) -> Prompting:
    """How `task` is put to the model of `tokenizer`; `chat` as in conf/config.yaml. Raises UserError."""
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


def _both(reply: str, turn: Turn) -> tuple[str, str]:
    return reply, turn.plain


def _with_documents(turns: Sequence[Turn], documents: Sequence[str]) -> list[Turn]:
    return [replace(turn, document=document) for turn, document in zip(turns, documents, strict=True)]


def _cut(texts: Sequence[str], kept: int) -> list[str]:
    """The first `kept` characters of all texts together."""
    cut = []
    for text in texts:
        cut.append(text[:kept])
        kept -= len(cut[-1])
    return cut


def _longest_fit(tokens: Callable[[int], list[int]], characters: int, longest: int) -> list[int]:
    """What the most characters come to that make at most `longest` tokens; what none come to if that is too long."""
    found, low, high = tokens(0), 1, characters
    while low <= high:
        middle = (low + high) // 2
        tried = tokens(middle)
        if len(tried) <= longest:
            found, low = tried, middle + 1
        else:
            high = middle - 1
    return found
