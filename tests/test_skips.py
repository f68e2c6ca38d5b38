"""Where CI provides for what tests need, nothing is skipped in silence: no test, and no file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toy import ROOT

ONE_TEST = """
import pytest

def test_one():
    pytest.skip("no such thing here")
"""
WHOLE_FILE = """
import pytest

pytest.importorskip("no_such_package")

def test_one():
    pass
"""
NEEDS_A_GPU = """
import pytest

@pytest.mark.gpu
def test_one():
    pytest.skip("no GPU")
"""


@pytest.mark.parametrize(("required", "counts"), [(True, "1 failed, 1 skipped, 1 error"), (False, "3 skipped")])
def test_what_was_provided_for_and_is_skipped_fails_unless_it_needs_a_gpu(
    tmp_path: Path, required: bool, counts: str
) -> None:
    for number, test in enumerate((ONE_TEST, WHOLE_FILE, NEEDS_A_GPU)):
        (tmp_path / f"test_{number}.py").write_text(test)
    kept = {name: value for name, value in os.environ.items() if name != "MTAD_TESTS_REQUIRED"}
    environment = {**kept, "PYTHONPATH": str(ROOT)} | ({"MTAD_TESTS_REQUIRED": "1"} if required else {})
    options = [
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "-W",
        "ignore",
        "--continue-on-collection-errors",
    ]
    command = [sys.executable, "-m", "pytest", *options, "."]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert f" {counts}" in done.stdout.splitlines()[-1], done.stdout
    assert (done.returncode != 0) == required == ("skipped, though CI provides for it" in done.stdout)
