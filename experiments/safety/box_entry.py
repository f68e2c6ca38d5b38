"""The first program in a box: lays limits and, where it is root, its rights down, then runs the program it is given.

Runs from its text (`python -c`), with the standard library alone; knows nothing of this project. `sys.argv[1]` is a
JSON object, see `sandbox.py`; the program comes from standard input, and what follows there is for it.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from contextlib import suppress


def read_frame() -> bytes:
    """Eight bytes of length and what they announce, and not a byte more from standard input."""
    return read(int.from_bytes(read(8), "big"))


def read(size: int) -> bytes:
    """Exactly so many bytes, fewer only at the end."""
    parts = []
    while size and (part := os.read(0, min(size, 1 << 16))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def limit(name: str, value: int) -> None:
    """Lower a limit, for good, unless it already is lower."""
    kind = getattr(resource, name)
    most = resource.getrlimit(kind)[1]
    value = value if most == resource.RLIM_INFINITY else min(value, most)
    resource.setrlimit(kind, (value, value))


def main() -> None:
    """Everything in its order: root may not change its user any more once it has laid its rights down."""
    os.write(1, b"\0")  # bids the owner speak: from here on the box ends with it, before there was nothing to run
    settings = json.loads(sys.argv.pop())
    for name in ("LD_LIBRARY_PATH", "PWD", "LC_CTYPE"):
        os.environ.pop(name, None)
    user = settings["user"]
    if user is not None:  # before the limits: that on processes counts against the user who sets it
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    for name, value in settings["limits"].items():
        if settings["boxed"]:
            limit(name, value)
        else:  # outside a box, as far as this system goes along
            with suppress(AttributeError, ValueError, OSError):
                limit(name, value)
    program = compile(read_frame(), "<program>", "exec", dont_inherit=True)
    exec(program, {"__name__": "__main__", "read_frame": read_frame})


if __name__ == "__main__":
    main()
