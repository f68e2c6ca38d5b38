"""Which code measured: git's commit where there is one, and always a hash of the project's own modules."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mtad.errors import UserError

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


def check_code(rows: Iterable[Mapping[str, Any]], place: Path, mixed: bool) -> None:
    """Raises UserError if other code has measured some of the rows in `place`, unless `mixed` allows for it."""
    if not mixed and {row["code"] for row in rows} - {code_hash()}:
        raise UserError(
            f"the code has changed since rows of {place} were measured: fresh=true measures them again, "
            f"resume=mixed goes on and marks the mixture"
        )


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
