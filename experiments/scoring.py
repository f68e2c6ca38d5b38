"""Grades of texts that are written already: outside any timed window, in parallel processes where a task takes long.

Knows tasks and rows; refuses to know models. A grade can be given again at any time (`python -m experiments.rescore`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from typing import Any

from experiments.code_version import code_hash
from experiments.journal import SCHEMA_VERSION, Row
from experiments.records import TEXT, text_key
from experiments.task import Prompt, Task
from mtad.errors import UserError

FEW = 4  # texts that are graded before processes have started


def graded(task: Task, prompts: Mapping[str, Prompt], rows: Sequence[Row]) -> Iterator[Row]:
    """The records of grades.jsonl of these rows, in their order. Raises UserError if a process dies."""
    jobs = [(prompts[row["prompt_id"]], row["text"]) for row in rows]
    stamp = {"schema_version": SCHEMA_VERSION, "code": code_hash()}
    for row, grades in zip(rows, _grades(task, jobs), strict=True):
        told = {key: row[key] for key in ("run_id", *TEXT)}
        yield {**stamp, **told, "graded": datetime.now(UTC).isoformat(timespec="seconds"), "grades": dict(grades)}


def with_grades(rows: Iterable[Row], records: Iterable[Row]) -> list[Row]:
    """The rows, each with the `grades` of its last record and the first of them as `score`."""
    found = {text_key(record): record["grades"] for record in records}
    joined = []
    for row in rows:
        grades = found[text_key(row)]
        joined.append({**row, "score": next(iter(grades.values()), None), "grades": grades})
    return joined


def _grades(task: Task, jobs: Sequence[tuple[Prompt, str]]) -> Iterator[Mapping[str, float]]:
    if not task.heavy or len(jobs) <= FEW:
        yield from (task.grade(*job) for job in jobs)
        return
    # Spawned, not forked: the parent holds threads and, it may be, a GPU.
    with ProcessPoolExecutor(min(_cores(), len(jobs)), get_context("spawn")) as pool:
        try:
            with _interrupts_held_back():
                grades = pool.map(partial(_grade, task.grade), jobs)
            yield from grades
        except BrokenProcessPool:
            raise UserError(
                "a process that graded texts has died, perhaps for lack of memory; the same command goes on"
            ) from None


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C reaches the processes started meanwhile never, and this one afterwards: it alone is to answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _grade(grade: Callable[[Prompt, str], Mapping[str, float]], job: tuple[Prompt, str]) -> Mapping[str, Any]:
    return grade(*job)
