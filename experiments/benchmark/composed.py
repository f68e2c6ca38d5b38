"""The configuration of the benchmark, composed by Hydra as for run.py, so that its run is an ordinary one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.benchmark.options import BenchOptions, bench_options
from experiments.composed import composed
from experiments.settings import Settings, read_settings


def asked(overrides: Sequence[str]) -> tuple[Settings, BenchOptions]:
    """The run and the options that these overrides give; only within `configured`. Raises UserError."""
    config = composed("bench", overrides)
    options = bench_options(_plain(config))
    with open_dict(config):
        del config["bench"]  # no part of the run
    settings = read_settings(config)
    return replace(settings, name=f"{settings.model}-{settings.task_name}-bench"), options


def options_of(overrides: Sequence[str]) -> BenchOptions:
    """The options alone, before a pair is chosen. Raises UserError."""
    return bench_options(_plain(composed("bench", overrides)))


def _plain(config: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(config)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
