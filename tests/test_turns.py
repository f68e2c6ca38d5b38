"""Runs over prompts of several turns: what is asked, what is written down, and what is done with it afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from experiments import runner
from experiments.journal import to_json
from experiments.plan import prepare
from experiments.prompting import prompting
from experiments.settings import Settings
from experiments.teacher import force
from mtad.errors import UserError
from tests.toy import Talk, toy_settings

TURNS = {"talk/one": 1, "talk/two": 2, "talk/told": 3}


def talk(pair: Path, results: Path, *overrides: str) -> Settings:
    return toy_settings(pair, results, "task=talk", "reference=[autoregressive]", *overrides)


def lines(results: Path, name: str) -> list[dict[str, Any]]:
    (file,) = results.glob(f"*/*/{name}")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def summary(results: Path) -> dict[str, Any]:
    (file,) = results.glob("*/*/summary.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def results(saved_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two repeats."""
    folder = tmp_path_factory.mktemp("talk")
    runner.run(talk(saved_pair, folder, "repeats=2"))
    return folder


def test_every_turn_is_answered_once_by_every_variant_in_every_repeat(results: Path) -> None:
    rows = lines(results, "samples.jsonl")
    found = [(row["variant"], row["prompt_id"], row["repeat"], row["turn"]) for row in rows]
    assert len(set(found)) == len(found)
    assert set(found) == {
        (variant, name, repeat, turn)
        for variant in ("mtad", "autoregressive")
        for name, turns in TURNS.items()
        for repeat in range(2)
        for turn in range(turns)
    }


def test_a_later_turn_is_asked_after_the_variants_own_answer(results: Path, saved_pair: Path) -> None:
    how = prompting(Talk(), AutoTokenizer.from_pretrained(saved_pair / "target"), None, 64)
    rows = lines(results, "samples.jsonl")
    two = Talk().prompts()[1]
    asked = set()
    for row in (row for row in rows if (row["prompt_id"], row["turn"]) == ("talk/two", 1)):
        (first,) = [
            r for r in rows if all(r[k] == row[k] for k in ("variant", "prompt_id", "repeat")) and r["turn"] == 0
        ]
        assert row["prompt_token_ids"] == how.encode(two, 1, [first["text"]])
        assert row["prompt_tokens"] == len(row["prompt_token_ids"])
        asked.add(tuple(row["prompt_token_ids"]))
    assert len(asked) > 1, "answers differ, and so does what follows them"
    assert {row["prompt_token_ids"] is None for row in rows if row["prompt_id"] == "talk/told"} == {True}


def test_an_interrupted_conversation_is_written_again_whole_and_alike(saved_pair: Path, tmp_path: Path) -> None:
    settings = talk(saved_pair, tmp_path)
    runner.run(settings)
    before = lines(tmp_path, "samples.jsonl")
    (journal,) = tmp_path.glob("*/*/samples.jsonl")
    lost = next(row for row in before if row["prompt_id"] == "talk/two" and row["turn"] == 1)
    journal.write_text("".join(to_json(row) + "\n" for row in before if row is not lost), encoding="utf-8")
    runner.run(settings)
    after = lines(tmp_path, "samples.jsonl")

    def written(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], Any]:
        return {(r["variant"], r["prompt_id"], r["turn"]): (r["token_ids"], r["prompt_token_ids"]) for r in rows}

    assert written(after) == written(before) and len(after) == len(before)
    again = {row["prompt_id"] for row in after if row["process_id"] != before[0]["process_id"]}
    assert again == {"talk/two"}


def test_grades_figures_and_files_of_the_task_stand_in_the_run_folder(results: Path) -> None:
    rows, grades, found = lines(results, "samples.jsonl"), lines(results, "grades.jsonl"), summary(results)
    assert len(grades) == len(rows) and "grades" not in rows[0]
    mtad = found["decoders"]["mtad"]
    own = [grade["grades"] for grade in grades if grade["variant"] == "mtad"]
    assert mtad["score"] == {"name": "length", "value": sum(g["length"] for g in own) / len(own), "reason": None}
    assert mtad["task_figures"]["likes in all"]["value"] == sum(g["likes"] for g in own)
    assert found["task_origin"] == {"file": "none", "licence": "own work"}
    assert len(lines(results, "exports/said/mtad.jsonl")) == len(rows) // 2
    assert (mtad["prompts"], mtad["turns"], mtad["repeats"], mtad["rows"]) == (3, 3, 2, 12)


def test_the_target_reads_the_tasks_own_texts_once(results: Path, saved_pair: Path, tmp_path: Path) -> None:
    records, found = lines(results, "teacher.jsonl"), summary(results)["teacher_forced"]
    assert [record["id"] for record in records] == ["talk/two", "talk/told"]
    plan = prepare(talk(saved_pair, tmp_path))
    pair = plan.blueprint.load()
    text = plan.settings.task.reference(plan.prompts[1])
    assert text is not None
    direct = force(pair.target, plan.prompting.ids, "talk/two", text)
    assert direct.log_likelihood == pytest.approx(records[0]["log_likelihood"])
    assert found["texts"] == 2 and found["token_perplexity"] > 1 and found["token_perplexity_reason"] is None


@pytest.mark.parametrize("publish", [False, True])
def test_publish_leaves_a_hash_in_place_of_a_private_text_only(saved_pair: Path, tmp_path: Path, publish: bool) -> None:
    settings = talk(saved_pair, tmp_path, "limit=2")
    runner.run(settings)
    runner.run(talk(saved_pair, tmp_path, "limit=2", f"publish={str(publish).lower()}"))  # asked for afterwards
    private, other = lines(tmp_path, "prompts.jsonl")
    text = settings.task.prompts()[0].text
    assert (text in json.dumps(private)) is not publish
    assert (private["answer"] is None) is publish and ("licence" in (private["left_out_reason"] or "")) is publish
    assert other["turns"][0]["user"] == settings.task.prompts()[1].text and other["answer"] == {"likes": "w2"}
    assert private["hash"] != other["hash"]


def test_a_task_that_cannot_be_graded_here_refuses_before_anything_is_loaded(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.process.Bench", None)
    with pytest.raises(UserError, match=r"^task talk cannot be graded here$"):
        runner.run(talk(saved_pair, tmp_path, "+task.refuses=true"))
    assert not list(tmp_path.glob("*/*/samples.jsonl"))


def test_grading_in_other_processes_gives_the_same(saved_pair: Path, tmp_path: Path, results: Path) -> None:
    runner.run(talk(saved_pair, tmp_path, "repeats=2", "+task.heavy=true"))

    def given(folder: Path) -> dict[tuple[Any, ...], Any]:
        told = ("variant", "prompt_id", "turn", "repeat")
        return {tuple(g[key] for key in told): g["grades"] for g in lines(folder, "grades.jsonl")}

    assert given(tmp_path) == given(results)


def test_grading_that_was_interrupted_goes_on(saved_pair: Path, tmp_path: Path) -> None:
    settings = talk(saved_pair, tmp_path)
    runner.run(settings)
    (journal,) = tmp_path.glob("*/*/grades.jsonl")
    before = lines(tmp_path, "grades.jsonl")
    journal.write_text("".join(to_json(g) + "\n" for g in before[:5]) + '{"schema_ver', encoding="utf-8")
    runner.run(settings)
    after = lines(tmp_path, "grades.jsonl")
    assert [g["grades"] for g in after] == [g["grades"] for g in before] and after[:5] == before[:5]


def test_grading_that_another_grader_began_is_done_anew_and_a_complete_one_stays(
    saved_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = talk(saved_pair, tmp_path)
    runner.run(settings)
    other = talk(saved_pair, tmp_path, "+task.refuses=false", "+task.heavy=true")  # the same prompts
    runner.run(other)
    assert "graded with other options of the task before" in capsys.readouterr().err
    (journal,) = tmp_path.glob("*/*/grades.jsonl")
    before = lines(tmp_path, "grades.jsonl")
    assert {record["grader"]["options"]["heavy"] for record in before} == {False}
    journal.write_text("".join(to_json(g) + "\n" for g in before[:5]), encoding="utf-8")
    runner.run(other)
    (found,) = summary(tmp_path)["graders"]
    assert found["options"]["heavy"] is True and found["code"] == before[0]["grader"]["code"]


def test_what_a_template_calls_today_is_one_day_forever(saved_pair: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(saved_pair / "target")
    tokenizer.chat_template = "{{ 'w5' if date_string == '26 Jul 2024' else 'w6' }}"  # as Llama 3's does
    assert prompting(Talk(), tokenizer, True, 64).encode(Talk().prompts()[0]) == tokenizer("w5")["input_ids"]


def test_measuring_anew_leaves_no_export_of_before(saved_pair: Path, tmp_path: Path) -> None:
    runner.run(talk(saved_pair, tmp_path))
    (export,) = tmp_path.glob("*/*/exports")
    (export / "said" / "mtad-of-yesterday.jsonl").write_text("")
    runner.run(talk(saved_pair, tmp_path, "fresh=true"))
    assert sorted(path.name for path in (export / "said").iterdir()) == ["autoregressive.jsonl", "mtad.jsonl"]


def test_a_turn_that_cannot_be_read_and_answered_is_named(saved_pair: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^prompt talk/told, turn 3, has 34 tokens; .* max_new_tokens=40 leaves 24"):
        runner.run(talk(saved_pair, tmp_path, "max_new_tokens=40"))


def test_prompts_that_are_too_long_can_be_left_out_and_are_named(
    saved_pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner.run(talk(saved_pair, tmp_path, "max_new_tokens=40", "skip_long=true"))
    assert summary(tmp_path)["prompts_too_long"] == ["talk/told"]
    assert {row["prompt_id"] for row in lines(tmp_path, "samples.jsonl")} == {"talk/one", "talk/two"}
    assert "1 prompts were too long for the pair and left out" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"^task talk has no prompts that the pair can read$"):
        runner.run(talk(saved_pair, tmp_path, "max_new_tokens=63", "skip_long=true"))
