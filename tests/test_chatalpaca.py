"""ChatAlpaca: every answer of a conversation, after the answers of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.dataset.row_task import Row
from experiments.task import Prompt
from experiments.tasks.chatalpaca import ChatAlpaca
from mtad.errors import UserError

FIXTURE = Path(__file__).parent / "fixtures" / "chatalpaca.jsonl"


def fixture() -> dict[str, Prompt]:
    return {prompt.id: prompt for prompt in ChatAlpaca(path=str(FIXTURE)).prompts()}


def said(*utterances: tuple[str, Any]) -> Row:
    return Row({"conversations": [{"from": who, "value": what} for who, what in utterances]}, 7, "some.json")


def test_every_answer_is_a_turn_after_the_answers_of_the_data() -> None:
    prompts = fixture()
    assert [len(prompts[f"chatalpaca/{i}"].turns) for i in (1, 2, 3, 4)] == [2, 1, 2, 3]
    turns = prompts["chatalpaca/4"].turns
    assert [turn.plain for turn in turns] == ["How many legs has a spider?", "And an ant?", "And both together?"]
    assert [turn.reply for turn in turns] == ["Eight.", "Six.", "Fourteen."]


def test_a_last_question_that_nobody_answered_is_left_out() -> None:
    assert all("goodbye" not in turn.text for turn in fixture()["chatalpaca/1"].turns)


def test_neighbouring_utterances_of_one_speaker_are_one_and_empty_answers_are_answers() -> None:
    first, second = fixture()["chatalpaca/3"].turns
    assert first.text == "Sort these: 3, 1, 2.\nSmallest first." and first.reply == ""
    assert second.reply == "1, 2, 3."


def test_both_spellings_of_a_conversation_mean_the_same() -> None:
    for line in FIXTURE.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        names = {"human": "user", "gpt": "assistant"}
        messages = [{"role": names[one["from"]], "content": one["value"]} for one in row["conversations"]]
        prompts = [ChatAlpaca().prompt(Row(values, 1, "x")) for values in (row, {"id": 1, "messages": messages})]
        assert prompts[0] == prompts[1]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (said(("gpt", "Hello"), ("human", "Hi"), ("gpt", "Hm")), "that the assistant begins"),
        (said(("human", "Hi")), "without an answer"),
        (said(("human", " \n"), ("gpt", "Hm")), "with an empty question"),
        (said(("human", "Hi"), ("bot", "Hm")), "an utterance that has no 'from'"),
        (said(("human", "Hi"), ("gpt", None)), "or no 'value'"),
        (said(), "no list of utterances"),
        (Row({"conversations": "Hi"}, 7, "some.json"), "no list of utterances"),
        (Row({"conversations": ["Hi"]}, 7, "some.json"), "an utterance that has no 'from'"),
    ],
)
def test_a_conversation_that_cannot_be_asked_is_named_by_its_row(row: Row, complaint: str) -> None:
    with pytest.raises(UserError, match=f"some.json: row 7: 'conversations' is .*{complaint}"):
        ChatAlpaca().prompt(row)


def test_a_row_without_a_conversation_says_what_it_has() -> None:
    with pytest.raises(UserError, match="row 7 has no field 'conversations'; it has: instruction"):
        ChatAlpaca().prompt(Row({"instruction": "Hi"}, 7, "some.json"))
