"""In the box: which promises of the sandbox do not hold on this machine, one line each.

Runs from its text after `box_entry.py`, with the standard library alone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path


def can_write(path: Path, size: int = 1) -> bool:
    """Whether so many bytes can be put there."""
    try:
        with path.open("wb") as file:
            file.write(bytes(size))
    except OSError:
        return False
    return True


def has_family(number: int) -> bool:
    """Whether sockets of an address family can be made."""
    try:
        socket.socket(number, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def forks(most: int) -> int:
    """How many processes can be started, up to `most`."""
    for number in range(most):
        try:
            if os.fork() == 0:
                signal.pause()
        except OSError:
            return number
    return most


def broken(port: int, hidden: list[str], memory: int, processes: int, scratch: int) -> Iterator[str]:
    """Promises that do not hold."""
    if os.getuid() == 0 or os.geteuid() == 0:
        yield "programs in it run as root"
    if set(os.environ):
        yield "the environment is visible"
    if any(os.path.lexists(path) for path in hidden):
        yield "the user's files are visible"
    if any(can_write(Path(folder, "x")) for folder in ("/", "/dev", "/usr/lib", "/python", "/python/lib")):
        yield "files can be written outside the scratch folder"
    if not can_write(Path("x")):
        yield "the scratch folder cannot be written"
    if can_write(Path("x"), scratch + 1):
        yield "the scratch folder has no bound"
    with socket.socket() as client:
        client.settimeout(1)
        if client.connect_ex(("127.0.0.1", port)) == 0:
            yield "the network is reachable"
    if has_family(40):  # vsock, to the machine that this one runs on: in no network namespace
        yield "the host of a virtual machine is reachable"
    try:
        bytearray(2 * memory)
        yield "memory has no bound"
    except MemoryError:
        pass
    started = forks(processes + 1)
    if started > processes:
        yield "the number of processes has no bound"
    elif started < 2:
        yield "no process can be started within the bound on their number"


def main(read_frame: Callable[[], bytes]) -> None:
    """Print what is broken, as a JSON list."""
    print(json.dumps(list(broken(**json.loads(read_frame())))), flush=True)


if __name__ == "__main__":
    main(globals()["read_frame"])
