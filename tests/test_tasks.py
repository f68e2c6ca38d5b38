"""Every task on data sets, from its YAML to the table of a run with the embedded pair: own rows, and real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments import runner
from experiments.build import build
from experiments.dataset.row_task import RowTask
from experiments.safety import sandbox
from tests.helpers import CONF
from tests.test_spider import make_databases
from tests.toy import settings_of

FIXTURES = Path(__file__).parent / "fixtures"
REAL = {  # where the real files of a task lie
    "spider": "spider",
    "humaneval": "humaneval",
    "gsm8k": "gsm8k",
    "mt_bench": "mt_bench",
    "cnn_dailymail": "cnn_dailymail",
    "spec_bench": "spec_bench",
    "chatgpt_prompts": "awesome_chatgpt_prompts",
    "wikitext": "text/wikitext-2",
}


@pytest.fixture(autouse=True)
def _box(request: pytest.FixtureRequest) -> None:
    if "humaneval" in request.node.name and (reason := sandbox.missing()):
        pytest.skip(reason)


def options(name: str) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(OmegaConf.load(CONF / "task" / f"{name}.yaml"))
    return dict(found)


TASKS = [
    path.stem
    for path in sorted((CONF / "task").glob("*.yaml"))
    if isinstance(build(path.stem, options(path.stem)), RowTask)
]


def run(results: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> tuple[dict[str, Any], str]:
    """The summary and what was printed."""
    runner.run(settings_of("reference=[]", "max_new_tokens=8", f"results_dir={results}", *overrides))
    (summary,) = results.glob("*/*/summary.json")
    return json.loads(summary.read_text(encoding="utf-8")), capsys.readouterr().out


def test_all_tasks_of_the_issue_are_there() -> None:
    assert {*REAL, "chatalpaca"} == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_every_task_names_licence_and_citation_and_where_rows_come_from(name: str) -> None:
    config = options(name)
    assert config["licence"] and ("arXiv" in config["citation"] or "http" in config["citation"])
    assert {"id", "revision", "path", "split"} <= set(config), "a hub id or a file can be given on the command line"
    assert config["path"] is None


@pytest.mark.parametrize("name", TASKS)
def test_every_task_runs_on_own_rows_to_a_table_with_the_embedded_pair(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file,) = FIXTURES.glob(f"{name}.*")
    more = [f"task.databases={make_databases(tmp_path)}"] if name == "spider" else []
    summary, table = run(tmp_path / "results", capsys, f"task={name}", f"task.path={file}", "limit=2", *more)
    assert f"tiny, {name}, 2 prompts" in table and options(name)["licence"][:8] in table
    assert summary["task_origin"]["file"] == file.name and str(file.parent) not in json.dumps(summary)
    assert summary["decoders"]["mtad"]["tokens"] > 0


@pytest.mark.parametrize("name", REAL)
def test_every_task_runs_on_its_real_files(
    name: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data / REAL[name]
    summary, table = run(tmp_path / "results", capsys, f"task={name}", f"task.path={path}", "limit=1")
    assert f"tiny, {name}, 1 prompts" in table
    assert summary["task_origin"]["rows"] > 60
