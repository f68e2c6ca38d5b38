"""In the box: whether a function that a model wrote passes a test, judged by a process that its code does not run in.

Runs from its text after `box_entry.py`, with the standard library alone. Of two processes, one runs the model's program
and answers calls; the other runs the test, whose `candidate` sends every call over and gets plain data back. What the
model's code prints, patches or exits with stays in its own process, which never holds the test, and which has no
descriptor left but two pipes. The verdict is what the other process writes when `check` has come back.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from types import ModuleType
from typing import Any, NoReturn

LONGEST = 1 << 24  # bytes of a message
PLAIN = (str, int, float, type(None))
MOST_ITEMS = 100_000  # of an iterator, which may have no end
LARGE = 1 << 13  # bits of a number that Python may refuse to write in decimal digits


def pack(value: Any) -> Any:
    """JSON for plain data that keeps the kinds of containers apart; subclasses become their base. Raises TypeError."""
    if isinstance(value, int) and value.bit_length() > LARGE:
        return {"int": hex(value)}
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[pack(key), pack(item)] for key, item in value.items()]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: list(value)}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, Iterator):
        return {"iterator": [pack(item) for item in islice(value, MOST_ITEMS)]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [pack(item) for item in value]}
    raise TypeError(f"{type(value).__name__} is no plain data")


def unpack(value: Any) -> Any:
    """What was packed."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    [(kind, items)] = value.items()
    if kind == "complex":
        return complex(*items)
    if kind == "range":
        return range(*items)
    if kind == "int":
        return int(items, 16)
    make: dict[str, Callable[[Any], Any]] = {
        "dict": dict,
        "tuple": tuple,
        "set": set,
        "frozenset": frozenset,
        "bytes": bytes,
        "bytearray": bytearray,
    }
    make["iterator"] = iter
    return make[kind](unpack(items))


def send(pipe: int, message: Any) -> None:
    """Write a line."""
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:
        data = data[os.write(pipe, data) :]


def receive(lines: Any) -> Any:
    """Read a line. Raises EOFError when the other side is gone or says too much."""
    line = lines.readline(LONGEST)
    if not line.endswith(b"\n"):
        raise EOFError
    return json.loads(line)


def silence(*descriptors: int) -> None:
    """Make them read and write nothing."""
    for descriptor in descriptors:
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)


def answer_calls(program: bytes, name: str, calls: int, replies: int) -> None:
    """Run the model's program, then its function for each call."""
    silence(0, 1, 2)
    first, second = sorted((calls, replies))
    for gap in ((3, first), (first + 1, second), (second + 1, 1024)):
        os.closerange(*gap)
    lines = os.fdopen(calls, "rb")
    receive(lines)  # the judge is ready: nothing that is done to it from here on makes it speak
    module = sys.modules["solution"] = ModuleType("solution")  # dataclasses look their module up
    namespace = module.__dict__
    exec(compile(program, "<solution>", "exec", dont_inherit=True), namespace)
    while True:
        positional, named = unpack(receive(lines))
        try:
            reply = {"value": pack(namespace[name](*positional, **named))}
        except BaseException as error:  # whatever the model's code raises is an answer
            reply = {"error": nearest(type(error))}
        send(replies, reply)


def nearest(kind: type[BaseException]) -> str:
    """The name of the exception, or of the first of its bases, that Python itself has."""
    return next(base.__name__ for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base)


def caller(calls: int, replies: int) -> Callable[..., Any]:
    """The function as the test sees it."""
    lines = os.fdopen(replies, "rb")

    def candidate(*positional: Any, **named: Any) -> Any:
        send(calls, pack([list(positional), named]))
        reply = receive(lines)
        if "value" in reply:
            return unpack(reply["value"])
        error = getattr(builtins, str(reply["error"]), None)
        raise error if isinstance(error, type) and issubclass(error, Exception) else RuntimeError

    return candidate


def check(task: dict[str, str], candidate: Callable[..., Any]) -> None:
    """Raises whatever the test raises."""
    namespace: dict[str, Any] = {"__name__": "test"}
    exec(compile(task["setting"], "<setting>", "exec", dont_inherit=True), namespace)
    namespace[task["name"]] = candidate
    exec(compile(task["test"], "<test>", "exec", dont_inherit=True), namespace)
    namespace["check"](candidate)


def main(read_frame: Callable[[], bytes]) -> NoReturn:
    """The model's process first: it must not inherit the test."""
    program, name = read_frame(), read_frame().decode()
    calls, replies = os.pipe(), os.pipe()
    if os.fork() == 0:
        try:
            answer_calls(program, name, calls[0], replies[1])
        finally:
            os._exit(1)
    os.close(calls[0])
    os.close(replies[1])
    task = json.loads(read_frame())
    spoken = os.dup(1)
    silence(1, 2)  # what the test prints is no verdict
    try:
        send(calls[1], "ready")
        check({**task, "name": name}, caller(calls[1], replies[0]))
    except BaseException as error:  # AssertionError, and whatever else a test or a broken answer ends in
        os.write(spoken, f"failed: {type(error).__name__}".encode())
    else:
        os.write(spoken, b"passed")
    os._exit(0)


if __name__ == "__main__":
    main(globals()["read_frame"])
