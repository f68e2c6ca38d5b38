"""Prompts as a model reads them: plain or in its chat template, with turns, and cut where a document is too long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from experiments.prompting import looks_back, prompting
from experiments.task import Prompt, Turn
from mtad.errors import UserError
from tests.toy import WORDS, Talk, Toy

TEMPLATE = (
    "{% for m in messages %}<s>{{ 'w50' if m.role == 'user' else 'w51' }} {{ m.content }} </s>{% endfor %}"
    "{% if add_generation_prompt %}<s>w51{% endif %}"
)
LONG = Prompt("p", (Turn("w0 ", document=" ".join(WORDS[10:50]), after=" w1 w2"),))


@pytest.fixture
def tokenizer(saved_pair: Path) -> Any:
    return AutoTokenizer.from_pretrained(saved_pair / "target")


@pytest.fixture
def chatty(tokenizer: Any) -> Any:
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def words(tokenizer: Any, tokens: list[int]) -> list[str]:
    return [str(word) for word in tokenizer.convert_ids_to_tokens(tokens)]


def test_a_plain_prompt_is_its_three_parts_in_order(tokenizer: Any) -> None:
    how = prompting(Toy(), tokenizer, None, 64)
    prompt = Prompt("p", (Turn("w1 ", document="w2 ", after="w3", instruction="w9 "),))
    assert words(tokenizer, how.encode(prompt)) == ["w1", "w2", "w3"], "only a chat model is instructed"


def test_a_model_with_a_template_gets_instruction_and_turns_in_it(chatty: Any) -> None:
    how = prompting(Talk(), chatty, None, 64)
    prompt = Prompt("p", (Turn("w1", instruction="w9 "), Turn("w2", reply="w5"), Turn("w3")))
    assert how.chat
    assert " ".join(words(chatty, how.encode(prompt, 2, ["w4"]))) == (
        "<s> w50 w9 w1 </s> <s> w51 w4 </s> <s> w50 w2 </s> <s> w51 w5 </s> <s> w50 w3 </s> <s> w51"
    )


def test_chat_false_and_tasks_that_are_continued_do_without_the_template(chatty: Any) -> None:
    assert not prompting(Talk(), chatty, False, 64).chat

    class Continued(Talk):
        templated = False

    assert not prompting(Continued(), chatty, None, 64).chat
    with pytest.raises(UserError, match=r"^chat=true, but task talk is written for a model that continues its text"):
        prompting(Continued(), chatty, True, 64)


def test_chat_true_without_a_template_is_one_line(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"^chat=true, but the target's tokenizer has no chat template"):
        prompting(Talk(), tokenizer, True, 64)


def test_a_template_that_refuses_is_one_line(chatty: Any) -> None:
    chatty.chat_template = "{{ raise_exception('one system message is needed') }}"
    with pytest.raises(UserError, match=r"^the chat template refuses a prompt \(.*one system message is needed\)"):
        prompting(Talk(), chatty, None, 64).encode(LONG)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("longest", [8, 20, 33])
def test_a_long_document_loses_its_end_and_nothing_else(chatty: Any, chat: bool, longest: int) -> None:
    how = prompting(Talk(max_prompt_tokens=longest), chatty, chat, 64)
    found = words(chatty, how.encode(LONG))
    assert len(found) == longest, "as much of the document stays as fits"
    kept = [word for word in found if word in WORDS[10:50]]
    assert kept == WORDS[10 : 10 + len(kept)]
    assert [word for word in found if word in WORDS[:10]] == ["w0", "w1", "w2"]


def test_a_prompt_that_fits_or_has_no_document_is_not_cut(tokenizer: Any) -> None:
    how = prompting(Talk(max_prompt_tokens=43), tokenizer, None, 64)
    assert len(how.encode(LONG)) == 43
    plain = Prompt("p", (Turn(" ".join(WORDS)),))
    assert len(how.encode(plain)) == len(WORDS)


def test_an_instruction_longer_than_the_limit_stays_whole(tokenizer: Any) -> None:
    how = prompting(Talk(max_prompt_tokens=2), tokenizer, None, 64)
    assert words(tokenizer, how.encode(LONG)) == ["w0", "w1", "w2"]


def test_own_answers_are_cut_where_the_model_could_not_read_them_and_given_replies_are_not(tokenizer: Any) -> None:
    how = prompting(Talk(), tokenizer, None, 12)
    prompt = Prompt("p", (Turn("w0 w1"), Turn("w2 w3")))
    assert words(tokenizer, how.encode(prompt, 1, [" ".join(WORDS[20:40])])) == ["w0", "w1", *WORDS[20:28], "w2", "w3"]
    told = replace(prompt, turns=(replace(prompt.turns[0], reply=" ".join(WORDS[20:40])), prompt.turns[1]))
    assert len(how.encode(told, 1, ["w9"])) == 24


def test_a_document_that_was_cut_stays_cut_where_an_own_answer_is_cut_too(tokenizer: Any) -> None:
    how = prompting(Talk(max_prompt_tokens=14), tokenizer, None, 20)
    prompt = Prompt("p", (Turn("w0 ", document=" ".join(WORDS[10:50])), Turn("w2 w3")))
    found = words(tokenizer, how.encode(prompt, 1, [" ".join(WORDS[50:])]))
    assert len(found) <= 20 and found[0] == "w0" and found[-2:] == ["w2", "w3"]
    assert how.cuts(prompt) and not how.cuts(Prompt("q", (Turn("w0"),)))


def test_a_limit_below_one_token_is_one_line(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"^task.max_prompt_tokens must be >= 1, or null, not 0$"):
        prompting(Talk(max_prompt_tokens=0), tokenizer, None, 64)


def test_a_turn_looks_back_only_on_answers_that_are_not_given() -> None:
    one, two, told = Talk().prompts()
    assert [looks_back(two, turn) for turn in range(2)] == [False, True]
    assert not any(looks_back(told, turn) for turn in range(3)) and not looks_back(one, 0)
