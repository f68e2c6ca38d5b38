"""Tasks made of rows: which file is meant, what is in it, and what is wrong with it, in one line."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from experiments.dataset.row_task import Row, RowTask
from experiments.optional import need
from experiments.task import Prompt, Turn
from experiments.tasks.spec_bench import SpecBench
from mtad.errors import UserError

ROWS = [{"id": "a", "text": "one"}, {"id": "b", "text": "two", "more": ["x"]}, {"id": "c", "text": "three"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
FULL = [{"more": None, **row} for row in ROWS]  # an absent field is None


@dataclass(frozen=True, kw_only=True)
class Words(RowTask):
    name: str = field(default="words", init=False)

    def prompt(self, row: Row) -> Prompt:
        return Prompt(row.id(self.name), (Turn(row.text("text")),))


def values(path: Path, split: str = "test") -> list[dict[str, Any]]:
    return [dict(row.values) for row in Words(path=str(path), split=split).rows()]


def parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(FULL), path)


FORMS: dict[str, Callable[[Path], object]] = {
    "rows.jsonl": lambda path: path.write_bytes(LINES),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "rows.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "rows.json.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(ROWS).encode())),
    "rows.parquet": parquet,
    "[odd] name?*.jsonl": lambda path: path.write_bytes(LINES),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    FORMS[name](tmp_path / name)
    assert values(tmp_path / name) == FULL


@pytest.mark.parametrize("form", ["lines.txt", "lines.txt.gz"])
def test_a_text_is_one_row_a_line_with_its_empty_lines(tmp_path: Path, form: str) -> None:
    content = codecs.BOM_UTF8 + " one\n\n two \x0b2\u2028\n".encode()
    (tmp_path / form).write_bytes(gzip.compress(content) if form.endswith("gz") else content)
    assert [row["text"] for row in values(tmp_path / form)] == [" one", "", " two \x0b2\u2028"]


def test_fields_may_come_late_and_change_their_kind(tmp_path: Path) -> None:
    early = [{"text": "x" * 1000}] * 12_000  # more than `datasets` takes for one chunk by default
    late = [{"text": "y", "reference": 1}, {"text": "z", "reference": ["a", {"b": None}]}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*early, *late)))
    found = values(tmp_path / "rows.jsonl")
    assert found[0]["reference"] is None and [row["reference"] for row in found[-2:]] == [1, ["a", {"b": None}]]


def test_a_field_that_begins_after_what_is_read_at_once_is_said_with_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.dataset.reading.ONE_CHUNK", 2**10)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n' * 100 + '{"text": "b", "more": 1}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl: all fields must stand .* in its first 0 MiB") as error:
        values(tmp_path / "rows.jsonl")
    assert "more" in str(error.value) and "\n" not in str(error.value)


def test_a_task_without_a_data_set_on_the_hub_says_where_its_file_is() -> None:
    with pytest.raises(UserError, match=r"task\.path=FILE .*question\.jsonl of github\.com/hemingkx/Spec-Bench"):
        SpecBench().prompts()


FOLDERS = {  # files, split, the file or files that are meant
    "stem": (["test.jsonl", "test_2.jsonl", "train.jsonl.gz", "testimony.jsonl"], "test", ["test.jsonl"]),
    "gz": (["test.jsonl", "train.jsonl.gz"], "train", ["train.jsonl.gz"]),
    "start": (["test_200.jsonl.gz", "notes.md"], "test", ["test_200.jsonl.gz"]),
    "shards": (
        ["test-1-of-2.jsonl", "test-0-of-2.jsonl", "dev.json"],
        "test",
        ["test-0-of-2.jsonl", "test-1-of-2.jsonl"],
    ),
    "only": (["question.jsonl", "README.md"], "train", ["question.jsonl"]),
    "valid": (["valid.jsonl", "test.jsonl"], "validation", ["valid.jsonl"]),
    "dev": (["dev.jsonl", "dev_no_database.jsonl", "tables.json"], "validation", ["dev.jsonl"]),
    "own": (["other.jsonl", "mine.jsonl"], "mine", ["mine.jsonl"]),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_stands_for_the_file_of_the_split(tmp_path: Path, case: str) -> None:
    files, split, meant = FOLDERS[case]
    for file in files:
        content = json.dumps({"text": file}).encode()
        (tmp_path / file).write_bytes(gzip.compress(content) if file.endswith("gz") else content)
    assert [row["text"] for row in values(tmp_path, split)] == meant
    assert Words(path=str(tmp_path), split=split).origin()["file"] == ", ".join(meant)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "no file for the split 'test'; its files of rows: none"),
        (["one.jsonl", "two.jsonl"], "no file for the split 'test'; its files of rows: one.jsonl, two.jsonl"),
        (["train.jsonl"], "no file for the split 'test'; its files of rows: train.jsonl"),
        (["test.jsonl", "test.json"], "several files for the split 'test'; name one of them: test.json, test.jsonl"),
        (["test-0.jsonl", "test-1.json"], "several files for the split 'test'; name one of them: test-0.jsonl, test-1"),
    ],
)
def test_a_folder_without_one_clear_file_is_refused_with_what_is_there(
    tmp_path: Path, files: list[str], said: str
) -> None:
    for file in files:
        (tmp_path / file).write_bytes(LINES)
    with pytest.raises(UserError) as error:
        Words(path=str(tmp_path)).prompts()
    assert str(error.value).startswith(f"task.path={tmp_path}: {said}")


BROKEN = {  # name, content, what is said
    "comma": ("x.jsonl", b'{"text": "a"}\n{"text": "b"\n{"text": "c"}\n', "line 2 is no JSON: Expecting ','"),
    "words": ("x.jsonl", b'{"text": "a"}\n\n\nhello\n', "line 4 is no JSON: Expecting value (column 1)"),
    "list": ("x.json", b'[{"text": "a"},\n {"text": "b"]', "line 2 is no JSON"),
    "number": ("x.jsonl", b'{"text": "a"}\n3\n', "row 2 is no object with fields but 3"),
    "array": ("x.jsonl", b'["a"]\n["b"]\n', 'row 1 is no object with fields but ["a"]'),
    "item": ("x.json", b'[{"text": "a"},\n3]', "row 2 is no object with fields but 3"),
    "half": ("x.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n', "line 2 cannot be read: 'utf-8' codec can't encode"),
    "twice": ("x.jsonl", b'{"text": "a", "text": "b"}\n', "line 1 cannot be read: a key stands twice in an object"),
    "latin": ("x.jsonl", b'{"text": "a"}\n{"text": "\xe4"}\n', "line 2 cannot be read: 'utf-8' codec can't decode"),
    "text": ("x.txt", b"a\nb\n\xff\n", "line 3 cannot be read: 'utf-8' codec can't decode"),
    "deep": (
        "x.jsonl",
        b'{"text": "a"}\n' + b"[" * 3000 + b"]" * 3000 + b"\n",
        "line 2 cannot be read: maximum recursion",
    ),
    "plain": ("x.jsonl.gz", LINES, "Not a gzipped file"),
    "short": ("x.jsonl.gz", gzip.compress(LINES)[:-9], "Compressed file ended before"),
    "corrupt": ("x.jsonl.gz", b"\x1f\x8b\x08\x00" + b"x" * 50, "Error -3 while decompressing data"),
    "parquet": ("x.parquet", b"PAR1", "Parquet file size is 4 bytes"),
    "empty": ("x.jsonl", b"", "there are no rows in it"),
    "blank": ("x.jsonl", b"\n\n", "there are no rows in it"),
    "nothing": ("x.json", b"[]", "there are no rows in it"),
    "no text": ("x.txt", b"", "there are no rows in it"),
    "absent": ("x.jsonl", b'{"text": "a"}\n{"id": 1}\n', "row 2 has no field 'text'; it has: id"),
    "null": ("x.jsonl", b'{"id": 1, "text": null}\n', "row 1 has no field 'text'; it has: id"),
    "kind": ("x.jsonl", b'{"text": "a"}\n{"text": [1]}\n', "row 2: 'text' is no text: '[1]'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_is_said_in_one_line_with_its_number(
    tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    name, content, said = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        Words(path=str(tmp_path)).prompts()
    assert str(error.value).startswith(f"{tmp_path}/{name}: {said}") and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_path_that_is_not_there_or_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        Words(path=str(tmp_path / "none.jsonl")).prompts()
    (tmp_path / "a::b.jsonl").write_bytes(LINES)
    with pytest.raises(UserError, match="rename it; `datasets` takes :: in a path for an archive"):
        Words(path=str(tmp_path / "a::b.jsonl")).prompts()
    (tmp_path / "rows.xlsx").touch()
    with pytest.raises(UserError, match=r"should end with \.jsonl, \.json, \.txt, \.parquet"):
        Words(path=str(tmp_path / "rows.xlsx")).prompts()
    with pytest.raises(UserError, match=r"task\.path=FILE or FOLDER, or task\.id="):
        Words().prompts()


def test_local_files_need_no_network_and_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    opened = []  # it swallows the errors of its own calls

    def refused(*names: object) -> None:
        opened.append(names)
        raise OSError("no network")

    cache = tmp_path / "cache"
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.load, "get_session", refused)
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert values(tmp_path / "rows.jsonl") == FULL
    assert os.listdir(tmp_path) == ["rows.jsonl"] and not opened  # noqa: PTH208


def test_a_file_is_read_once_until_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(LINES)
    task = Words(path=str(file))
    first = next(task.rows()).values
    assert next(Words(path=str(file), max_new_tokens=5).rows()).values is first
    file.write_bytes(b'{"text": "other"}\n')
    assert [prompt.text for prompt in task.prompts()] == ["other"]


def test_the_origin_names_the_content_but_no_folder(tmp_path: Path) -> None:
    (tmp_path / "test.jsonl").write_bytes(LINES)
    origin = Words(path=str(tmp_path), licence="CC0", citation="us").origin()
    assert origin == {
        "id": None,
        "subset": None,
        "revision": None,
        "file": "test.jsonl",
        "sha256": hashlib.sha256(LINES).hexdigest(),
        "split": "test",
        "rows": 3,
        "licence": "CC0",
        "citation": "us",
    }


def test_a_home_folder_may_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    assert len(Words(path="~/rows.jsonl").prompts()) == 3
    with pytest.raises(UserError, match=r"^~: row 1 has no field 'none'; it has: x$"):
        Row({"x": 1, "none": None}, 1, "~").text("none")


def test_prompts_are_shuffled_alike_and_numbered_where_rows_have_no_id(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"text": "{i}"}}\n' for i in range(20)))
    prompts = Words(path=str(tmp_path)).prompts()
    assert prompts == Words(path=str(tmp_path)).prompts()
    assert [prompt.text for prompt in prompts] != [str(i) for i in range(20)]
    assert all(prompt.id == f"words/{int(prompt.text) + 1}" for prompt in prompts)


def test_rows_that_make_no_prompt_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    monkeypatch.setattr(Words, "made_of", lambda self, rows: [])
    with pytest.raises(UserError, match="none of its 3 rows makes a prompt"):
        Words(path=str(tmp_path)).prompts()


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "rows.jsonl").write_bytes(LINES)
    with pytest.raises(UserError, match=r"package datasets: pip install 'mtad-bench\[tasks\]'"):
        Words(path=str(tmp_path)).prompts()
    assert need("json", "tasks") is json


def test_the_real_folders_are_read(data: Path) -> None:
    wanted = {
        ("gsm8k", "test"): 1121,
        ("gsm8k", "train"): 7473,
        ("humaneval", "test"): 139,
        ("mt_bench", "train"): 68,
        ("spec_bench", "train"): 458,
        ("spider", "validation"): 825,
        ("cnn_dailymail", "test"): 200,
        ("awesome_chatgpt_prompts", "train"): 175,
        ("self_instruct", "train"): 252,
        ("text/wikitext-2", "validation"): 3760,
        ("text/wikitext-2", "test"): 4358,
    }
    assert {case: len(values(data / case[0], case[1])) for case in wanted} == wanted
