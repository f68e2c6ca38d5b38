"""Any generating task of lm-eval inside a run: its contexts as prompts, its filters, metrics and standard errors.

Knows lm-eval's tasks; what they ask of a model otherwise (log-likelihoods) is for `python -m experiments.lm_eval`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import version
from math import isfinite
from numbers import Real
from pathlib import Path
from statistics import fmean
from typing import Any, TypeGuard

from experiments.optional import need
from experiments.records import stable_hash
from experiments.task import Prompt, Task, Turn
from mtad.errors import UserError, first_line
from mtad.loading import find_folder

GENERATES = "generate_until"
FEWSHOT_SEED = 1234  # lm-eval's own default
LONGEST = 256  # tokens, lm-eval's own default
SLOW = ("bleu", "chrf", "chrf++", "ter")  # whose bootstrap lm-eval keeps short
FEW_ITERATIONS = 100
LONGEST_TEXT = 100_000  # characters that are scored; the time of some of lm-eval's patterns grows with their square

Found = dict[tuple[str, str], Any]  # what a text's metrics are, by metric and filter


@dataclass(frozen=True, kw_only=True)
class LmEval(Task):
    """A task of lm-eval, by its name.

    Attributes:
        include: a folder with task YAMLs; if `name` is among them, lm-eval's own are not looked through.
        num_fewshot: worked examples before each question; None: as the task says.
        bootstrap_iters: resamples for standard errors that have no formula; 0 leaves these out.
        licence, citation: of lm-eval; its tasks have their own, see their README.
    """

    name: str = ""
    include: str | None = None
    num_fewshot: int | None = None
    bootstrap_iters: int = 100_000
    licence: str = ""
    citation: str = ""

    @property
    def max_new_tokens(self) -> int:
        """As the task's generation_kwargs say; `max_new_tokens=` of the run changes it."""
        return _loaded(self).longest

    @property
    def stop(self) -> tuple[str, ...]:
        """The task's `until`."""
        return _loaded(self).stop

    @property
    def chat_stop(self) -> tuple[str, ...]:
        """lm-eval stops a chat model there too."""
        return self.stop

    def prompts(self) -> Sequence[Prompt]:
        return _loaded(self).prompts

    def check(self) -> None:
        """Loads the task: its metrics may need what is not there (a package, a script of the hub)."""
        _loaded(self)

    def grade(self, prompt: Prompt, text: str) -> Mapping[str, float]:
        """Each metric of each filter that is a number for one text, as "metric,filter"; the first is the headline."""
        found = _loaded(self)
        return {
            ",".join(key): float(value)
            for key, value in (found.score(prompt.id, text) or found.nothing).items()
            if _is_number(value)
        }

    def figures(self, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """lm-eval's aggregated metrics with its standard errors; of several repeats the mean of both."""
        found = _loaded(self)
        repeats: dict[int, list[Found | None]] = {}
        for row in rows:
            repeats.setdefault(row["repeat"], []).append(found.score(row["prompt_id"], row["text"]))
        unscored = sum(one is None for scored in repeats.values() for one in scored)
        figures: dict[str, Mapping[str, Any]] = {}
        for key in found.nothing:
            runs = [[one[key] for one in scored if one and key in one] for scored in repeats.values()]
            figures[",".join(key)] = (
                {"value": None, "stderr": None, "reason": f"lm-eval cannot score {unscored} of the texts"}
                if unscored
                else found.aggregate(key[0], [run for run in runs if run], self.bootstrap_iters)
            )
        return figures

    def origin(self) -> Mapping[str, Any]:
        found = _loaded(self)
        config = found.task.config
        place = config.dataset_path or found.task.DATASET_PATH
        return {
            "id": f"lm-eval {version('lm_eval')}: {self.name}",
            "version": str(found.task.VERSION),
            "num_fewshot": config.num_fewshot,
            "dataset": Path(place).name if place and Path(place).exists() else place,
            "subset": config.dataset_name,
            "split": config.test_split or config.validation_split,
            "rows": len(found.requests),
            "licence": self.licence,
            "citation": self.citation,
        }


class _Loaded:
    """A task of lm-eval with all its requests.

    Attributes:
        requests: of each document, by the id of its prompt.
        longest, stop: when an answer ends.
        nothing: the metrics of a text that lm-eval cannot score.
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
        wishes = need("lm_eval.models.utils", "tasks").normalize_gen_kwargs(dict(first), LONGEST)
        self.longest = int(wishes["max_gen_toks"])
        self.stop = tuple(string for string in wishes["until"] if string)
        prompts = [
            Prompt(id, (Turn(request.args[0]),), {"hash": stable_hash(json.dumps(request.doc, default=str))})
            for id, request in self.requests.items()
        ]
        random.Random(0).shuffle(prompts)
        self.prompts = tuple(prompts)
        self.nothing = {key: 0.0 if _is_number(value) else None for key, value in self._probe().items()}

    def score(self, id: str, text: str) -> Found | None:
        """What lm-eval makes of a text; None where its code fails on it."""
        try:
            with _quiet():
                return self._score(self.requests[id], text[:LONGEST_TEXT])
        except Exception:  # filters and metrics of others, on whatever a model wrote
            return None

    def _probe(self) -> Found:
        """The metrics of the first document's own target. Raises UserError if they cannot be computed here."""
        request = self.task.instances[0]
        try:
            target = self.task.doc_to_target(request.doc)
            return self._score(request, str(target[0] if isinstance(target, list) and target else target))
        except Exception as error:  # as above; it may lack a package, or a script of the hub
            raise UserError(f"lm-eval cannot score {self.task.task_name} here: {_short(error)}") from None

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
        """lm-eval's figure and standard error of each run's items, averaged over the runs."""
        metrics = need("lm_eval.api.metrics", "tasks")
        gather = self.task.aggregation().get(metric, metrics.mean)
        # Else lm-eval resamples in copies of this process, which holds threads and, it may be, a GPU.
        os.environ.setdefault("DISABLE_MULTIPROC", "1")
        error = metrics.stderr_for_metric(gather, min(iterations, FEW_ITERATIONS) if metric in SLOW else iterations)
        with _quiet():
            value = fmean(float(gather(run)) for run in runs)
            spread = fmean(float(error(run)) for run in runs) if error and min(map(len, runs)) > 1 else None
        if not isfinite(value):
            return {"value": None, "stderr": None, "reason": f"lm-eval finds {value}"}
        return {"value": value, "stderr": spread if spread is not None and isfinite(spread) else None}


@cache
def _loaded(asked: LmEval) -> _Loaded:
    """Raises UserError."""
    name = asked.name
    if not name:
        raise UserError("task lm_eval: which one? task.name=NAME, with task.include=FOLDER for YAMLs of your own")
    need("lm_eval", "tasks")
    with _quiet():
        manager = _manager(asked)
        try:
            task = next(iter(manager.load([name])["tasks"].values()))
        except Exception as error:  # tasks are programs of others, and read data from anywhere
            raise UserError(f"lm-eval cannot load {name}: {_short(error)}") from None
        _check(task, name)
        fixed = task.config.num_fewshot
        if asked.num_fewshot is not None and fixed == 0 != asked.num_fewshot:
            raise UserError(f"{name} is made for num_fewshot=0, which lm-eval does not change; leave the option out")
        task.set_config("num_fewshot", fixed or 0 if asked.num_fewshot is None else asked.num_fewshot)
        task.set_fewshot_seed(FEWSHOT_SEED)
        try:
            task.build_all_requests()
        except Exception as error:  # as above
            raise UserError(f"lm-eval cannot make the prompts of {name}: {_short(error)}") from None
        return _Loaded(task, name)


def _manager(asked: LmEval) -> Any:
    """lm-eval's index that has the task: of `include` alone if that is enough. Raises UserError."""
    tasks = need("lm_eval.tasks", "tasks")
    folder = None if asked.include is None else find_folder(asked.include)
    if folder and not folder.is_dir():
        raise UserError(f"task.include={asked.include}: there is no such folder")
    manager, own = None, []
    if folder:
        manager = tasks.TaskManager(include_path=[folder], include_defaults=False)
        own = manager.all_tasks
    if asked.name not in own:
        manager = tasks.TaskManager(include_path=[folder] if folder else None)  # takes seconds
    assert manager
    if asked.name in manager.all_subtasks:
        return manager
    if asked.name in manager.all_tasks:
        raise UserError(f"{asked.name} is a group of lm-eval's tasks; task.name takes one of them")
    near = own or get_close_matches(asked.name, manager.all_subtasks)
    there = f"{asked.include} has" if own else "like it are"
    raise UserError(f"lm-eval knows no task {asked.name!r}; {there}: {', '.join(near) or 'none'}")


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


def _is_number(value: object) -> TypeGuard[float]:
    """Also numpy's numbers."""
    return isinstance(value, Real) and isfinite(value)


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
