"""A generating task of lm-eval with all its requests: what its filters, metrics and aggregations make of texts.

Knows lm-eval's tasks; refuses to know runs and models. What a task is made of is the code of others, which may fail.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from math import isfinite
from numbers import Real
from statistics import fmean
from typing import Any, TypeGuard

from experiments.dataset.hub import cache_fault
from experiments.lm_eval.wishes import read_wishes
from experiments.optional import need
from experiments.records import stable_hash
from experiments.task import Prompt, Turn
from mtad.errors import UserError, first_line
from mtad.folders import find_folder

GENERATES = "generate_until"
FEWSHOT_SEED = 1234  # lm-eval's own default
LONGEST = 256  # tokens, lm-eval's own default
SLOW = ("bleu", "chrf", "chrf++", "ter")  # whose bootstrap lm-eval keeps short
FEW_ITERATIONS = 100
FAILS = "lm-eval cannot aggregate"
PROBED = 8  # documents whose own targets must be aggregated before anything is generated
LONGEST_TEXT = 100_000  # characters that are scored; the time of some of lm-eval's patterns grows with their square

Found = dict[tuple[str, str], Any]  # what a text's metrics are, by metric and filter


class Loaded:
    """A task of lm-eval with all its requests.

    Attributes:
        requests: of each document, by the id of its prompt.
        longest, stop: when an answer ends.
        known: the metrics of the first document's own target.
        headline: the first of these that is a number, by its name; None: there is none.
        nothing: the metrics of a text that lm-eval cannot score: 0, unless that would be the best.
    """

    def __init__(self, task: Any, name: str) -> None:
        self.task = task
        self.requests = {f"{name}/{request.doc_id}": request for request in task.instances}
        first = task.instances[0].args[1]
        if len(self.requests) < len(task.instances) or any(one.args[1] != first for one in task.instances):
            raise UserError(
                f"{name} asks several things of a document, or has other stop strings for each; "
                f"python -m experiments.lm_eval runs it"
            )
        self.longest, self.stop, _ = read_wishes(first, LONGEST)
        prompts = [
            Prompt(id, (Turn(request.args[0]),), {"hash": stable_hash(json.dumps(request.doc, default=str))})
            for id, request in self.requests.items()
        ]
        random.Random(0).shuffle(prompts)
        self.prompts = tuple(prompts)
        self.known = self._probe()
        numbers = [key for key, value in self.known.items() if is_number(value)]
        self.headline = next(map(name_of, numbers), None)
        self.nothing = {key: 0.0 for key in numbers if task.higher_is_better().get(key[0], True)}

    def score(self, id: str, text: str) -> Found | None:
        """What lm-eval makes of a text; None where its code fails on it."""
        try:
            with _quiet():
                return self._score(self.requests[id], text[:LONGEST_TEXT])
        except (Exception, SystemExit):  # filters and metrics of others, on whatever a model wrote
            return None

    def check(self) -> None:
        """Raises UserError if lm-eval cannot aggregate what it finds for the documents' own targets."""
        found = [self.known]
        for id, request in list(self.requests.items())[1:PROBED]:  # of one alone, some figures do not exist
            with suppress(Exception):  # of others; the first document is the one that must work
                found.append(self.score(id, self._own(request)) or {})
        for key in self.known:
            figure = self.aggregate(key[0], [[one[key] for one in found if key in one]], 0)
            if FAILS in figure.get("reason", ""):
                raise UserError(f"{self.task.task_name}: {figure['reason']}")

    def digest(self) -> str:
        """Of all contexts and documents, as hex."""
        asked = [[id, request.args[0], request.doc] for id, request in self.requests.items()]
        return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()

    def _probe(self) -> Found:
        """The metrics of the first document's own target. Raises UserError if they cannot be computed here."""
        request = self.task.instances[0]
        try:
            return self._score(request, self._own(request))
        except Exception as error:  # as above; it may lack a package, or a script of the hub
            raise UserError(f"lm-eval cannot score {self.task.task_name} here: {_short(error)}") from None

    def _own(self, request: Any) -> str:
        """The target of a document, as a text."""
        target = self.task.doc_to_target(request.doc)
        return str(target[0] if isinstance(target, list) and target else target)

    def _score(self, request: Any, text: str) -> Found:
        answered = replace(request, resps=[text], filtered_resps={})
        for chain in self.task._filters:
            chain.apply([answered])
        return {
            (metric, chain): value
            for chain, response in answered.filtered_resps.items()
            for metric, value in self.task.process_results(answered.doc, [response]).items()
        }

    def aggregate(self, metric: str, runs: Sequence[Sequence[Any]], iterations: int) -> dict[str, Any]:
        """lm-eval's figure and standard error of each run's items, averaged over the runs; or None with a reason."""
        metrics = need("lm_eval.api.metrics", "tasks")
        gather = self.task.aggregation().get(metric, metrics.mean)
        # Else lm-eval resamples in copies of this process, which holds threads and, it may be, a GPU.
        os.environ.setdefault("DISABLE_MULTIPROC", "1")
        error = metrics.stderr_for_metric(gather, min(iterations, FEW_ITERATIONS) if metric in SLOW else iterations)
        if not runs:
            return undefined("none of the texts has it")
        try:
            with _quiet():
                value = fmean(float(gather(run)) for run in runs)
                spread = fmean(float(error(run)) for run in runs) if error and min(map(len, runs)) > 1 else None
        except Exception as fault:  # of others, on whatever they made of the texts
            return undefined(f"{FAILS} {metric}: {_short(fault)}")
        if not isfinite(value):
            return undefined(f"lm-eval finds {value}")
        return {"value": value, "stderr": spread if spread is not None and isfinite(spread) else None}


@cache
def load(name: str, include: str | None, num_fewshot: int | None) -> Loaded:
    """Raises UserError."""
    if not name:
        raise UserError("task lm_eval: which one? task.name=NAME, with task.include=FOLDER for YAMLs of your own")
    need("lm_eval", "tasks")
    with _quiet():
        manager = _manager(name, include)
        try:
            task = next(iter(manager.load([name])["tasks"].values()))
        except Exception as error:  # tasks are programs of others, and read data from anywhere
            raise UserError(f"lm-eval cannot load {name}: {cache_fault() or _short(error)}") from None
        _check(task, name)
        fixed = task.config.num_fewshot
        if num_fewshot is not None and fixed == 0 != num_fewshot:
            raise UserError(f"{name} is made for num_fewshot=0, which lm-eval does not change; leave the option out")
        task.set_config("num_fewshot", fixed or 0 if num_fewshot is None else num_fewshot)
        task.set_fewshot_seed(FEWSHOT_SEED)
        try:
            task.build_all_requests()
        except Exception as error:  # as above
            raise UserError(f"lm-eval cannot make the prompts of {name}: {_short(error)}") from None
        return Loaded(task, name)


def _manager(name: str, include: str | None) -> Any:
    """lm-eval's index that has the task: of `include` alone if that is enough. Raises UserError."""
    tasks = need("lm_eval.tasks", "tasks")
    folder = None if include is None else find_folder(include)
    if folder and not folder.is_dir():
        raise UserError(f"task.include={include}: there is no such folder")
    manager, own = None, []
    if folder:
        manager = tasks.TaskManager(include_path=[folder], include_defaults=False)
        own = manager.all_tasks
    if name not in own:
        manager = tasks.TaskManager(include_path=[folder] if folder else None)  # takes seconds
    assert manager
    if name in manager.all_subtasks:
        return manager
    if name in manager.all_tasks:
        raise UserError(f"{name} is a group of lm-eval's tasks; task.name takes one of them")
    near = own or get_close_matches(name, manager.all_subtasks)
    there = f"{include} has" if own else "like it are"
    raise UserError(f"lm-eval knows no task {name!r}; {there}: {', '.join(near) or 'none'}")


def _check(task: Any, name: str) -> None:
    """Raises UserError for a task that a run cannot do, or not safely."""
    if task.OUTPUT_TYPE != GENERATES:
        raise UserError(
            f"{name} is a {task.OUTPUT_TYPE} task, which generates nothing; python -m experiments.lm_eval runs it"
        )
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"{name} runs what a model writes, without a sandbox; task=humaneval has one")
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"{name} shows pictures or sounds, which no decoder here takes")


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval and `datasets` log and draw bars; a run shows its own."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def is_number(value: Any) -> TypeGuard[float]:
    """Also numpy's numbers; none beyond a float's."""
    return isinstance(value, Real) and abs(value) <= sys.float_info.max  # type: ignore[operator]  # they do compare


def name_of(key: tuple[str, str]) -> str:
    """As in lm-eval's results files."""
    return f"{key[0]},{key[1]}"


def undefined(reason: str) -> dict[str, Any]:
    return {"value": None, "stderr": None, "reason": reason}


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
