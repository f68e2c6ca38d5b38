"""What a reader sees of a task's groups, of its own figures and of its prompts' origin, from made-up summaries."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from experiments.table_task import task_notes, task_tables
from tests.made_rows import row, summary_of, timed

SPEC_BENCH = ("mt_bench", "translation", "summarization", "qa", "math_reasoning", "rag")
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
LABELS = ("mtad", "autoregressive", "speculative")


def grouped(groups: Sequence[str], labels: Sequence[str] = LABELS) -> dict[str, Any]:
    """Three prompts in each group; in group i a variant but the baseline takes 1 / (i + 1) of its time."""
    rows = []
    for label in labels:
        for i, name in enumerate(groups):
            seconds = 1.0 if label == "autoregressive" else 1 / (i + 1)
            rows += [row(label, f"{name}/{n}", group=name, seconds=timed(0.1, seconds)) for n in range(3)]
    return summary_of(rows, *labels)


def plain() -> dict[str, Any]:
    """Of a task without groups."""
    return summary_of([row(label, "p") for label in LABELS], *LABELS)


def printed(summary: dict[str, Any]) -> list[str]:
    """The tables as they are written to a pipe, without empty lines."""
    console = Console(file=io.StringIO(), width=100, highlight=False)
    for table in task_tables(summary):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def cells(lines: Sequence[str], label: str) -> list[str]:
    """Those beside a label, in all tables together."""
    return [cell for line in lines if line.split()[0] == label for cell in line.split()[1:]]


def test_a_task_without_groups_figures_or_origin_has_no_table_and_no_note() -> None:
    summary = summary_of([row(label, p) for label in LABELS for p in "pq"], *LABELS)
    for known in (summary, {**summary, "teacher_forced": None, "task_origin": {}}):
        assert not list(task_tables(known)) and not list(task_notes(known))
    del summary["groups"]  # summaries of the first versions
    assert not list(task_tables(summary)) and not list(task_notes(summary))


def test_speed_ups_stand_by_group_and_overall_with_the_number_of_prompts() -> None:
    summary = grouped(["a", "b", "c"])
    speed_ups, scores = task_tables(summary)
    assert [column.header for column in speed_ups.columns] == ["variant", "a", "b", "c", "overall"]
    lines = printed(summary)
    assert lines[0] == "Speed-up over autoregressive by group"
    named = next(task_tables({**summary, "grouping": "category"}))
    assert named.title == "Speed-up over autoregressive by category"
    assert cells(lines, "mtad")[:4] == ["1.00", "2.00", "3.00", "1.64"]  # 3 / (1 + 1/2 + 1/3)
    assert cells(lines, "autoregressive")[:4] == ["1.00"] * 4
    assert cells(lines, "prompts")[:4] == ["3", "3", "3", "9"]
    assert scores.title == "Score by group" and cells(lines, "mtad")[4:] == ["1.000"] * 4


@pytest.mark.parametrize("groups", [SPEC_BENCH, MT_BENCH], ids=["Spec-Bench", "MT-Bench"])
def test_the_groups_of_a_known_task_stand_side_by_side_in_100_columns(groups: Sequence[str]) -> None:
    summary = grouped(groups, (*LABELS, "prompt_lookup-best"))
    lines = printed(summary)
    assert len(list(task_tables(summary))) == 2, "one of speed-ups, one of scores"
    assert max(map(len, lines)) <= 100
    assert len(cells(lines, "prompt_lookup-best")) == 2 * (len(groups) + 1)
    assert not any("…" in line for line in lines)


def test_a_long_word_of_a_name_is_cut_into_equal_pieces_and_words_are_wrapped() -> None:
    (table, _) = task_tables(grouped(["summarization", "math_reasoning", "qa", "pre-registration"]))
    heads = {str(column.header) for column in table.columns}
    assert heads >= {"summari-\nzation", "math\nreasoning", "qa"}
    assert max(len(line) for head in heads for line in head.split("\n")) <= 9


@pytest.mark.parametrize("count", [8, 9, 30])
def test_more_groups_than_fit_go_on_in_further_tables_and_none_is_lost(count: int) -> None:
    summary = grouped([f"{i} components" for i in range(1, count + 1)], (*LABELS, "prompt_lookup-best"))
    lines = printed(summary)
    assert max(map(len, lines)) <= 100
    assert len(cells(lines, "mtad")) == 2 * (count + 1)
    assert cells(lines, "mtad")[:count] == [f"{i}.00" for i in range(1, count + 1)], "in the order of the numbers"
    titles = [str(table.title) for table in task_tables(summary) if str(table.title).startswith("Speed-up")]
    assert titles[0] == "Speed-up over autoregressive by group" and len(titles) > 1
    assert set(titles[1:]) == {"Speed-up over autoregressive by group (continued)"}


def test_without_autoregressive_groups_are_compared_with_the_first_reference_and_alone_they_have_their_speed() -> None:
    first = printed(grouped(["a", "b"], ("mtad", "speculative", "block")))
    assert first[0] == "Speed-up over speculative by group"
    alone = grouped(["a", "b"], ("mtad",))
    lines = printed(alone)
    assert lines[0] == "Tokens/s by group" and cells(lines, "mtad")[:3] == ["4.0", "8.0", "5.3"]
    assert not any("speed-up" in note for note in task_notes(alone))


def test_points_of_a_frontier_are_left_to_its_own_tables() -> None:
    summary = grouped(["a"], (*LABELS, "T=0.5"))
    summary["decoders"]["T=0.5"]["group"] = "frontier"
    assert cells(printed(summary), "mtad") and not cells(printed(summary), "T=0.5")


def test_a_group_without_a_score_shows_a_dash_and_the_reason_is_told() -> None:
    rows = [row(label, "p", group="maths") for label in LABELS]
    rows += [row(label, "q", group="talk", score=None, grades={}) for label in LABELS]
    summary = summary_of(rows, *LABELS)
    assert cells(printed(summary), "mtad")[3:] == ["1.000", "-", "-"]
    notes = list(task_notes(summary))
    assert "score by group: accuracy: maths" in notes
    (why,) = (note for note in notes if "no score" in note)
    assert "talk" in why and "maths" not in why
    none = summary_of([{**r, "score": None, "grades": {}} for r in rows], *LABELS)
    assert [str(table.title) for table in task_tables(none)] == ["Speed-up over autoregressive by group"]


def test_notes_say_that_the_intervals_of_groups_are_not_corrected_and_why_some_are_missing() -> None:
    summary = grouped(["a", "b"])
    note, few = (note for note in task_notes(summary) if note.startswith("groups"))
    assert "autoregressive" in note and "not corrected" in note and "summary.json" in note
    assert few == "groups: no interval: fewer than 5 prompts"
    rows = [row(label, p, group=p, seconds=timed(0.0, 0.0 if p == "p" else 1.0)) for label in LABELS for p in "pq"]
    timeless = summary_of(rows, *LABELS)
    assert cells(printed(timeless), "mtad")[:2] == ["-", "1.00"]
    assert any(note.startswith("groups: -: a division by zero") for note in task_notes(timeless))


def test_figures_of_the_task_have_their_standard_errors_and_nulls_their_reasons() -> None:
    summary = plain()
    whole = {"value": 0.1204, "stderr": 0.0301, "reason": None}
    summary["decoders"]["mtad"]["task_figures"] = {
        "pass@1": whole,
        "pass@10": {"value": None, "stderr": None, "reason": "it needs ten repeats"},
        "word_perplexity": {"value": 12345.67, "stderr": None, "reason": None},
    }
    summary["decoders"]["autoregressive"]["task_figures"] = {"pass@1": {"value": 0.5, "stderr": None, "reason": None}}
    (table,) = task_tables(summary)
    assert [column.header for column in table.columns] == ["variant", "pass@1", "pass@10", "word\nperpl-\nexity"]
    lines = printed(summary)
    assert "0.120 ±0.030" in lines[-3] and lines[-3].split()[-2:] == ["-", "12345.7"]
    assert cells(lines, "autoregressive") == ["0.500", "-", "-"]
    assert cells(lines, "speculative") == ["-", "-", "-"]
    assert list(task_notes(summary)) == ["pass@10: it needs ten repeats"]


def test_many_figures_of_a_task_fit_100_columns_too() -> None:
    summary = plain()
    entry = {"value": 0.12, "stderr": 0.03, "reason": None}
    summary["decoders"]["mtad"]["task_figures"] = {f"exact_match,filter_{i}": entry for i in range(12)}
    lines = printed(summary)
    assert max(map(len, lines)) <= 100 and sum(line.count("0.120 ±0.030") for line in lines) == 12


def test_names_with_marks_of_markup_are_printed_as_they_are() -> None:
    rows = [row(label, "p", group="[b]x[/]") for label in ("[red]a", "autoregressive")]
    summary = summary_of(rows, "[red]a", "autoregressive")
    summary["decoders"]["[red]a"]["task_figures"] = {"[i]f": {"value": 1.0, "stderr": None, "reason": None}}
    text = "\n".join(printed(summary))
    assert "[b]x[/]" in text and "[red]a" in text and "[i]f" in text


def test_the_teacher_forced_figures_are_one_note_with_the_reasons_of_what_is_missing() -> None:
    found: dict[str, Any] = {"token_perplexity": 9.87654, "token_perplexity_reason": None, "texts": 62, "window": 512}
    found |= {"word_perplexity": None, "word_perplexity_reason": "too large for a floating-point number"}
    expected = (
        "teacher-forced: token perplexity 9.877, texts 62, window 512, word perplexity -; "
        "too large for a floating-point number"
    )
    assert list(task_notes({**plain(), "teacher_forced": found})) == [expected]


def test_the_origin_of_the_prompts_is_one_note_with_the_licence() -> None:
    file = {
        "id": None,
        "revision": None,
        "file": "test.jsonl",
        "sha256": "0123456789abcdef",
        "split": "test",
        "rows": 5,
    }
    origins = {
        "prompts: test.jsonl, sha256 0123456789ab, split test, 5 rows; licence: MIT": {**file, "licence": "MIT"},
        "prompts: openai/gsm8k main, revision c0ffee, split test; licence: not stated": {
            **{"id": "openai/gsm8k", "subset": "main", "revision": "c0ffee", "file": None, "split": "test"},
            **{"licence": "", "citation": "Cobbe et al."},
        },
        "prompts: -; licence: CC": {"licence": "CC"},
    }
    for expected, origin in origins.items():
        assert list(task_notes({**plain(), "task_origin": origin})) == [expected]
