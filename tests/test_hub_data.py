"""Data sets of the hub: rows and commit, what cannot be had in one line, and all of it again without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_hub import COMMIT, fake_hub

ROOT = Path(__file__).parents[1]
Asked = tuple[str, str | None, str | None, str]

# In a process of its own: the hub's address is read when its library is imported.
PROGRAM = """
import json, sys
from experiments.dataset.reading import read
from mtad.errors import UserError
for id, subset, revision, split in json.loads(sys.argv[1]):
    try:
        table = read(id, subset, revision, None, split)
        print(json.dumps([table.rows, table.where, table.origin]))
    except UserError as error:
        print(json.dumps(str(error)))
"""

GOOD: list[Asked] = [
    ("us/ours", "main", None, "test"),
    ("us/ours", None, "main", "test"),
    ("us/ours", None, COMMIT, "test"),
]
BAD: dict[Asked, str] = {
    ("us/ours", "other", None, "test"): "us/ours, subset other, split 'test': BuilderConfig 'other' not found",
    ("us/ours", "main", None, "dev"): "us/ours, subset main, split 'dev': Unknown split",
    ("us/ours", "main", "v9", "test"): "us/ours has no revision 'v9' on the hub; change task.revision or give a file",
    ("us/none", None, None, "test"): "the hub knows no data set us/none, or it is private: set HF_TOKEN",
    ("us/gated", None, None, "test"): "us/gated is gated: accept its terms on the hub",
    ("no id!", None, None, "test"): "the hub knows no data set no id!",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """What is read online, with HF_HUB_OFFLINE, and with a hub that is down; with one cache, in this order."""
    folder = tmp_path_factory.mktemp("hub")

    def ask(asked: list[Asked], address: str, **environment: str) -> list[object]:
        known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(asked)],
            env={
                **known,
                "PYTHONPATH": str(ROOT),
                "HF_ENDPOINT": address,
                "HF_HOME": str(folder / "cache"),
                **environment,
            },
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    (folder / "us" / "ours").mkdir(parents=True)  # which `datasets` by itself would take for the data set
    with fake_hub() as address:
        found = {"online": ask([*GOOD, *BAD], address)}
    found["offline"] = ask([*GOOD, ("us/ours", None, "b" * 40, "test")], address, HF_HUB_OFFLINE="1")
    found["down"] = ask([*GOOD, ("us/none", None, None, "test")], address)
    return found


def test_rows_come_with_the_commit_that_a_revision_means(answers: dict[str, list[object]]) -> None:
    for (_, subset, _, split), answer in zip(GOOD, answers["online"], strict=False):
        origin = {"id": "us/ours", "subset": subset, "revision": COMMIT, "split": split, "file": None, "sha256": None}
        assert answer == [[{"question": "1 + 1?", "answer": "#### 2"}], "us/ours", {**origin, "rows": 1}]


def test_what_the_hub_does_not_give_is_said_in_one_line(answers: dict[str, list[object]]) -> None:
    for wanted, answer in zip(BAD.values(), answers["online"][len(GOOD) :], strict=True):
        assert isinstance(answer, str) and answer.startswith(wanted) and "\n" not in answer
        assert "task.path=" in answer


@pytest.mark.parametrize("network", ["offline", "down"])
def test_what_was_read_once_is_read_again_without_a_network(answers: dict[str, list[object]], network: str) -> None:
    *same, unknown = answers[network]
    assert same == answers["online"][: len(GOOD)]
    assert isinstance(unknown, str) and unknown.startswith("no access to us/") and unknown.endswith("or go online")
