"""What determines a run's outputs, and its hash: the run id. And the configuration as it may be published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from operator import itemgetter
from typing import Any

from experiments.prompting import Prompting
from experiments.records import stable_hash
from experiments.redact import redact
from experiments.settings import Settings
from experiments.task import PATHS, Prompt
from mtad.folders import content_hash, find_folder
from mtad.loading import Blueprint

# Where results go and how a run is started say nothing about its outputs.
ELSEWHERE = ("results_dir", "name", "fresh", "resume", "publish", "tracker")


def run_id(
    settings: Settings,
    blueprint: Blueprint,
    prompts: Sequence[Prompt],
    how: Prompting,
    encoded: Mapping[tuple[str, int], Sequence[int]],
) -> str:
    """A stable hash over decoders, sampling, weights, prompts and limits; not over code, places or names."""
    return stable_hash(
        {
            "version": version("mtad-bench"),
            "weights": {role: asdict(origin) for role, origin in blueprint.origins.items()},
            "task": {"name": settings.task_name, "stop": settings.task.chat_stop if how.chat else settings.task.stop},
            "prompting": how.describe(),
            "encoded": list(encoded.values()),  # a template may say what nothing else here does, such as the day
            "prompts": [{key: value for key, value in asdict(prompt).items() if key != "place"} for prompt in prompts],
            "eos": sorted(blueprint.eos),
            "decoder": settings.variants[0].describe(),
            "references": sorted((variant.describe() for variant in settings.variants[1:]), key=itemgetter("label")),
            "repeats": settings.repeats,
            "seed": settings.seed,
            "max_new_tokens": settings.max_new_tokens,
            "ignore_eos": settings.ignore_eos,
            "device": str(blueprint.placement),
            "engine": settings.engine,
            "threads": settings.threads,
        }
    )


def published_config(settings: Settings, blueprint: Blueprint) -> dict[str, Any]:
    """The resolved configuration without the keys that only say where, and with no user's path in it."""
    config = {key: value for key, value in settings.config.items() if key not in (*ELSEWHERE, "model")}
    config["model"] = {role: {**settings.config["model"][role], "path": None} for role in blueprint.origins}
    paths = {
        role: f"{origin.folder}@sha256:{origin.sha256}" if origin.folder else None
        for role, origin in blueprint.origins.items()
    }
    config["variants"] = [variant.describe() for variant in settings.variants]
    safe: dict[str, Any] = published(config)
    for role, path in paths.items():  # the very hash of the weights, where `published` would take all files
        safe["model"][role]["path"] = redact(path)
    return safe


def published(value: Any, key: str = "") -> Any:
    """`value` with every path in it replaced by its last name and the hash of what lies there, and without secrets."""
    return redact(_without_paths(value, key))


def _without_paths(value: Any, key: str) -> Any:
    if isinstance(value, Mapping):
        return {str(inner): _without_paths(item, str(inner)) for inner, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_paths(item, key) for item in value]
    is_path = isinstance(value, str) and value and (key in PATHS or value.startswith(("/", "~")))
    return _published_path(value) if is_path else value


@cache
def _published_path(path: str) -> str:
    place = find_folder(path)
    a_home = place == find_folder("~") or str(place.parent) in ("/home", "/Users")
    name = "~" if a_home else place.name
    try:
        return f"{name}@sha256:{content_hash(place)}" if place.exists() else name
    except OSError:  # it may not be read
        return name
