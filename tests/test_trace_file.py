"""trace.jsonl: which texts have a trace, which runs are found, and what is said of a damaged line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.baseline import FRONTIER
from experiments.plan import prepare
from experiments.replay.texts import find_trace, read_step, read_trace
from experiments.runner import run
from mtad.errors import UserError
from tests.toy import ROOT, toy_settings

Row = dict[str, Any]


def rows_of(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def put(file: Path, rows: list[Row]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def folder(saved_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two prompts."""
    results = tmp_path_factory.mktemp("results")
    run(toy_settings(saved_pair, results, *TWO))
    return next(results.glob("*/*/trace.jsonl")).parent


TWO = ("decoder=mtad", "reference=[autoregressive,hf_generate]", "limit=2", "energy=false", "max_new_tokens=5")


def test_every_text_has_a_trace_of_its_tokens_and_an_engine_says_why_it_has_none(folder: Path) -> None:
    texts = {(row["variant"], row["prompt_id"]): row for row in rows_of(folder / "samples.jsonl")}
    traces = {(row["variant"], row["prompt_id"]): row for row in rows_of(folder / "trace.jsonl")}
    assert texts.keys() == traces.keys() and len(texts) == 6
    for (variant, prompt), row in traces.items():
        text = texts[variant, prompt]
        assert row["prompt_tokens"] == text["prompt_tokens"] and row["finish"] == text["finish"]
        if variant == "hf_generate":
            assert row["steps"] is None and "another library" in row["steps_reason"]
            continue
        rounds = [one for step in row["steps"] for one in step["rounds"]]
        assert [token for one in rounds for token in one["tokens"]] == text["token_ids"]
        assert [len(one["tokens"]) for one in rounds] == [one["tokens"] for one in text["rounds"]]
        nodes = sum(len(read["tokens"]) for step in row["steps"] for read in step["reads"] if read["model"] == "draft")
        assert (nodes > 0) == (variant == "mtad")


def test_a_trace_holds_no_ids_of_prompts(folder: Path) -> None:
    assert not {key for row in rows_of(folder / "trace.jsonl") for key in row if key.startswith("prompt_token_")}


def test_a_trace_changes_no_run_and_can_be_left_out(saved_pair: Path, tmp_path: Path, folder: Path) -> None:
    settings = toy_settings(saved_pair, tmp_path, *TWO, "trace=false")
    assert prepare(settings).id == folder.name
    run(settings)
    assert list(tmp_path.glob("*/*/samples.jsonl")) and not list(tmp_path.glob("*/*/trace.jsonl"))


def test_traces_of_texts_that_do_not_count_go_with_them(saved_pair: Path, tmp_path: Path) -> None:
    settings = toy_settings(saved_pair, tmp_path, *TWO)
    run(settings)
    (samples,) = tmp_path.glob("*/*/samples.jsonl")
    trace = samples.with_name("trace.jsonl")
    kept = [rows_of(file) for file in (samples, trace)]
    for file, rows in zip((samples, trace), kept, strict=True):
        put(file, [{**rows[0], "process_id": "killed"}, *rows])
    assert len(read_trace(trace).texts) == 4  # a reader knows, too, which texts count
    run(settings)
    assert [rows_of(samples), rows_of(trace)] == kept


def test_a_trace_that_a_kill_has_torn_goes_on_with_whole_lines(saved_pair: Path, tmp_path: Path) -> None:
    settings = toy_settings(saved_pair, tmp_path, *TWO)
    run(settings)
    (samples,) = tmp_path.glob("*/*/samples.jsonl")
    trace = samples.with_name("trace.jsonl")
    put(samples, rows_of(samples)[:-1])  # the last text's trace was being written, and it has no row yet
    trace.write_bytes(trace.read_bytes()[:-40])
    run(settings)
    texts, traces = (
        [(row["prompt_id"], row["variant"], row["process_id"]) for row in rows_of(file)] for file in (samples, trace)
    )
    assert sorted(texts) == sorted(traces) and len(set(traces)) == 6


def test_a_trace_is_found_from_above_unless_there_are_several(folder: Path, tmp_path: Path) -> None:
    trace = folder / "trace.jsonl"
    for place in (trace, folder, folder.parent, folder.parents[1]):
        assert find_trace(place) == trace
    for name in ("one", "two"):
        (tmp_path / "task" / name).mkdir(parents=True)
        put(tmp_path / "task" / name / "trace.jsonl", [])
    with pytest.raises(UserError, match=r"has 2 runs with a trace; name one: .*one, .*two$"):
        find_trace(tmp_path)
    with pytest.raises(UserError, match="there is no trace at"):
        find_trace(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="a run writes one unless trace=false"):
        find_trace(tmp_path / "empty")


def first_read(row: Row) -> Row:
    found: Row = next(read for step in row["steps"] for read in step["reads"] if read["tokens"])
    return found


DAMAGE: dict[str, tuple[Callable[[Row], object], str]] = {
    "an absent key": (lambda row: row.pop("steps"), "has not all keys"),
    "another version": (lambda row: row.update(schema_version=9), "has not all keys"),
    "an absent option": (lambda row: row.pop("sampling"), "lacks 'sampling'"),
    "an unknown model": (lambda row: row["steps"][0]["reads"][0].update(model="judge"), "lacks 'judge'"),
    "a parent that comes later": (lambda row: first_read(row).update(parents=[9], tokens=[1]), "before its parent"),
    "nodes without tokens": (lambda row: first_read(row).update(tokens=[]), "nodes without a token"),
    "nodes kept of nothing": (lambda row: row["steps"][0]["reads"][0].update(keeps=7), "were not there"),
    "a token that is none": (lambda row: first_read(row).update(tokens=[-3], parents=[0]), "-3 should be a whole"),
    "a round without tokens": (lambda row: row["steps"][0]["rounds"][0].update(tokens=[]), "has no tokens"),
    "a step without rounds": (lambda row: row["steps"][0].update(rounds=[]), "no rounds"),
    "steps of another kind": (lambda row: row.update(steps={"reads": []}), "no row of a trace"),
    "no text at all": (lambda row: row.update(steps=[]), "has no tokens"),
    "a sampling that is none": (lambda row: row["sampling"].update(temperature=0), "temperature must be > 0"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_row_is_named_in_one_line(damage: str, folder: Path, tmp_path: Path) -> None:
    rows = [row for row in rows_of(folder / "trace.jsonl") if row["variant"] == "mtad"]
    change, said = DAMAGE[damage]
    change(rows[1])
    with pytest.raises(UserError, match=said) as caught:
        read_trace(put(tmp_path / "trace.jsonl", rows))
    assert "line 2 is no row of a trace" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_no_trace_or_has_no_whole_text_is_named(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1 is no row of a trace"):
        read_trace(file)
    file.write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="a trace of no runs"):
        read_trace(file)
    rows = rows_of(folder / "trace.jsonl")
    with pytest.raises(UserError, match="a trace of 2 runs"):
        read_trace(put(file, [*rows, {**rows[0], "task": "other"}]))
    with pytest.raises(UserError, match="has nothing to replay: hf_generate: another library"):
        read_trace(put(file, [row for row in rows if row["variant"] == "hf_generate"]))
    with pytest.raises(UserError, match="no prompt whose texts are all there"):
        read_trace(put(file, [{**row, "process_id": row["variant"]} for row in rows]))


def test_the_example_of_the_documentation_can_be_read() -> None:
    page = (ROOT / "docs" / "replay.md").read_text(encoding="utf-8")
    step = read_step(json.loads(page.partition("```json\n")[2].partition("```")[0]))
    assert [len(asked.tokens) for asked in step.reads] == [0, 1, 2]
    assert step.reads[0].grows and step.rounds[0].accepted == 1


def test_points_of_the_frontier_are_left_out_and_other_groups_are_kept(folder: Path, tmp_path: Path) -> None:
    groups = {"mtad": "best each", "autoregressive": FRONTIER}
    rows = [{**row, "variant_group": groups.get(row["variant"], "")} for row in rows_of(folder / "trace.jsonl")]
    trace = read_trace(put(tmp_path / "trace.jsonl", rows))
    assert {(text.label, text.variant_group) for text in trace.texts} == {("mtad", "best each")}
    assert "frontier" in trace.left_out["autoregressive"]


def test_a_last_line_without_its_end_counts_if_it_is_whole(folder: Path, tmp_path: Path) -> None:
    file = put(tmp_path / "trace.jsonl", rows_of(folder / "trace.jsonl"))
    file.write_text(file.read_text(encoding="utf-8").rstrip("\n"), encoding="utf-8")
    assert len(read_trace(file).texts) == 4


def test_the_row_that_a_run_is_just_writing_is_left_alone(folder: Path, tmp_path: Path) -> None:
    rows = rows_of(folder / "trace.jsonl")
    file = put(tmp_path / "trace.jsonl", rows)
    with file.open("a", encoding="utf-8") as stream:
        stream.write('{"schema_version": 1, "var')
    before = file.read_bytes()
    assert len(read_trace(file).texts) == 4
    assert file.read_bytes() == before
