"""Traces: whole texts, taken apart at the ends of tokens, and nothing in them that acts on a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.report.results import Run, read_results
from experiments.report.trace import Segment, question, trace, visible
from mtad.errors import UserError
from scripts.trace import main
from tests.made_rows import row, summary_of

TEXT = "one two\x1b[2Jthree"


def round_of(*sources: str) -> dict[str, Any]:
    return {"tokens": len(sources), "sources": list(sources), "drafted": 3, "accepted": sources.count("draft")}


def traced(variant: str, prompt: str = "p-1", **changes: Any) -> dict[str, Any]:
    """A row of five tokens in two rounds; the last one spells nothing."""
    made = row(variant, prompt)
    return made | {
        "schema_version": 1,
        "text": TEXT,
        "token_ids": [1, 2, 3, 4, 5],
        "token_ends": [3, 7, 11, 16, 16],
        "rounds": [round_of("draft", "draft", "corrected"), round_of("target", "target")],
        "log_likelihoods": [-0.5] * 5,
        **changes,
    }


def written(folder: Path, *changes: dict[str, Any], hidden: bool = False, **others: Any) -> Path:
    """The folder of a run with two variants; each change makes one more row of the first variant, others all rows."""
    rows = [traced(name, prompt, **others) for prompt in ("p-1", "p-2") for name in ("mtad", "autoregressive")]
    plain = [{**made, "rounds": row(made["variant"], "p")["rounds"], "text": "x"} for made in rows]
    summary = {**summary_of(plain, "mtad", "autoregressive"), "parameters": {"target": 11_000_000, "draft": 1}}
    rows += [traced("mtad", **change) for change in changes]
    said = {"sha256": "ab"} if hidden else {"user": "say \x07 it", "reply": None}
    prompts = [{"prompt_id": name, "turns": [said], "left_out_reason": "private"} for name in ("p-1", "p-2")]
    folder.mkdir(parents=True)
    (folder / "samples.jsonl").write_text("".join(json.dumps(made) + "\n" for made in rows), encoding="utf-8")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(made) + "\n" for made in prompts), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


def the_run(folder: Path) -> Run:
    return read_results(folder).runs[0]


def printed(folder: Path, *arguments: str, terminal: bool = False) -> str:
    stream = io.StringIO()
    colours = Console(file=stream, force_terminal=True, color_system="truecolor", width=80)
    main([str(folder), *arguments], colours if terminal else Console(file=stream))
    return stream.getvalue()


def test_segments_are_the_text_cut_where_round_or_source_changes(tmp_path: Path) -> None:
    first = trace(the_run(written(tmp_path / "run")), "p-1")[0]
    assert first.segments == (
        Segment("one two", "draft", 0, 2),
        Segment("\x1b[2J", "corrected", 0, 1),
        Segment("three", "target", 1, 2),
    )
    assert first.per_forward == 5 / first.forwards
    assert first.kinds == {"draft": 2, "target": 2, "corrected": 1}


def test_variants_come_in_the_summarys_order_and_no_prompt_of_another(tmp_path: Path) -> None:
    run = the_run(written(tmp_path / "run"))
    assert [one.label for one in trace(run, "p-2")] == list(run.summary["decoders"])


def test_what_a_process_left_half_measured_is_not_shown(tmp_path: Path) -> None:
    later = {"prompt_id": "p-1", "process_id": "killed", "text": "half", "token_ends": [4] * 5}
    assert trace(the_run(written(tmp_path / "run", later)), "p-1")[0].segments[0].text == "one two"


def test_tokens_without_a_recorded_round_are_called_so(tmp_path: Path) -> None:
    rounds = [round_of("draft")]
    folder = written(tmp_path / "run", {"prompt_id": "p-3", "rounds": rounds})
    (only,) = trace(the_run(folder), "p-3")
    assert only.kinds == {"draft": 1, "unrecorded": 4}
    assert "".join(part.text for part in only.segments) == TEXT


def test_rows_that_do_not_say_where_tokens_end_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    samples = folder / "samples.jsonl"
    samples.write_text(samples.read_text(encoding="utf-8").replace('"token_ends"', '"other"'), encoding="utf-8")
    with pytest.raises(UserError, match="did not record where tokens end; measure again"):
        trace(the_run(folder), "p-1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["p-11"], "no prompt p-11 among the 2 of this run; it has, for instance, p-1"),
        (["p-1", "--turn", "4"], "no turn 4, repeat 0; there are: --turn 0 --repeat 0"),
        (["p-1", "--variants", "mtad,no"], "no variant no; this run has mtad, autoregressive"),
    ],
)
def test_a_wrong_name_is_one_line_with_the_right_ones(tmp_path: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit, match=words) as ended:
        printed(written(tmp_path / "run"), *arguments)
    assert str(ended.value).startswith("error: ")
    assert "\n" not in str(ended.value)


def test_a_folder_of_several_runs_and_a_bare_summary_are_refused(tmp_path: Path) -> None:
    one = written(tmp_path / "all" / "one")
    written(tmp_path / "all" / "two")
    with pytest.raises(SystemExit, match="has 2 runs; name one of them"):
        printed(tmp_path / "all", "p-1")
    with pytest.raises(SystemExit, match="no texts beside this summary"):
        printed(one / "summary.json", "p-1")


def test_a_pipe_gets_marks_and_no_escape_codes(tmp_path: Path) -> None:
    shown = printed(written(tmp_path / "run"), "p-1", "--variants", "mtad")
    assert "one two{␛[2J}|[three]" in shown
    assert "5 tokens, " in shown and "per target forward" in shown
    assert "[target]  chosen by the target on its own" in shown
    assert "† a stand-in: a target of 11.0 M parameters" in shown
    assert "autoregressive" not in shown
    assert "\x1b" not in shown and "\x07" not in shown


def test_a_terminal_gets_colours_and_none_of_the_texts_own_codes(tmp_path: Path) -> None:
    shown = printed(written(tmp_path / "run"), "p-1", terminal=True)
    assert "\x1b[38;2;86;180;233mone two\x1b[0m" in shown
    assert "\x1b[2J" not in shown and "{" not in shown


def test_a_long_text_gets_no_line_breaks_of_ours(tmp_path: Path) -> None:
    text = "word " * 60
    folder = written(tmp_path / "run", {"prompt_id": "p-3", "text": text, "token_ends": [5, 9, 14, 20, 25]})
    assert text[25:] in printed(folder, "p-3")


def test_texts_that_are_not_in_the_results_are_told_of(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", {"prompt_id": "p-3", "text": None}, hidden=True)
    assert "publish=true leaves it out" in printed(folder, "p-3")
    assert question(the_run(folder), "p-1").absent == "private"
    assert "(private)" in printed(folder, "p-1")


def test_what_would_turn_a_line_around_is_spelt_out() -> None:
    assert visible("a\u202eb\ud800\x9b\n\té👩‍💻") == "a\\u202eb\\ud800\\u009b\n\té👩‍💻"
