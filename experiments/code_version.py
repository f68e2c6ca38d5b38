"""Which code measured: git's commit where there is one, and always a hash of the project's own modules."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("mtad", "baselines", "experiments")
AFTERWARDS = ROOT / "experiments" / "report"  # reads what runs have left


@cache
def code_hash() -> str:
    """sha256 over names and content of every module that a run may use; those that only make reports are none of it."""
    digest = hashlib.sha256()
    used = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    for file in sorted(file for file in used if AFTERWARDS not in file.parents):
        digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def git_version() -> str | None:
    """The commit, with "-dirty" if tracked files differ from it; None outside the project's own checkout."""
    if not (ROOT / ".git").exists():  # a package installed inside another project's checkout is not of its commit
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("-dirty" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
