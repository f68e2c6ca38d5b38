"""The child process of a tracker: it and all that it started or wrote for a while ends in time, whatever it does."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from threading import Timer

import pytest

from experiments.stopping import stoppable
from experiments.tracker import in_a_child

HANGS = """
import os, pathlib, subprocess, tempfile, time
child = subprocess.Popen(["sleep", "300"])
left = tempfile.mkdtemp()
pathlib.Path(os.environ["SEEN"]).write_text(f"{os.getpid()} {child.pid} {left}")
time.sleep(300)
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the module `hangs`, which a child can run, leaves its process id and that of a child of its own."""
    (tmp_path / "hangs.py").write_text(HANGS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    return tmp_path / "seen"


def alive(process: int) -> bool:
    """Whether it runs; one that is dead, and that nobody has waited for, does not."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def assert_all_gone(seen: Path) -> None:
    *numbers, left = seen.read_text().split()
    processes = [int(number) for number in numbers]
    deadline = time.monotonic() + 5
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(processes) == 2 and not any(map(alive, processes))
    assert not Path(left).exists()


def test_a_child_that_hangs_is_ended_with_its_own_children_and_temporary_files(seen: Path) -> None:
    assert in_a_child("hangs", "", 5).failure == "no end within 5 s"
    assert_all_gone(seen)


def test_a_signal_does_not_wait_for_a_child(seen: Path) -> None:
    def when_it_hangs() -> None:
        while not seen.exists() or not seen.read_text():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    began = time.monotonic()
    timer = Timer(0, when_it_hangs)
    with pytest.raises(SystemExit) as ended, stoppable():
        timer.start()
        in_a_child("hangs", "", 60)
    assert ended.value.code == 128 + signal.SIGTERM and time.monotonic() - began < 30
    assert_all_gone(seen)
