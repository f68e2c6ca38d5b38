"""ChatAlpaca: conversations of a simulated user with ChatGPT (Bian et al. 2023, github.com/icip-cas/ChatAlpaca).

Every answer is generated after the conversation as it stands in the data, earlier answers included, as the authors of
MTAD do. Knows both spellings of a conversation that are in use; there is no score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from experiments.dataset.row_task import Row, RowTask
from experiments.task import Prompt, Turn

# Field of a row, then the fields of an utterance: the file on GitHub, and its copy on the hub.
SPELLINGS = (("conversations", "from", "value"), ("messages", "role", "content"))
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


@dataclass(frozen=True, kw_only=True)
class ChatAlpaca(RowTask):
    """One prompt a conversation, named after its row; one turn an answer.

    Neighbouring utterances of one speaker count as one, in lines of their own. A last one of the user's, which nobody
    answered, is left out. An empty answer is one; an empty question is an error, as is a conversation that the
    assistant begins.
    """

    max_prompt_tokens: int | None = None
    name: str = field(default="chatalpaca", init=False)
    dialogue: bool = field(default=True, init=False)

    def prompt(self, row: Row) -> Prompt:
        key, who, what = next((names for names in SPELLINGS if row.get(names[0]) is not None), SPELLINGS[0])
        said = [
            (speaker, "\n".join(text for _, text in own))
            for speaker, own in groupby(_utterances(row, key, who, what), key=lambda pair: pair[0])
        ]
        if said[0][0] != "user":
            raise row.wrong(key, "a conversation that the assistant begins", row.get(key))
        if len(said) == 1:
            raise row.wrong(key, "a conversation without an answer", row.get(key))
        turns = tuple(Turn(text, reply=reply) for (_, text), (_, reply) in zip(said[::2], said[1::2], strict=False))
        if not all(turn.text.strip() for turn in turns):
            raise row.wrong(key, "a conversation with an empty question", row.get(key))
        return Prompt(f"{self.name}/{row.number}", turns)


def _utterances(row: Row, key: str, who: str, what: str) -> Iterator[tuple[str, str]]:
    """Speaker and text, at least once. Raises UserError."""
    utterances = row.get(key)
    if not isinstance(utterances, list) or not utterances:
        raise row.wrong(key, "no list of utterances", utterances)
    for utterance in utterances:
        said = utterance if isinstance(utterance, Mapping) else {}
        speaker, text = SPEAKERS.get(str(said.get(who)).lower()), said.get(what)
        if speaker is None or not isinstance(text, str):
            raise row.wrong(key, f"with an utterance that has no {who!r} (human, gpt) or no {what!r}", utterance)
        yield speaker, text
