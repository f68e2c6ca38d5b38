"""What the sandbox finds out about this machine before anybody relies on it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from experiments.safety import sandbox
from experiments.safety.sandbox import Limits, missing, run_python
from experiments.safety.seccomp import seccomp_filter

ROOT = Path(__file__).parents[1]
LIMITS = Limits(seconds=8, memory_mb=128, processes=6, scratch_mb=1)


@pytest.fixture(autouse=True)
def _box(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("attacks") and (reason := missing()):
        pytest.skip(reason)


def test_without_bubblewrap_the_reason_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing.cache_clear()
    reason = missing()
    missing.cache_clear()
    assert reason and "\n" not in reason
    assert ("apt install bubblewrap" in reason) == (sys.platform == "linux")


@pytest.mark.attacks
def test_a_box_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho bwrap: No permissions to create a new namespace >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda: str(broken))
    assert sandbox._broken() == "the sandbox does not start: bwrap: No permissions to create a new namespace"


@pytest.mark.attacks
def test_a_broken_promise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, by_name = sandbox._box, Limits.by_name

    def without(name: str) -> None:
        monkeypatch.setattr(Limits, "by_name", lambda self, boxed: by_name(self, boxed) | {name: 1 << 40})

    assert sandbox._broken() is None
    without("RLIMIT_AS")
    assert sandbox._broken() == "memory has no bound"
    without("RLIMIT_NPROC")
    assert sandbox._broken() == "the number of processes has no bound"
    monkeypatch.setattr(Limits, "by_name", by_name)
    monkeypatch.setattr(sandbox, "_box", lambda *given: [part for part in whole(*given) if part != "--unshare-net"])
    assert sandbox._broken() == "the network is reachable"
    above = [part for folder in reversed(ROOT.parents[:-1]) for part in ("--perms", "0755", "--dir", str(folder))]
    seen = [*above, "--ro-bind", str(ROOT), str(ROOT)]
    monkeypatch.setattr(sandbox, "_box", lambda *given: [*whole(*given)[:-2], *seen, *whole(*given)[-2:]])
    assert sandbox._broken() == "the user's files are visible"


def test_both_kinds_of_machine_have_a_filter_and_others_are_refused() -> None:
    for machine in ("x86_64", "aarch64"):
        rules = seccomp_filter(machine)
        assert rules and len(rules) % 8 == 0 and len(rules) < 4096
    assert seccomp_filter("pdp11") is None


@pytest.mark.skipif(os.name != "posix" or shutil.which("true") is None, reason="needs a POSIX system")
def test_a_program_longer_than_a_command_line_runs() -> None:
    outcome = run_python(f"text = {'x' * 300_000!r}\nprint(len(text))", limits=LIMITS, unsafe=True)
    assert outcome.said == b"300000\n"


@pytest.mark.attacks
def test_what_is_installed_among_the_systems_libraries_is_not_taken_for_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "__file__", "/usr/lib/os-release")
    monkeypatch.chdir("/usr/lib")
    assert sandbox._broken() is None


@pytest.mark.attacks
def test_a_user_without_a_home_and_a_folder_that_is_gone_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(Path, "home", nowhere)
    assert sandbox._broken() is None


def test_root_becomes_one_of_many_users_where_there_are_so_many(tmp_path: Path) -> None:
    (tmp_path / "all").write_text("         0          0 4294967295\n")
    (tmp_path / "few").write_text("         0     100000      65536\n")
    assert sandbox._has(tmp_path / "all", sandbox._USERS) and not sandbox._has(tmp_path / "few", sandbox._USERS)
    assert not sandbox._has(tmp_path / "none", sandbox._USERS)
