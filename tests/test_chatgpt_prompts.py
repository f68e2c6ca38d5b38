"""ChatGPT-prompts: the texts as they are, from either of two fields."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.dataset.row_task import Row
from experiments.tasks.chatgpt_prompts import ChatgptPrompts
from mtad.errors import UserError

FIXTURE = Path(__file__).parent / "fixtures" / "chatgpt_prompts.jsonl"


def test_prompts_are_the_texts_as_they_are_without_a_score() -> None:
    task = ChatgptPrompts(path=str(FIXTURE), split="train")
    lines = FIXTURE.read_text(encoding="utf-8").splitlines()
    assert {prompt.text for prompt in task.prompts()} == {json.loads(line)["human_prompt"] for line in lines}
    assert all(task.grade(prompt, prompt.text) == {} for prompt in task.prompts())


def test_either_field_is_read_the_data_sets_own_first() -> None:
    task = ChatgptPrompts()
    assert task.prompt(Row({"act": "x", "prompt": "Hello"}, 1, "x")).text == "Hello"
    assert task.prompt(Row({"human_prompt": "Hi", "prompt": "Hello"}, 1, "x")).text == "Hi"


def test_a_row_without_a_prompt_is_refused_with_its_number() -> None:
    with pytest.raises(UserError, match="x: row 4 has no field 'human_prompt'; it has: act"):
        ChatgptPrompts().prompt(Row({"act": "a"}, 4, "x"))
    with pytest.raises(UserError, match="x: row 4: 'prompt' is blank"):
        ChatgptPrompts().prompt(Row({"prompt": " "}, 4, "x"))


def test_the_real_stand_in_is_read(data: Path) -> None:
    task = ChatgptPrompts(path=str(data / "awesome_chatgpt_prompts"), split="train")
    assert len({prompt.text for prompt in task.prompts()}) > 160
