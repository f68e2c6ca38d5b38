"""Models on the disk, for everything that loads; which tests may be skipped, and where."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import save_model, save_sharded_pair
from tests.toy import WORDS

PythonRun = Callable[..., tuple[int, str, str]]

# absl, which rouge-score imports, keeps the stderr that it finds and closes it once Hydra sets logging up anew; that
# must not be the one that pytest puts in place for a test.
with redirect_stderr(sys.__stderr__), suppress(ImportError):
    import absl.logging  # noqa: F401

# The models of tests are too small for threads to pay, and the tests themselves may run in parallel.
torch.set_num_threads(1)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where everything that tests need was provided for, a skipped test is a failed one; only a GPU may be missing."""
    outcome: Any = yield
    if not item.get_closest_marker("gpu"):
        _no_skipping(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """The same for a whole file."""
    outcome: Any = yield
    _no_skipping(outcome.get_result())


def _no_skipping(report: Any) -> None:
    if report.skipped and os.environ.get("MTAD_TESTS_REQUIRED"):
        report.outcome, report.longrepr = "failed", f"skipped, though CI provides for it: {report.longrepr}"


@pytest.fixture(autouse=True)
def _gpu_or_skip(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets that MTAD_DATA names."""
    folder = os.environ.get("MTAD_DATA")
    if not folder:
        pytest.skip("needs real data sets: MTAD_DATA=FOLDER")
    if not Path(folder).is_dir():
        pytest.fail(f"MTAD_DATA={folder} is no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def saved_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `target` and `draft`, whose embeddings have four and no padded rows."""
    folder = tmp_path_factory.mktemp("pair")
    save_model(folder / "target", layers=2, rows=len(WORDS) + 6, seed=1)
    save_model(folder / "draft", layers=1, rows=len(WORDS) + 2, seed=2)
    return folder


@pytest.fixture(scope="session")
def sharded_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `target` and `draft`, each in shards; Llamas whose heads share keys and values."""
    return save_sharded_pair(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session")
def sharded_opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of OPT."""
    return save_sharded_pair(tmp_path_factory.mktemp("opt"), "opt")


@pytest.fixture
def python_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> PythonRun:
    """`python run.py OVERRIDES` in this process: exit code, stdout, stderr."""
    import run as entry  # here, for Hydra is slow to import and most tests do without

    def started(*overrides: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["run.py", *sorted(overrides, key=lambda one: not one.startswith("-"))])
        code = 0
        try:
            entry.main()
        except SystemExit as ended:
            code = 1 if isinstance(ended.code, str) else int(ended.code or 0)
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return started
