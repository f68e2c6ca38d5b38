"""Runs Python that a model wrote in a box: no network, no view of the user's files and environment, bounded resources.

Knows bubblewrap and Linux's limits; refuses to know what a program is for. What holds on which system, and what does
not: docs/safety.md. `missing` tries the promises before anybody relies on them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import SystemRandom
from tempfile import NamedTemporaryFile
from threading import Event, Timer

from experiments.safety.seccomp import seccomp_filter

_HERE = Path(__file__).parent
_MOST_OUTPUT = 1 << 16  # bytes; who says more is stopped
_MB = 1 << 20
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib")
_MADE = ("/", "/usr", "/usr/local", "/etc", "/dev", "/python", "/python/bin", "/scratch")  # folders in every box
_USERS = range(2_001_000_000, 2_147_000_000)  # between what directory services and systemd give away and 2**31
_FEW_USERS = range(40_000, 60_000)  # for namespaces of 65 536 users, as containers have
_NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: of wall time, for all of it; also of CPU time, for each process.
        memory_mb: of address space, for each process.
        processes: and threads, at once, of which the box itself takes up to three.
        scratch_mb: of files, which are memory too and vanish with the box.
    """

    seconds: float = 10.0
    memory_mb: int = 512
    processes: int = 8
    scratch_mb: int = 16

    def by_name(self, boxed: bool) -> dict[str, int]:
        """The limits of a process, as `resource` names them; that on processes only where it counts the box alone."""
        own = {"RLIMIT_NPROC": self.processes} if boxed else {}
        return {
            "RLIMIT_CPU": math.ceil(self.seconds) + 1,
            "RLIMIT_AS": self.memory_mb * _MB,
            "RLIMIT_FSIZE": self.scratch_mb * _MB,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
            **own,
        }


@dataclass(frozen=True)
class Outcome:
    """What came out of the box, cut where it was too much; who runs out of time may still have said something."""

    said: bytes
    timed_out: bool


def program(name: str) -> str:
    """The text of one of the programs for the box that lie beside this file."""
    return (_HERE / f"{name}.py").read_text(encoding="utf-8")


def run_python(text: str, *frames: bytes, limits: Limits, unsafe: bool = False) -> Outcome:
    """Run a program, which may `read_frame()` what else it is given. `unsafe`: with limits, but outside any box."""
    user = None if unsafe or os.geteuid() else _user()
    settings = json.dumps({"user": user, "boxed": not unsafe, "limits": limits.by_name(not unsafe)})
    start = ["-I", "-S", "-W", "ignore", "-c", program("box_entry"), settings]
    parts = [text.encode("utf-8", "surrogatepass"), *frames]
    given = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    if unsafe:
        return _talk([sys.executable, *start], given, limits, ())
    rules, end = os.pipe()
    try:
        os.write(end, seccomp_filter() or b"")  # fits any pipe
        os.close(end)
        return _talk([*_box(limits, rules), "/python/bin/python", *start], given, limits, (rules,))
    finally:
        os.close(rules)


def _user() -> int:
    """Whom root becomes in the box: someone of its own, since processes are counted by user on the whole machine."""
    wide = all(_has(Path("/proc/self", name), _USERS) for name in ("uid_map", "gid_map"))
    return SystemRandom().choice(_USERS if wide else _FEW_USERS)


def _has(mapped: Path, users: range) -> bool:
    """Whether this user namespace has them all."""
    try:
        lines = [[int(part) for part in line.split()] for line in mapped.read_text().splitlines()]
    except OSError:
        return False
    return any(first <= users.start and users.stop <= first + count for first, _, count in lines)


def _box(limits: Limits, rules: int) -> list[str]:
    """bubblewrap's command line: Python and the system's libraries to read, a scratch folder to write, nothing else."""
    python = Path(sys.executable).resolve()
    command = [_bubblewrap() or "bwrap", *_NAMESPACES, "--die-with-parent", "--new-session", "--clearenv"]
    if os.geteuid() == 0:  # not in a user namespace: in that, root stays root, whom no limit on processes binds
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    for name in _MADE[1:-1]:
        command += ["--perms", "0755", "--dir", name]
    for folder in map(Path, _LIBRARIES):
        if folder.is_symlink():
            command += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            command += ["--ro-bind", str(folder), str(folder)]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--ro-bind", str(python), "/python/bin/python"]
    for name in ("lib", "lib64"):  # a neutral path: the homes that Python may lie in are closed to others
        command += ["--ro-bind-try", str(Path(sys.base_prefix, name)), f"/python/{name}"]
    for name in ("null", "urandom"):
        command += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    command += ["--perms", "1777", "--size", str(limits.scratch_mb * _MB), "--tmpfs", "/scratch", "--chdir", "/scratch"]
    command += ["--setenv", "LD_LIBRARY_PATH", "/python/lib", "--hostname", "box", "--seccomp", str(rules)]
    return [*command, "--remount-ro", "/"]


def _bubblewrap() -> str | None:
    return shutil.which("bwrap")


def _talk(command: list[str], given: bytes, limits: Limits, keep: tuple[int, ...]) -> Outcome:
    """Start a command, tell it what is given once it is there, hear its first words, end it with all its children.

    Until a box has bound its life to its owner's, an owner that is killed leaves it behind: with nothing to run.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, env={}, pass_fds=keep, start_new_session=True
    ) as process:
        assert process.stdin and process.stdout
        expired = Event()

        def end() -> None:  # bubblewrap's death is that of its process namespace
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        def expire() -> None:
            expired.set()
            end()

        timer = Timer(limits.seconds, expire)
        timer.start()
        try:
            said = process.stdout.read(1).removeprefix(b"\0")
            with suppress(BrokenPipeError):
                process.stdin.write(given)
                process.stdin.flush()
            said += process.stdout.read(_MOST_OUTPUT - len(said))
        finally:
            timer.cancel()
            end()
            with suppress(BrokenPipeError):
                process.stdin.close()
        return Outcome(said, expired.is_set())


@cache
def missing() -> str | None:
    """Why programs cannot be boxed in here, in a few words; None: every promise was tried and holds."""
    if sys.platform != "linux":
        return f"the sandbox needs Linux, this is {sys.platform}"
    if _bubblewrap() is None:
        return "bubblewrap is not installed (its command is bwrap; on Debian and Ubuntu: apt install bubblewrap)"
    if seccomp_filter() is None:
        return f"the sandbox has no list of system calls for this kind of machine, {os.uname().machine}"
    return _broken()


def _broken() -> str | None:
    """Starts a box and tries each promise in it."""
    limits = Limits(seconds=20, memory_mb=256, processes=5, scratch_mb=1)
    try:
        with NamedTemporaryFile(prefix="mtad-") as fresh, socket.create_server(("127.0.0.1", 0)) as listener:
            facts = {"port": listener.getsockname()[1], "hidden": _hidden(fresh.name), "memory": limits.memory_mb * _MB}
            facts |= {"processes": limits.processes, "scratch": limits.scratch_mb * _MB}
            outcome = run_python(program("box_probe"), json.dumps(facts).encode(), limits=limits)
    except OSError as error:  # no temporary file, no socket, a bubblewrap that is no program
        return f"the sandbox cannot be tried: {error}"
    try:
        broken = json.loads(outcome.said)
    except ValueError:
        lines = outcome.said.decode(errors="replace").strip().splitlines()
        return f"the sandbox does not start: {lines[-1][:200] if lines else 'it said nothing'}"
    return "; ".join(broken) or None


def _hidden(*more: str) -> list[str]:
    """Files and folders of the user's that no box shows; what lies in the libraries is shown, and may be there."""
    found = [Path(__file__), *map(Path, more)]
    for folder in (Path.home, Path.cwd):  # there may be neither: a user without an entry, a folder deleted since
        with suppress(RuntimeError, OSError):
            found.append(folder())
    shown = [Path(name) for name in (*_LIBRARIES, "/python", "/scratch")]
    return [str(path) for path in found if str(path) not in _MADE and not any(map(path.is_relative_to, shown))]
