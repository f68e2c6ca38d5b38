"""What determines a run's outputs, and its hash: the run id. And the configuration as it may be published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from experiments.records import stable_hash
from experiments.settings import Settings
from experiments.task import Prompt
from mtad.loading import Blueprint, content_hash, find_folder

# Where results go and how a run is started say nothing about its outputs.
ELSEWHERE = ("results_dir", "name", "fresh", "resume")


def run_id(settings: Settings, blueprint: Blueprint, prompts: Sequence[Prompt], device: torch.device) -> str:
    """A stable hash over decoders, sampling, weights, prompts and limits; not over code, places or names."""
    return stable_hash(
        {
            "version": version("mtad-bench"),
            "weights": {role: asdict(origin) for role, origin in blueprint.origins.items()},
            "task": {"name": settings.task_name, "stop": settings.task.stop},
            "prompts": [asdict(prompt) for prompt in prompts],
            "variants": [variant.describe() for variant in settings.variants],
            "repeats": settings.repeats,
            "seed": settings.seed,
            "max_new_tokens": settings.max_new_tokens,
            "ignore_eos": settings.ignore_eos,
            "device": str(device),
        }
    )


def published_config(settings: Settings) -> dict[str, Any]:
    """The resolved configuration without the keys that only say where, and with no user's path in it."""
    config = {key: value for key, value in settings.config.items() if key not in ELSEWHERE}
    variants = [variant.describe() for variant in settings.variants]
    return {**{str(key): _published(str(key), value) for key, value in config.items()}, "variants": variants}


def _published(key: str, value: object) -> object:
    """`value` with every path replaced by the last name in it and the hash of what lies there."""
    if isinstance(value, Mapping):
        return {inner: _published(str(inner), item) for inner, item in value.items()}
    if isinstance(value, list):
        return [_published(key, item) for item in value]
    if not isinstance(value, str) or not (key == "path" or value.startswith(("/", "~"))):
        return value
    place = find_folder(value)
    return f"{place.name}@sha256:{content_hash(place)[:16]}" if place.exists() else place.name
