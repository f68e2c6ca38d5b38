"""What a run was asked to do: the composed configuration, checked and typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments import groups
from experiments import pair_settings as pair
from experiments.approximation import ApproximationSettings
from experiments.batch_windows import batch_sizes
from experiments.build import build, check_type, construct, missing
from experiments.energy import MeterSettings
from experiments.frontier import FrontierSettings
from experiments.knobs import TuneSettings
from experiments.task import Task
from experiments.tracker import Tracker, make_tracker
from experiments.variants import ALL, Variant, listed, make_variants
from mtad.errors import UserError, first_line
from mtad.folders import find_folder
from mtad.options import one_of
from mtad.recorded import Mode
from mtad.sources import ModelSpec


@dataclass(frozen=True)
class Settings:
    """A run as asked for; see conf/config.yaml for the keys that are not explained here.

    Attributes:
        model: the option of the group `model`; the names of the two models, if others than the YAML's are asked for.
        task_name: the option of the group `task`, and the task's own name where that is another.
        variants: the decoder under study first.
        left_out: decoders that reference=all names and that cannot run here, with the reason.
        skip: how many of the task's first prompts are left to others.
        chat: prompts in the model's chat template; None: where it has one.
        device_map, draft_device, tp_plan: see `mtad.placement`.
        engine: how forwards run.
        threads: of the processor, for torch; None: see `experiments.threads`.
        skip_long: prompts that are too long for the pair are left out.
        publish: texts whose licence asks for it are left out of the results.
        tune: what to try on prompts apart before the run; None: nothing.
        tuning: how the options of the variants were chosen, as JSON data; None: they are as asked for.
        experiment: the option of the group `experiment`, if one was chosen.
        approximation: how the pass that searches for the best blocks is done; None: not at all.
        batch_sizes: that windows of texts are written with after the run; None: no such windows.
        figure: what reports draw of the run; None: nothing beyond what they draw of every run.
        tracker: who gets a copy of the finished run; None: nobody.
        doctor: only check whether the run would work here.
        trace: what was read and committed is written down.
        config: the whole configuration, resolved, as the user gave it.
    """

    model: str
    target: ModelSpec
    draft: ModelSpec
    task_name: str
    task: Task
    variants: tuple[Variant, ...]
    left_out: dict[str, str]
    skip: int
    limit: int | None
    repeats: int
    seed: int
    max_new_tokens: int
    ignore_eos: bool
    chat: bool | None
    skip_long: bool
    publish: bool
    device: str
    dtype: str | None
    device_map: str | tuple[str, ...] | None
    draft_device: str | None
    tp_plan: str | None
    engine: Mode
    threads: int | None
    results_dir: Path
    name: str
    fresh: bool
    mixed: bool
    energy: bool | None
    meter: MeterSettings
    judge: ModelSpec | None
    noninferiority_margin: float | None
    strict: bool
    tune: TuneSettings | None
    tuning: dict[str, Any] | None
    experiment: str | None
    approximation: ApproximationSettings | None
    batch_sizes: tuple[int, ...] | None
    figure: dict[str, Any] | None
    tracker: Tracker | None
    doctor: bool
    trace: bool
    config: dict[str, Any]

    @property
    def rows(self) -> int:
        """Of the pair's caches: how many texts are written at a time at most."""
        return max(self.batch_sizes or (1,))


# Every key that is read from the configuration, so that one deleted with ~key is named.
KEYS = (
    *("model", "decoder", "task", "sampling", "reference", "limit", "repeats", "seed", "max_new_tokens", "ignore_eos"),
    *("chat", "skip_long", "publish", "device", "dtype", "results_dir", "name", "fresh", "resume"),
    *("energy", "meter", "judge", "noninferiority_margin", "strict", "frontier", "tune", "tasks", "figure"),
    *("approximation", "batch_size", "engine", "threads", "device_map", "draft_device", "tp_plan", "doctor", "trace"),
)


def read_each(composed: DictConfig) -> list[Settings]:
    """The settings of every task that is asked for, checked before the first of them runs. Raises UserError."""
    tasks = composed.get("tasks")
    if tasks is None or (groups.asked("task") and not groups.asked("tasks")):  # `task` beats an experiment's list
        return [read_settings(composed)]
    if not OmegaConf.is_list(tasks) or not tasks:
        raise UserError(f"tasks must be a list of tasks, as in tasks=[sql,code], not {tasks!r}")
    if stray := groups.asked_within("task"):
        raise UserError(f"{stray} is of one task, and these are several: name it in tasks=[{{task: NAME, ...}}]")
    named = [_task(entry) for entry in OmegaConf.to_container(tasks, resolve=True)]  # type: ignore[union-attr]
    return [read_settings(composed, name, options) for name, options in named]


def _task(entry: object) -> tuple[str, dict[str, Any]]:
    """Name and options of an entry of `tasks`. Raises UserError."""
    entry = {"task": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("task"), str):
        raise UserError(f"an entry of tasks is a task's name or a mapping with the key task, not {entry!r}")
    name = entry["task"]
    return name, {**groups.load("task", name), **{key: value for key, value in entry.items() if key != "task"}}


def read_settings(composed: DictConfig, task_name: str | None = None, task_options: object = None) -> Settings:
    """Check the configuration that Hydra composed, with another task if one is given. Raises UserError."""
    try:
        container = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration does not resolve: {first_line(error)}") from None
    assert isinstance(container, dict)
    config: dict[str, Any] = {str(key): value for key, value in container.items()}
    missing = [key for key in KEYS if key not in config]
    if missing:
        raise UserError(f"the configuration lacks {missing[0]}, which cannot be left out")
    if task_name is not None:
        config |= {"task": task_options, "tasks": None}
    config["model"] = pair.unpinned(config["model"])
    target, draft = (pair.model_of(config["model"], role) for role in pair.ROLES)
    model, task_name = pair.model_name(target, draft), task_name or groups.choice("task")
    experiment = groups.choice("experiment", "") or None
    task: Task = build(f"task {task_name}", config["task"])
    if task.max_new_tokens < 1:
        raise UserError(f"task.max_new_tokens must be >= 1, not {task.max_new_tokens}")
    if task.name not in ("", task_name):  # one of several that a YAML stands for
        task_name = f"{task_name}-{task.name}"
    frontier = construct("frontier", FrontierSettings, config["frontier"])
    variants = make_variants(config["decoder"], config["sampling"], config["reference"], frontier)
    limit, longest, resume = (config[key] for key in ("limit", "max_new_tokens", "resume"))
    if resume not in (None, "mixed"):
        raise UserError(f"resume must be null or mixed, not {resume!r}")
    return Settings(
        model=model,
        target=target,
        draft=draft,
        task_name=task_name,
        task=task,
        variants=variants,
        left_out=_left_out(config["reference"], variants),
        skip=0,
        limit=None if limit is None else _count(config, "limit"),
        repeats=_count(config, "repeats"),
        seed=_seed(config),
        max_new_tokens=task.max_new_tokens if longest is None else _count(config, "max_new_tokens"),
        ignore_eos=_plain(config, "ignore_eos", bool),
        chat=None if config["chat"] is None else _plain(config, "chat", bool),
        skip_long=_plain(config, "skip_long", bool),
        publish=_plain(config, "publish", bool),
        device=_plain(config, "device", str),
        dtype=None if config["dtype"] is None else _plain(config, "dtype", str),
        device_map=pair.device_map(config["device_map"]),
        draft_device=None if config["draft_device"] is None else _plain(config, "draft_device", str),
        tp_plan=pair.tp_plan(config["tp_plan"]),
        engine=_engine(config),
        threads=None if config["threads"] is None else _count(config, "threads"),
        results_dir=_results_dir(config),
        name=_name(config, f"{model}-{task_name}-{experiment or groups.choice('decoder')}"),
        fresh=_plain(config, "fresh", bool),
        mixed=resume == "mixed",
        energy=None if config["energy"] is None else _plain(config, "energy", bool),
        meter=construct("meter", MeterSettings, config["meter"]),
        judge=pair.judge(config["judge"]),
        noninferiority_margin=_margin(config),
        strict=_plain(config, "strict", bool),
        tune=None if config["tune"] is None else construct("tune", TuneSettings, config["tune"]),
        tuning=None,
        experiment=experiment,
        approximation=_approximation(config["approximation"]),
        batch_sizes=batch_sizes(config["batch_size"]),
        figure=_figure(config["figure"]),
        tracker=make_tracker(config.get("tracker")),
        doctor=_plain(config, "doctor", bool),
        trace=_plain(config, "trace", bool),
        config=config,
    )


def _left_out(reference: object, variants: Sequence[Variant]) -> dict[str, str]:
    """Why decoders that reference=all would name are not among the variants."""
    if ALL not in listed(reference):
        return {}
    absent = set(groups.names("decoder")) - {variant.name for variant in variants}
    return {name: reason for name in sorted(absent) if (reason := missing(groups.load("decoder", name)))}


def _plain(config: Mapping[str, Any], key: str, kind: type) -> Any:
    check_type(key, config[key], kind)
    return config[key]


def _margin(config: Mapping[str, Any]) -> float | None:
    margin = config["noninferiority_margin"]
    if margin is None:
        return None
    margin = float(_plain(config, "noninferiority_margin", float))
    if not (margin > 0 and isfinite(margin)):
        raise UserError(f"noninferiority_margin must be > 0, not {margin}")
    return margin


def _seed(config: Mapping[str, Any]) -> int:
    seed = int(_plain(config, "seed", int))
    if not 0 <= seed < 2**63:
        raise UserError(f"seed must be >= 0 and < 2^63, not {seed}")
    return seed


def _approximation(config: Any) -> ApproximationSettings | None:
    return None if config is None else construct("approximation", ApproximationSettings, config)


def _figure(figure: object) -> dict[str, Any] | None:
    """What reports draw: an option of the decoders along x, and figures of theirs. Raises UserError."""
    if figure is None:
        return None
    if not isinstance(figure, Mapping) or not {"x", "panels"} >= figure.keys() or not figure.get("panels"):
        raise UserError(f"figure must be as in {{x: gamma, panels: [perplexity, score]}}, not {figure!r}")
    return dict(figure)


def _engine(config: Mapping[str, Any]) -> Mode:
    engine: Mode = config["engine"]
    one_of("engine", engine, Mode)
    return engine


def _results_dir(config: Mapping[str, Any]) -> Path:
    folder = _plain(config, "results_dir", str)
    if not folder:
        raise UserError("results_dir must name a folder")
    return find_folder(folder) if folder.startswith("~") else Path(folder)


def _count(config: Mapping[str, Any], key: str) -> int:
    number = int(_plain(config, key, int))
    if number < 1:
        raise UserError(f"{key} must be >= 1, not {number}")
    return number


def _name(config: Mapping[str, Any], default: str) -> str:
    name = default if config["name"] is None else str(config["name"])
    if not name or Path(name).name != name or name.startswith("."):
        raise UserError(f"name must be the name of one folder, not {name!r}")
    return name
