"""Hostile programs against the sandbox: what they reach for stays untouched, and nothing of them is left running."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.safety.sandbox import Limits, Outcome, missing, run_python

ROOT = Path(__file__).parents[1]
# The bound on memory tells the processes of this worker from all others: it stands in their command lines.
LIMITS = Limits(seconds=8, memory_mb=128 + os.getpid() % 256, processes=6, scratch_mb=1)
SHORT = replace(LIMITS, seconds=1)
REACHED = b"REACHED"


@pytest.fixture(autouse=True)
def _box_and_bound(request: pytest.FixtureRequest) -> Iterator[None]:
    """No attack lasts longer than half a minute, whatever the sandbox does; afterwards none is left running."""
    if request.node.get_closest_marker("attacks") and (reason := missing()):
        pytest.skip(reason)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("the sandbox did not end the attack"))
    signal.alarm(30)
    yield
    signal.alarm(0)
    until = time.monotonic() + 5
    while left := running():
        assert time.monotonic() < until, f"left running: {left}"


def running() -> list[str]:
    """The processes of this worker's boxes."""
    mark = f'"RLIMIT_AS": {LIMITS.memory_mb << 20}'.encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:  # it has just ended
            continue
        found += [path.parent.name] * (mark in command)
    return found


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[dict[str, object]]:
    """Things outside that an attack may reach for."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_text("my secret")
    abstract = f"mtad-{os.getpid()}"
    victim = subprocess.Popen(["sleep", "60"], env={"SECRET": "my secret"})
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(f"\0{abstract}")
        local.listen()
        port = server.getsockname()[1]
        yield {"home": tmp_path / "home", "port": port, "abstract": abstract, "victim": victim.pid, "root": ROOT}
    assert victim.poll() is None, "a process outside was ended"
    victim.kill()
    victim.wait()


# Each prints REACHED where it succeeds. None of them does harm outside, so they are tried there too.
REACHING = {
    "a secret file": "print(open('{home}/secret').read() and 'REACHED')",
    "deleting the home folder": "import shutil\nshutil.rmtree('{home}')\nprint('REACHED')",
    "writing into the home folder": "open('{home}/new', 'w').write('x')\nprint('REACHED')",
    "the project": "print(open('{root}/pyproject.toml').read() and 'REACHED')",
    "the list of users": "print(open('/etc/passwd').read() and 'REACHED')",
    "another's environment": "print('REACHED' if 'my secret' in open('/proc/{victim}/environ').read() else '')",
    "another's memory": "print(open('/proc/{victim}/maps').read() and 'REACHED')",
    "a process outside": "import os\nos.kill({victim}, 0)\nprint('REACHED')",
    "a server on this machine": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\nprint('REACHED')",
    "an abstract socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0{abstract}')\nprint('REACHED')",
    "memory that no limit counts": "import os\nos.memfd_create('x')\nprint('REACHED')",
    "a shell": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo REACHED'])",
}


@pytest.mark.attacks
@pytest.mark.parametrize("name", REACHING)
def test_what_lies_outside_cannot_be_reached_from_the_box(name: str, facts: dict[str, object]) -> None:
    outcome = run_python(REACHING[name].format(**facts), limits=LIMITS)
    assert REACHED not in outcome.said and b"Error" in outcome.said, outcome.said
    assert [path.name for path in Path(str(facts["home"])).iterdir()] == ["secret"]


@pytest.mark.parametrize("name", REACHING)
@pytest.mark.skipif(sys.platform != "linux", reason="the attacks are on Linux")
def test_the_same_attacks_succeed_without_the_box(name: str, facts: dict[str, object]) -> None:
    outcome = run_python(REACHING[name].format(**facts), limits=LIMITS, unsafe=True)
    assert REACHED in outcome.said, outcome.said


def boxed(program: str, limits: Limits = LIMITS) -> tuple[Outcome, float]:
    """What a program said in the box, and the seconds that it took."""
    start = time.monotonic()
    outcome = run_python(program, limits=limits)
    return outcome, time.monotonic() - start


@pytest.mark.attacks
@pytest.mark.parametrize(
    "path", ["/etc/shadow", "/root", "/home", "/proc/1/environ", "/sys", "/var", "/tmp", "/dev/shm"]
)
def test_the_box_has_no_such_file(path: str) -> None:
    outcome, _ = boxed(f"import os\nprint(os.path.lexists({path!r}))")
    assert outcome.said == b"False\n"


@pytest.mark.attacks
def test_the_environment_is_empty_in_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTAD_SECRET", "my secret")
    outcome, _ = boxed("import os\nprint(dict(os.environ))")
    assert outcome.said == b"{}\n"


@pytest.mark.attacks
def test_a_fork_bomb_ends_with_the_time_and_leaves_nothing() -> None:
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    outcome, seconds = boxed(bomb, SHORT)
    assert outcome.timed_out and seconds < 4


@pytest.mark.attacks
@pytest.mark.parametrize("start", ["os.fork() or signal.pause()", "threading.Thread(target=signal.pause).start()"])
def test_no_more_processes_and_threads_than_allowed(start: str) -> None:
    program = (
        "import os, signal, threading\nstarted = 0\ntry:\n    while started < 50:\n"
        f"        {start}\n        started += 1\nexcept (OSError, RuntimeError):\n    pass\n"
        "os.write(1, str(started).encode())\nos._exit(0)\n"
    )
    outcome, _ = boxed(program)
    assert 2 <= int(outcome.said) < LIMITS.processes


@pytest.mark.attacks
def test_boxes_side_by_side_do_not_take_each_others_processes() -> None:
    program = (
        "import os, signal\nfor _ in range(3):\n    os.fork() or signal.pause()\nprint('all', flush=True)\ninput()"
    )
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda _: run_python(program, limits=replace(LIMITS, seconds=2)), range(3)))
    assert [outcome.said for outcome in outcomes] == [b"all\n"] * 3


@pytest.mark.attacks
@pytest.mark.parametrize("want", ["bytearray(10 << 30)", "mmap.mmap(-1, 10 << 30)", "[0] * (10 << 27)"])
def test_ten_gigabytes_are_refused(want: str) -> None:
    outcome, _ = boxed(
        f"import mmap\ntry:\n    {want}\n    print('REACHED')\nexcept (MemoryError, OSError):\n    print('no')"
    )
    assert outcome.said == b"no\n"


@pytest.mark.attacks
def test_memory_outside_the_limits_of_a_process_and_new_namespaces_are_refused() -> None:
    program = (
        "import ctypes\nlibrary = ctypes.CDLL(None)\n"
        "print(library.shmget(1, 4096, 0o1600), library.unshare(0x10000000), library.ptrace(0, 0, 0, 0))"
    )
    outcome, _ = boxed(program)
    assert outcome.said == b"-1 -1 -1\n"


@pytest.mark.attacks
@pytest.mark.parametrize("family", [16, 17, 38, 40], ids=["netlink", "packet", "alg", "vsock"])
def test_sockets_of_families_outside_network_namespaces_are_refused(family: int) -> None:
    outcome, _ = boxed(f"import socket\nsocket.socket({family}, socket.SOCK_RAW)")
    assert b"PermissionError" in outcome.said
    outcome, _ = boxed(f"import socket\nsocket.socketpair({family}, socket.SOCK_STREAM)")
    assert b"PermissionError" in outcome.said


@pytest.mark.attacks
def test_event_loops_run_in_the_box() -> None:
    outcome, _ = boxed("import asyncio\nasync def f(): print('ran')\nasyncio.run(f())")
    assert outcome.said == b"ran\n"


@pytest.mark.attacks
@pytest.mark.parametrize(
    "more",
    [
        "os.setxattr('x', 'user.a', bytes(60_000))",
        "os.setxattr(open('x').fileno(), 'user.a', bytes(60_000))",
        "socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)",
        "fcntl.fcntl(os.pipe()[0], fcntl.F_SETPIPE_SZ, 1 << 20)",
    ],
)
def test_the_kernels_memory_is_not_given_away(more: str) -> None:
    outcome, _ = boxed(f"import fcntl, os, socket\nopen('x', 'w').close()\n{more}")
    assert b"PermissionError" in outcome.said, outcome.said


@pytest.mark.attacks
@pytest.mark.parametrize(
    "loop",
    [
        "while True: pass",
        "import signal\nsignal.alarm(0)\nsum(range(10**15))",
        "input = open(0).read()\nimport time\ntime.sleep(99)",
    ],
)
def test_a_loop_without_end_is_ended(loop: str) -> None:
    outcome, seconds = boxed(loop, SHORT)
    assert outcome.timed_out and outcome.said == b"" and 0.9 < seconds < 4


@pytest.mark.attacks
def test_a_flood_of_output_is_cut() -> None:
    outcome, seconds = boxed("import os\nwhile True: os.write(1, b'x' * 65536)")
    assert len(outcome.said) == 65536 and not outcome.timed_out and seconds < 4


@pytest.mark.attacks
def test_daemons_end_with_the_program() -> None:
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork()\n    time.sleep(60)\nprint('left')\n"
    outcome, seconds = boxed(daemon)
    assert outcome.said == b"left\n" and not outcome.timed_out and seconds < 4  # what runs on fails the fixture


@pytest.mark.attacks
def test_the_scratch_folder_is_bounded_in_all_and_new_each_time() -> None:
    program = (
        "import os\nprint(os.listdir())\nwritten = 0\ntry:\n    for i in range(99):\n"
        "        with open(str(i), 'wb', buffering=0) as file: written += file.write(bytes(100_000))\n"
        "except OSError:\n    pass\nprint(written)"
    )
    for _ in range(2):
        outcome, _ = boxed(program)
        before, written = outcome.said.decode().split("\n")[:2]
        assert before == "[]" and 500_000 < int(written) <= LIMITS.scratch_mb << 20


@pytest.mark.attacks
@pytest.mark.parametrize("folder", ["/", "/dev", "/etc", "/usr", "/usr/lib", "/python", "/python/bin", "/python/lib"])
def test_only_the_scratch_folder_can_be_written(folder: str) -> None:
    outcome, _ = boxed(f"open('{folder}/mtad-attack', 'w')\nprint('REACHED')")
    assert REACHED not in outcome.said and b"Error" in outcome.said


@pytest.mark.attacks
def test_killing_everything_kills_the_program_alone() -> None:
    outcome, _ = boxed("import os\nos.kill(-1, 9)\nos.kill(1, 9)\nos.kill(os.getppid(), 9)\nos.kill(os.getpid(), 9)\n")
    assert not outcome.timed_out


KILLED_OWNERS = """
import os, random, sys, time
from experiments.safety.sandbox import Limits, run_python
program = "import time\\ntime.sleep(60)"
for _ in range(int(sys.argv[2])):
    if owner := os.fork():
        time.sleep(random.uniform(0, float(sys.argv[3])))
        os.kill(owner, 9)
        os.waitpid(owner, 0)
    else:
        run_python(program, limits=Limits(seconds=60, memory_mb=int(sys.argv[1]), processes=6, scratch_mb=1))
"""


@pytest.mark.attacks
@pytest.mark.parametrize("start", ["at once", "slowly"])
def test_the_box_ends_whenever_its_owner_is_killed(start: str, tmp_path: Path) -> None:
    slow = tmp_path / "bwrap"  # bubblewrap takes a while until it asks to end with its owner
    slow.write_text(f'#!/bin/sh\nsleep 0.3\nexec {shutil.which("bwrap")} "$@"\n')
    slow.chmod(0o755)
    folders, kills = (
        (f"{tmp_path}:{os.environ['PATH']}", "8 0.2") if start == "slowly" else (os.environ["PATH"], "20 0.1")
    )
    given = [KILLED_OWNERS, str(LIMITS.memory_mb), *kills.split()]
    subprocess.run([sys.executable, "-c", *given], cwd=ROOT, env={**os.environ, "PATH": folders}, check=True)
    until = time.monotonic() + 5
    time.sleep(0.4)  # those that start slowly are not there yet
    while left := running():
        assert time.monotonic() < until, f"left running: {left}"
