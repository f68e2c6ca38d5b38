"""MT-Bench: what is asked, and the file for FastChat's judge."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.tasks.mt_bench import MtBench
from mtad.errors import UserError

FIXTURE = Path(__file__).parent / "fixtures" / "mt_bench.jsonl"


def rows(repeats: int = 2, **changed: Any) -> list[dict[str, Any]]:
    """Answers as a run records them, the later ones first."""
    return [
        {"prompt_id": prompt.id, "repeat": repeat, "turn": turn, "text": f" {prompt.id} {repeat} {turn}\n", **changed}
        for repeat in reversed(range(repeats))
        for turn in (1, 0)
        for prompt in MtBench(path=str(FIXTURE)).prompts()
    ]


def test_the_second_turn_looks_back_on_the_decoders_own_answer() -> None:
    prompts = {prompt.id: prompt for prompt in MtBench(path=str(FIXTURE)).prompts()}
    assert len(prompts) == 4
    prompt = prompts["mt_bench/902"]
    assert prompt.group == "math"
    first, second = prompt.turns
    assert first.plain.startswith("A shelf") and second.plain.startswith("Half")
    assert first.reply is None


def test_the_judges_file_has_an_answer_for_each_question_and_a_choice_for_each_repeat() -> None:
    ((name, answers),) = MtBench(path=str(FIXTURE)).files("mtad", rows()).items()
    assert name == "model_answer/mtad.jsonl"
    loaded = {answer["question_id"]: answer for answer in json.loads(json.dumps(answers))}  # as FastChat indexes it
    assert list(loaded) == [901, 902, 903, 904]
    assert {answer["model_id"] for answer in answers} == {"mtad"}
    assert loaded[903]["choices"] == [
        {"index": 0, "turns": ["mt_bench/903 0 0", "mt_bench/903 0 1"]},
        {"index": 1, "turns": ["mt_bench/903 1 0", "mt_bench/903 1 1"]},
    ]


def test_answer_ids_depend_on_nothing_but_the_answer() -> None:
    task = MtBench(path=str(FIXTURE))

    def ids(label: str, rows: list[dict[str, Any]]) -> list[str]:
        return [answer["answer_id"] for answers in task.files(label, rows).values() for answer in answers]

    assert ids("mtad", rows()) == ids("mtad", rows()[::-1])
    assert len(set(ids("mtad", rows())) | set(ids("low", rows())) | set(ids("mtad", rows(repeats=1)))) == 12


def test_every_label_makes_a_file_of_its_own_in_one_folder() -> None:
    labels = ["mtad", "tau=0.1", "tau 0.1", "../../up", "../..%2Fup", "a/b", "a:b", "ünï", "."]
    names = [name for label in labels for name in MtBench(path=str(FIXTURE)).files(label, rows())]
    assert names[:2] == ["model_answer/mtad.jsonl", "model_answer/tau=0.1.jsonl"]
    assert len(set(names)) == len(labels)
    for name in names:
        assert re.fullmatch(r"model_answer/[\w.,=+%-]+\.jsonl", name, re.ASCII)


def test_any_text_may_be_an_answer() -> None:
    for text in ("", "\x00", "\ud800", "x" * 10**6):
        ((_, answers),) = MtBench(path=str(FIXTURE)).files("mtad", rows(text=text)).items()
        assert len(answers) == 4


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"category": "math", "turns": ["a"]}, "row 2 has no field 'question_id'"),
        ({"question_id": "x", "category": "math", "turns": ["a"]}, "row 2: 'question_id' is no whole number: 'x'"),
        ({"question_id": True, "category": "math", "turns": ["a"]}, "row 2: 'question_id' is no whole number: 'True'"),
        ({"question_id": 1, "category": "math"}, "row 2 has no field 'turns'"),
        ({"question_id": 1, "turns": ["a"]}, "row 2 has no field 'category'"),
    ],
)
def test_a_bad_row_is_named_by_its_number(tmp_path: Path, row: dict[str, Any], complaint: str) -> None:
    file = tmp_path / "question.jsonl"
    good = {"question_id": 1, "category": "math", "turns": ["a", "b"]}
    file.write_text(f"{json.dumps({**dict.fromkeys(row), **good})}\n{json.dumps(row)}\n")
    with pytest.raises(UserError, match=complaint):
        MtBench(path=str(file)).prompts()


def test_every_real_question_becomes_a_prompt_of_two_turns(data: Path) -> None:
    prompts = MtBench(path=str(data / "mt_bench" / "question.jsonl")).prompts()
    assert len(prompts) == len({prompt.id for prompt in prompts}) == 68
    assert {len(prompt.turns) for prompt in prompts} == {2}
    assert len({prompt.group for prompt in prompts}) == 8
