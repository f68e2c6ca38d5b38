"""ChatGPT-prompts: what people asked ChatGPT, as prompts of many kinds; there is no right answer and no score.

MohamedRashad/ChatGPT-prompts on the hub, which the paper (Qin et al., arXiv 2407.09722) took its prompts from, has them
in `human_prompt`. Files with `prompt` are read as well, such as awesome-chatgpt-prompts, a different collection.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from experiments.dataset.row_task import Row, RowTask
from experiments.task import Prompt, Turn


@dataclass(frozen=True, kw_only=True)
class ChatgptPrompts(RowTask):
    """A prompt as it was written; a longer one than `max_prompt_tokens` loses its end, as in the paper."""

    name: str = field(default="chatgpt_prompts", init=False)

    def prompt(self, row: Row) -> Prompt:
        key = "prompt" if row.get("human_prompt") is None and row.get("prompt") is not None else "human_prompt"
        text = row.text(key)
        if not text.strip():
            raise row.wrong(key, "blank", text)
        return Prompt(f"{self.name}/{row.number}", (Turn("", document=text),))
