"""The embedded tasks: prompts, grades, and what a hostile output can do (nothing)."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.task import Task
from experiments.tasks.arithmetic import Arithmetic
from experiments.tasks.code import Code
from experiments.tasks.sql import Sql, database, execute

TASKS: tuple[Task, ...] = (Sql(), Arithmetic(), Code())
IDS = [task.name for task in TASKS]


def gold(task: Task, answer: dict[str, object]) -> str:
    """The output that should score full marks."""
    return {"sql": " {sql}", "arithmetic": " 1 + 1 = 2.\n#### {number}\n", "code": "{code}"}[task.name].format(**answer)


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_every_gold_answer_scores_one_on_every_measure(task: Task) -> None:
    for prompt in task.prompts():
        grades = task.grade(prompt, gold(task, dict(prompt.answer)))
        assert set(grades.values()) == {1.0}, prompt.id


@pytest.mark.parametrize("task", TASKS, ids=IDS)
@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800", "#### ", "9" * 5000, "#### " + "9" * 5000, "(" * 5000])
def test_nonsense_scores_without_raising_and_never_the_full_mark(task: Task, text: str) -> None:
    for prompt in task.prompts()[:5]:
        headline, *_ = task.grade(prompt, text).values()
        assert 0.0 <= headline < 0.5


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_prompts_are_two_hundred_distinct_texts_with_distinct_ids(task: Task) -> None:
    prompts = task.prompts()
    assert len(prompts) == len({prompt.text for prompt in prompts}) == len({prompt.id for prompt in prompts}) == 200


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_no_gold_answer_contains_a_stop_string_before_its_end(task: Task) -> None:
    for prompt in task.prompts():
        assert not any(stop in gold(task, dict(prompt.answer)) for stop in task.stop)


def test_tasks_import_without_torch_or_any_other_package() -> None:
    program = (
        "import sys, experiments.tasks.sql, experiments.tasks.arithmetic, experiments.tasks.code;"
        "assert not {'torch', 'numpy', 'transformers', 'datasets', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


def test_sql_that_returns_other_rows_scores_zero() -> None:
    task = Sql()
    for prompt in task.prompts():
        statement = prompt.answer["sql"]
        for corrupted in (f"{statement} LIMIT 0", f"SELECT 1, 2, 3 UNION ALL {statement}", statement[7:]):
            assert task.grade(prompt, corrupted) == {"execution_accuracy": 0.0}, prompt.id


def test_sql_row_order_counts_only_where_the_gold_statement_orders() -> None:
    task = Sql()
    table = task.prompts()[0].text.split("(")[0]
    free, ordered = f"SELECT id FROM {table}", f"SELECT id FROM {table} ORDER BY id"
    backwards = f"SELECT id FROM {table} ORDER BY id DESC"
    for gold_statement, score in ((free, 1.0), (ordered, 0.0)):
        prompt = replace(task.prompts()[0], answer={**task.prompts()[0].answer, "sql": gold_statement})
        assert task.grade(prompt, backwards) == {"execution_accuracy": score}


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE {table}",
        "DELETE FROM {table}",
        "UPDATE {table} SET id = id + 1000",
        "INSERT INTO {table}(id) VALUES (999)",
        "CREATE TABLE other (id INTEGER)",
        "ATTACH DATABASE '{folder}/other.sqlite' AS other",
        "VACUUM INTO '{folder}/copy.sqlite'",
        "PRAGMA journal_mode = WAL",
        "SELECT load_extension('{folder}/extension')",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "SELECT length(zeroblob(1000000000))",
        "SELECT hex(zeroblob(3000)) LIKE '%0%0%0%0%1'",
        "SELECT replace(name, 'a', 'aaaa') FROM {table}",
        "SELECT printf('%1000000d', 1)",
        "SELECT randomblob(10)",
        "SELECT 1; DROP TABLE {table}",
    ],
)
def test_hostile_sql_scores_zero_and_leaves_the_databases_unchanged(statement: str) -> None:
    task, prompt = Sql(), Sql().prompts()[0]
    path = database(prompt.answer["database"])
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    table = prompt.text.split("(")[0]
    assert task.grade(prompt, statement.format(table=table, folder=path.parent)) == {"execution_accuracy": 0.0}
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_one_instruction_of_sqlite_can_do_little() -> None:
    path = database(Sql().prompts()[0].answer["database"])
    assert execute(path, "SELECT 'aab' LIKE 'A%B'") == [(1,)]
    # No function makes long values, and patterns are short, so no comparison has much to do.
    for call in ("hex('a')", "zeroblob(9)", "randomblob(9)", "printf('%9d', 1)", "replace('a', 'a', 'b')", "quote(1)"):
        assert execute(path, f"SELECT {call}") is None
    assert execute(path, f"SELECT 'a' LIKE '{'%a' * 50}'") == [(0,)]
    assert execute(path, f"SELECT 'a' LIKE '{'%a' * 51}'") is None


def test_arithmetic_grades_the_first_marked_number_as_a_whole() -> None:
    task, prompt = Arithmetic(), Arithmetic().prompts()[0]
    number = prompt.answer["number"]
    assert task.grade(prompt, f"#### {number}\n#### {number + 1}") == {"final_answer": 1.0}
    for wrong in (f"#### {number}0", f"#### -{number}", f"{number}", f"#### {number + 1}\n#### {number}"):
        assert task.grade(prompt, wrong) == {"final_answer": 0.0}


def test_code_similarity_falls_with_changes_and_syntax_errors_do_not_parse() -> None:
    task = Code()
    for prompt in task.prompts()[:20]:
        code = prompt.answer["code"]
        cut, broken = task.grade(prompt, code[: len(code) // 2]), task.grade(prompt, "\n    ))((\n" + code)
        assert cut["edit_similarity"] < 1.0 and broken["edit_similarity"] < 1.0
        assert broken["parses"] == 0.0


def test_code_cut_in_its_last_line_still_parses() -> None:
    task = Code()
    prompt = task.prompts()[0]
    assert task.grade(prompt, f"{prompt.answer['code']}\n    x = (1,")["parses"] == 1.0
