"""Grades of texts that are written already: outside any timed window, in parallel processes where a task takes long.

Knows tasks and rows; refuses to know models. A grade can be given again at any time (`python -m experiments.rescore`).
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from time import sleep
from typing import Any

from experiments.code_version import code_hash
from experiments.journal import SCHEMA_VERSION, Row, to_json
from experiments.records import TEXT, text_key
from experiments.stopping import Stopped, at_once, check
from experiments.task import PATHS, Prompt, Task
from mtad.errors import UserError

TOLD_APART = 1.0  # seconds within which a scheduler's signal reaches all processes of a job
FEW = 4  # texts that are graded before processes have started


def graded(task: Task, prompts: Mapping[str, Prompt], rows: Sequence[Row]) -> Iterator[Row]:
    """The records of grades.jsonl of these rows, in their order. Raises UserError if a process dies."""
    jobs = [(prompts[row["prompt_id"]], row["text"]) for row in rows]
    stamp = {"schema_version": SCHEMA_VERSION, "grader": grader(task)}
    for row, grades in zip(rows, _grades(task, jobs), strict=True):
        told = {key: row[key] for key in ("run_id", *TEXT)}
        yield {**stamp, **told, "graded": datetime.now(UTC).isoformat(timespec="seconds"), "grades": dict(grades)}


def grader(task: Task) -> dict[str, Any]:
    """What decides grades besides texts and answers, as JSON data: the code and the task's options."""
    from experiments.identity import published  # it imports torch, which processes that grade do without

    silent = (*PATHS, "licence", "citation")
    options = {one.name: getattr(task, one.name) for one in fields(task) if one.name not in silent}  # type: ignore[arg-type]
    return {"code": code_hash(), "options": json.loads(to_json(published(options)))}


def with_grades(rows: Iterable[Row], records: Iterable[Row]) -> list[Row]:
    """The rows, each with `grader` and `grades` of its last record, and the first of these as `score`."""
    found = {text_key(record): record for record in records}
    joined = []
    for row in rows:
        record = found[text_key(row)]
        score = next(iter(record["grades"].values()), None)
        joined.append({**row, "score": score, "grades": record["grades"], "grader": record["grader"]})
    return joined


def _grades(task: Task, jobs: Sequence[tuple[Prompt, str]]) -> Iterator[Mapping[str, float]]:
    if not task.heavy or len(jobs) <= FEW:
        yield from (task.grade(*job) for job in jobs)
        return
    from experiments.environment import allowed_cores  # it imports torch, which processes that grade do without

    # Spawned, not forked: the parent holds threads and, it may be, a GPU.
    with _interrupts_held_back():
        pool = ProcessPoolExecutor(min(len(allowed_cores()), len(jobs)), get_context("spawn"), _end_with_parent)
    try:
        with _interrupts_held_back():
            # Not pool.map: what it cancels while a process dies is a stack trace of the pool's own.
            grades = [pool.submit(_grade, task.grade, job) for job in jobs]
        for future in grades:
            with at_once():
                found = future.result()
            yield found
    except (Stopped, KeyboardInterrupt, GeneratorExit):
        for process in active_children():  # what they are at may take a minute
            process.terminate()
        raise
    except BrokenProcessPool:
        sleep(TOLD_APART)
        check()  # a scheduler tells all processes of a job to end
        raise UserError(
            "a process that graded texts has died, perhaps for lack of memory; the same command goes on"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C and a scheduler's notice reach the processes started meanwhile never, and this one afterwards: it alone is
    to answer. SIGTERM does, for a pool ends its processes with it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """In a new process: do not outlive one that is killed."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _grade(grade: Callable[[Prompt, str], Mapping[str, float]], job: tuple[Prompt, str]) -> Mapping[str, Any]:
    return grade(*job)
