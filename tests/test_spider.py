"""Spider: prompts made of schemas, and statements graded by their rows, on databases made here and on the real ones."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import sqlite3
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments.dataset.row_task import Row
from experiments.safety.sqlite import Rows
from experiments.task import Prompt
from experiments.tasks.spider import Spider, components, same
from mtad.errors import UserError
from tests.toy import ROOT

FIXTURE = ROOT / "tests" / "fixtures" / "spider.jsonl"
DATABASES = {
    "bakery": """
        CREATE TABLE cake (cake_id INTEGER PRIMARY KEY, name TEXT, price REAL);
        CREATE TABLE orders (order_id INTEGER PRIMARY KEY, cake_id INTEGER REFERENCES cake(cake_id), customer TEXT);
        INSERT INTO cake VALUES (1, 'sponge', 2.5), (2, 'tart', 4), (3, 'scone', NULL);
        INSERT INTO orders VALUES (1, 1, 'Ada'), (2, 1, 'Ada'), (3, 2, 'Bo');
    """,
    "library": """
        CREATE TABLE book (title TEXT, author TEXT);
        INSERT INTO book VALUES ('Leaves', 'Fern'), ('Roots', 'Fern'), ('Stones', 'Moss');
    """,
}


def make_databases(folder: Path) -> Path:
    """The databases that the fixture asks about, in a folder of this one."""
    for name, script in DATABASES.items():
        (folder / "database" / name).mkdir(parents=True)
        connection = sqlite3.connect(folder / "database" / name / f"{name}.sqlite")
        connection.executescript(script)
        connection.close()
    return folder / "database"


@pytest.fixture
def task(tmp_path: Path) -> Spider:
    """The fixture's rows with databases beside them, under the options of the YAML."""
    make_databases(tmp_path)
    (tmp_path / "dev.jsonl").write_bytes(FIXTURE.read_bytes())
    return spider(tmp_path)


def spider(path: Path) -> Spider:
    task = instantiate(OmegaConf.load(ROOT / "conf" / "task" / "spider.yaml"), path=str(path))
    assert isinstance(task, Spider)
    return task


def ask(task: Spider, number: int) -> Prompt:
    """The prompt of a row of the fixture."""
    return sorted(task.prompts(), key=lambda prompt: prompt.id)[number]


def score(task: Spider, prompt: Prompt, text: str) -> dict[str, float]:
    return dict(task.grade(prompt, text))


def test_the_schema_may_be_cut_and_the_question_may_not(task: Spider) -> None:
    (turn,) = ask(task, 0).turns
    assert turn.document == (
        "Table cake, columns = [*,cake_id,name,price]\n"
        "Table orders, columns = [*,order_id,cake_id,customer]\n"
        "Foreign_keys = [orders.cake_id = cake.cake_id]"
    )
    assert turn.after == "\nQuestion: How many cakes are there?\nSQL:"
    assert turn.text.startswith("You are a SQL expert") and turn.text.endswith("Schema:\n")


def test_every_gold_statement_scores_one_also_in_a_grading_process(task: Spider) -> None:
    prompts = task.prompts()
    assert len(prompts) == 6
    for prompt in prompts:
        grades = score(pickle.loads(pickle.dumps(task)), prompt, f" {prompt.answer['sql']}")
        empty = float(prompt.id == "library-0")
        assert grades == {
            "execution_accuracy": 1.0,
            "distinct_ignored": 1.0,
            "authors_match": 1.0,
            "executes": 1.0,
            "timed_out": 0.0,
            "empty": empty,
        }


def test_the_headline_is_execution_accuracy(task: Spider) -> None:
    assert next(iter(score(task, ask(task, 0), ""))) == "execution_accuracy"


@pytest.mark.parametrize(
    ("number", "said", "accurate", "distinct_ignored", "authors"),
    [
        (1, "SELECT name FROM cake ORDER BY price", 0, 0, 1),  # the order counts where the gold statement orders
        (2, "SELECT price, name FROM cake WHERE name = 'scone'", 1, 1, 1),  # the order of columns never does
        (2, "SELECT name, price FROM cake WHERE name = 'scone' UNION ALL SELECT 'scone', NULL", 0, 0, 1),
        (2, "SELECT name, 'None' FROM cake WHERE name = 'scone'", 0, 0, 0),  # NULL is no text
        (3, "SELECT customer, 2.0 FROM orders WHERE order_id = 1", 1, 1, 0),  # 2.0 is 2
        (3, "SELECT customer FROM orders WHERE order_id = 1", 0, 0, 0),
        (4, "SELECT 1 WHERE 0", 1, 1, 1),  # no rows are right where the gold statement has none
        (4, "-- nothing", 0, 0, 0),
        (5, "SELECT author FROM book", 0, 1, 1),  # duplicates
        (5, "SELECT author FROM book WHERE title <> 'Roots'", 1, 0, 1),
        (0, "SELECT count(*) FROM cake WHERE cake_id > = 1", 1, 1, 1),  # as the official scorer has it
        (0, "SELECT 3 WHERE Year(curdate( )) = 2020", 1, 1, 1),
    ],
)
def test_grades_differ_as_their_rules_do(
    task: Spider, number: int, said: str, accurate: int, distinct_ignored: int, authors: int
) -> None:
    grades = score(task, ask(task, number), said)
    found = (grades["execution_accuracy"], grades["distinct_ignored"], grades["authors_match"])
    assert found == (accurate, distinct_ignored, authors)


@pytest.mark.parametrize(
    ("wanted", "found", "ordered", "equal"),
    [
        ([(1, 2), (2, 1)], [(2, 1), (1, 2)], False, True),
        ([(1, 2), (2, 1)], [(2, 1), (1, 2)], True, True),  # by an exchange of the columns
        ([(1, 3), (2, 4)], [(4, 2), (3, 1)], False, True),
        ([(1, 3), (2, 4)], [(4, 2), (3, 1)], True, False),
        ([(1, 3), (2, 4)], [(1, 4), (2, 3)], False, False),  # columns alike, rows not
        ([(1, 1, 2)], [(1, 2, 2)], False, False),
        ([(1,), (1,), (2,)], [(1,), (2,), (2,)], False, False),
        ([(1,)], [("1",)], False, False),
        ([(1,)], [(1.0,)], False, True),
        ([(None,)], [(None,)], True, True),
        ([], [(1,)], False, False),
        ([], [], True, True),
    ],
)
def test_rows_are_compared_as_multisets_up_to_the_order_of_columns(
    wanted: Rows, found: Rows, ordered: bool, equal: bool
) -> None:
    assert same(wanted, found, ordered) is same(found, wanted, ordered) is equal


def test_columns_that_nearly_fit_are_not_tried_for_ever() -> None:
    bits = [tuple(number >> place & 1 for place in range(9)) for number in range(512)]
    even: Rows = [(*row, sum(row) % 2) for row in bits]  # any nine columns have all rows
    odd: Rows = [(*row, 1 - sum(row) % 2) for row in bits]
    began = time.monotonic()
    assert not same(even, odd, False)
    assert time.monotonic() - began < 10
    assert same(even, even[::-1], False)


def test_many_equal_columns_are_compared_at_once() -> None:
    assert not same([(1,) * 200 + (2,)], [(1,) * 200 + (3,)], False)
    assert same([(1,) * 200 + (2,), (3,) * 201], [(3,) * 201, (2,) + (1,) * 200], False)


def test_under_a_chat_template_no_semicolon_ends_the_answer(task: Spider) -> None:
    assert (task.stop, task.chat_stop) == ((";",), ())


@pytest.mark.parametrize("text", ["", "\0", "\ud800", "'" * 10**6, " \n" * 10**6, "distinct" * 10**6, "```" * 10**5])
def test_nonsense_scores_zero(task: Spider, text: str) -> None:
    assert sum(score(task, ask(task, 5), text).values()) == 0


def test_a_statement_without_end_is_stopped(task: Spider) -> None:
    bomb = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    grades = score(task, ask(task, 0), bomb)
    assert grades["timed_out"] == 1.0 and grades["executes"] == grades["execution_accuracy"] == 0.0


@pytest.mark.parametrize(
    ("sql", "number"),
    [
        ("SELECT a FROM t", 0),
        ("SELECT count(*) FROM t WHERE a > 1 AND (b = 2 OR c BETWEEN 3 AND 4)", 4),
        ("SELECT a FROM t JOIN u ON t.x = u.x GROUP BY a HAVING count(*) > 1 ORDER BY max(b) LIMIT 1", 7),
        ("SELECT DISTINCT a FROM t WHERE b IN (SELECT b FROM u)", 3),
        ("SELECT a FROM t UNION SELECT a FROM u", 1),
        ("SELECT a FROM t WHERE b IN (SELECT b FROM u WHERE c = 1 AND d = 2) AND e = 3", 5),
        ("SELECT a FROM t WHERE b IN (SELECT b FROM u GROUP BY b HAVING sum(c) > 1 OR sum(d) > 1)", 6),
        ("SELECT FROM WHERE (", None),
    ],
)
def test_components_of_a_statement_are_counted(sql: str, number: int | None) -> None:
    assert components(sql) == number


def test_rows_that_cannot_be_graded_are_named_before_anything_is_generated(task: Spider) -> None:
    folder = Path(str(task.path))
    for line, message in {
        '{"db_id": "zoo", "question": "?", "query": "SELECT 1"}': "row 7: there is no database 'zoo': .*",
        '{"db_id": "../x", "question": "?", "query": "SELECT 1"}': "row 7: 'db_id' is no name of a folder",
        '{"db_id": "", "question": "?", "query": "SELECT 1"}': "row 7: 'db_id' is no name of a folder",
        '{"db_id": "..", "question": "?", "query": "SELECT 1"}': "row 7: 'db_id' is no name of a folder",
        '{"db_id": "bakery", "question": "?", "query": "SELECT pie FROM cake"}': "row 7: no such column: pie",
        '{"db_id": "bakery", "query": "SELECT 1"}': "row 7 has no field 'question'",
    }.items():
        (folder / "dev.jsonl").write_text(FIXTURE.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
        with pytest.raises(UserError, match=message) as raised:
            task.prompts()
        assert "\n" not in str(raised.value)


def test_a_gold_statement_with_a_semicolon_or_a_year_scores_one(task: Spider) -> None:
    for sql in ("SELECT 'a;b', name FROM cake -- c; d", "SELECT name FROM cake WHERE YEAR(CURDATE()) > = 2020"):
        row = {"id": 17, "db_id": "bakery", "question": "?", "query": sql}
        (prompt,) = task.made_of([Row(row, 1, "here")])
        assert prompt.id == "17"
        assert score(task, prompt, f" {sql}")["execution_accuracy"] == 1.0


def test_another_database_makes_another_prompt(task: Spider, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "database", moved)
    other = replace(task, databases=str(moved))
    assert ask(other, 0).answer == ask(task, 0).answer
    again = tmp_path / "again"
    shutil.copytree(moved, again)
    connection = sqlite3.connect(again / "bakery" / "bakery.sqlite")
    connection.execute("DELETE FROM cake WHERE cake_id = 3")
    connection.commit()
    connection.close()
    other = replace(task, databases=str(again))
    assert ask(other, 0).answer != ask(task, 0).answer and ask(other, 5).answer == ask(task, 5).answer


def test_a_file_that_is_no_database_is_named_with_its_row(task: Spider) -> None:
    (Path(str(task.path)) / "database" / "library" / "library.sqlite").write_bytes(b"no database " * 100)
    with pytest.raises(UserError, match=r"row 5: .*library.sqlite: no SQLite database"):
        task.prompts()


def test_missing_databases_are_asked_for(task: Spider, tmp_path: Path) -> None:
    task.check()
    for wrong in (replace(task, path=None), replace(task, databases=str(tmp_path / "none"))):
        with pytest.raises(UserError, match="databases=") as raised:
            wrong.check()
        assert "\n" not in str(raised.value)
    moved = (tmp_path / "database").rename(tmp_path / "moved")
    file = replace(task, path=str(tmp_path / "dev.jsonl"), databases=str(moved))
    file.check()
    assert len(file.prompts()) == 6


def test_a_missing_package_is_asked_for(task: Spider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    with pytest.raises(UserError, match=r"pip install 'mtad-bench\[tasks\]'"):
        task.check()


def test_the_databases_are_part_of_where_a_task_comes_from(task: Spider) -> None:
    origin = task.origin()
    assert origin["licence"] == "CC BY-SA 4.0" and "1809.08887" in origin["citation"]
    assert len(origin["databases_sha256"]) == 64


def corrupted(sql: str) -> list[str]:
    """The statement with other rows, whatever its own are."""
    inner = f"SELECT * FROM ({sql.rstrip().rstrip(';')})"
    return [f"{inner} LIMIT 0", f"SELECT 1 FROM ({inner}) UNION ALL SELECT 2", "SELECT 'no such answer', 17"]


def test_on_real_data_gold_scores_one_corrupted_zero_and_no_byte_changes(data: Path) -> None:
    files = [file for file in sorted((data / "spider" / "database").rglob("*")) if file.is_file()]
    before = [hashlib.sha256(file.read_bytes()).digest() for file in files]
    task = spider(data / "spider")
    prompts = task.prompts()
    assert len(prompts) == 825 and len(files) == 19
    empty = 0
    for prompt in prompts:
        grades = score(task, prompt, prompt.answer["sql"])
        names = ("execution_accuracy", "distinct_ignored", "authors_match", "executes")
        assert all(grades[name] == 1.0 for name in names), prompt.id
        empty += int(grades["empty"])
        for text in corrupted(prompt.answer["sql"])[int(grades["empty"]) :]:
            wrong = score(task, prompt, text)
            assert wrong["execution_accuracy"] == wrong["authors_match"] == 0.0 < wrong["executes"], prompt.id
    assert empty == 35
    assert Counter(prompt.group for prompt in prompts) == {
        "0-1": 209,
        "2": 232,
        "3": 158,
        "4+": 226,
    }
    assert files == [file for file in sorted((data / "spider" / "database").rglob("*")) if file.is_file()]
    assert before == [hashlib.sha256(file.read_bytes()).digest() for file in files]


def test_a_real_row_without_its_database_is_named(data: Path) -> None:
    with pytest.raises(UserError, match="row 1: there is no database 'wta_1'"):
        spider(data / "spider" / "dev_no_database.jsonl").prompts()
