"""Spec-Bench: its six groups, and what of a prompt may be cut."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from experiments.tasks.spec_bench import GROUPS, SpecBench
from mtad.errors import UserError

FIXTURE = Path(__file__).parent / "fixtures" / "spec_bench.jsonl"


def test_any_beginning_covers_the_six_groups_evenly() -> None:
    prompts = SpecBench(path=str(FIXTURE)).prompts()
    assert len(prompts) == 12
    for start in (0, 6):
        assert {prompt.group for prompt in prompts[start : start + 6]} == set(GROUPS)
    assert prompts == SpecBench(path=str(FIXTURE)).prompts()


def test_groups_of_unequal_size_lose_no_prompt(tmp_path: Path) -> None:
    file = tmp_path / "question.jsonl"
    categories = ["qa"] * 4 + ["rag", "writing"]
    rows = [{"question_id": i, "category": category, "turns": ["a\nb"]} for i, category in enumerate(categories)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    groups = [prompt.group for prompt in SpecBench(path=str(file)).prompts()]
    assert set(groups[:3]) == {"qa", "rag", "mt_bench"} and groups[3:] == ["qa"] * 3


def test_documents_are_articles_and_passages_never_the_question() -> None:
    prompts = SpecBench(path=str(FIXTURE)).prompts()
    lines = map(json.loads, FIXTURE.read_text(encoding="utf-8").splitlines())
    asked = {f"spec_bench/{line['question_id']}": line["turns"] for line in lines}
    for prompt in prompts:
        assert [turn.plain for turn in prompt.turns] == asked[prompt.id]
        turn = prompt.turns[0]
        assert bool(turn.document) == (prompt.group in {"summarization", "rag"})
        if prompt.group == "rag":
            assert turn.after.startswith("\n") and turn.after.endswith("?") and turn.after.count("\n") == 1
        if prompt.group == "summarization":
            assert turn.text == "Summarize: "
        assert prompt.private == (prompt.group == "summarization")


def test_multi_turn_prompts_look_back_on_the_decoders_own_answer() -> None:
    counts = Counter((prompt.group, len(prompt.turns)) for prompt in SpecBench(path=str(FIXTURE)).prompts())
    assert counts == {(group, 2 if group == "mt_bench" else 1): 2 for group in GROUPS}


def test_an_unknown_category_is_named_with_its_row(tmp_path: Path) -> None:
    file = tmp_path / "question.jsonl"
    rows = [{"question_id": i, "category": category, "turns": ["a"]} for i, category in enumerate(["qa", "poetry"])]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"row 2: 'category' is none of .*rag.*: 'poetry'"):
        SpecBench(path=str(file)).prompts()


def test_every_real_row_becomes_a_prompt_of_one_of_six_groups(data: Path) -> None:
    prompts = SpecBench(path=str(data / "spec_bench" / "question.jsonl")).prompts()
    assert len(prompts) == len({prompt.id for prompt in prompts}) == 458
    sizes = Counter(prompt.group for prompt in prompts)
    assert sizes == {**dict.fromkeys(GROUPS, 80), "mt_bench": 68, "math_reasoning": 70}
    assert {prompt.group for prompt in prompts[:6]} == set(GROUPS)
    for prompt in prompts:
        turn = prompt.turns[0]
        if prompt.group == "rag":
            assert turn.after.endswith("?") and len(turn.after) < 120 < len(turn.document)
        if prompt.group == "summarization":
            assert turn.text == "Summarize: " and turn.document
