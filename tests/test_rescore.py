"""Grades that are given again: from the run's folder and the task's source alone, and only if these belong together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments import process, runner
from experiments.rescore import main
from mtad.model import CausalModel
from tests.test_turns import lines, summary, talk
from tests.toy import Talk


@pytest.fixture(scope="module")
def run(saved_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rescore")
    runner.run(talk(saved_pair, folder))
    return folder


@pytest.fixture
def results(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run, on a machine that has not its models."""
    shutil.copytree(run, tmp_path / "results")
    monkeypatch.setattr(process, "Bench", None)
    monkeypatch.setattr(CausalModel, "__init__", None)
    return tmp_path / "results"


def folder(results: Path) -> Path:
    (found,) = results.glob("*/*")
    return found


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert str(ended.value).startswith("error: ") and "\n" not in str(ended.value)
    return str(ended.value)


def test_the_same_grader_changes_nothing_but_the_time(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, grades = summary(results), lines(results, "grades.jsonl")
    main([str(folder(results))])
    assert summary(results) == before
    assert [g["grades"] for g in lines(results, "grades.jsonl")] == [g["grades"] for g in grades]
    out, err = capsys.readouterr()
    assert "12 texts graded again, 0 of them differently" in err and "autoregressive" in out


def test_another_grader_changes_scores_and_comparisons_and_no_speed(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = summary(results)
    monkeypatch.setattr(Talk, "grade", lambda task, prompt, text: {"harsh": float("w9" in text), "likes": 0.0})
    main([str(folder(results))])
    after = summary(results)
    assert after["decoders"]["mtad"]["score"]["name"] == "harsh"
    assert after["decoders"]["mtad"]["tokens_per_second"] == before["decoders"]["mtad"]["tokens_per_second"]
    told = {c["metric"]: c["value"] for c in after["comparisons"]}
    assert told["speedup"] == {c["metric"]: c["value"] for c in before["comparisons"]}["speedup"]


def test_another_source_is_refused(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = Talk().prompts()
    monkeypatch.setattr(Talk, "prompts", lambda task: others)
    assert refused(capsys, str(folder(results))).endswith("prompt talk/one of the run is not in the task's source")
    changed = type(first)(first.id, first.turns, {"likes": "w4"}, first.group, first.private)
    monkeypatch.setattr(Talk, "prompts", lambda task: [changed, *others])
    assert "prompt talk/one has another text or answer" in refused(capsys, str(folder(results)))


def test_a_source_on_the_disk_is_asked_for(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder(results) / "config.yaml"
    file.write_text(file.read_text().replace("task:\n", "task:\n  path: words.jsonl@sha256:0123\n"))
    assert refused(capsys, str(folder(results))) == (
        "error: results do not say where words.jsonl lies: give task.path=PATH"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["decoder.gamma=2"], "only options of the task can be changed, as in task.path=FOLDER, not 'decoder.gamma=2'"),
        (["task"], "only options of the task can be changed, as in task.path=FOLDER, not 'task'"),
        (["task=x"], "not 'task=x'"),
        (["x.y=1", "task.path=a"], "not 'x.y=1'"),
        (["task.nose=2"], "task talk has no option 'nose'"),
        (["task.max_new_tokens=many"], "max_new_tokens must be a whole number, not 'many'"),
        (["task.refuses=true"], "task talk cannot be graded here"),
    ],
)
def test_wrong_options_are_one_line(
    results: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    grades = lines(results, "grades.jsonl")
    assert message in refused(capsys, str(folder(results)), *options)
    assert lines(results, "grades.jsonl") == grades


def test_what_is_no_finished_run_is_one_line(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no folder of a run" in refused(capsys, str(tmp_path))
    (folder(results) / "prompts.jsonl").unlink()
    assert "has no prompt talk/one: the command that made the run makes it anew" in refused(
        capsys, str(folder(results))
    )
    (folder(results) / "summary.json").write_text('{"task": "talk"}')
    assert "its summary.json lacks 'decoders'" in refused(capsys, str(folder(results)))
    (folder(results) / "summary.json").unlink()
    assert "the command that began the run finishes it" in refused(capsys, str(folder(results)))


def test_verdicts_of_a_judge_stay(results: Path) -> None:
    judge(results)
    main([str(folder(results))])
    assert summary(results)["decoders"]["mtad"]["judge_perplexity"] == pytest.approx(2.718281828**0.5)


def test_a_judge_that_has_not_read_all_is_no_obstacle(results: Path) -> None:
    judge(results, 7)
    main([str(folder(results))])
    found = summary(results)["decoders"]["mtad"]
    assert found["judge_perplexity"] is None and "were not judged" in found["judge_perplexity_reason"]


def judge(results: Path, texts: int | None = None) -> None:
    """What a judge would leave that has read the first texts."""
    rows: list[dict[str, Any]] = lines(results, "samples.jsonl")[:texts]
    told = ("schema_version", "variant", "prompt_id", "turn", "repeat", "process_id")
    verdict = {"judge": "j", "log_likelihood": -3.0, "tokens": 6, "retokenised": False, "reason": None}
    text = "".join(json.dumps({key: row[key] for key in told} | verdict) + "\n" for row in rows)
    (folder(results) / "judge.jsonl").write_text(text)
