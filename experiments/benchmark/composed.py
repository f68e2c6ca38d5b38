"""The configuration of the benchmark, composed by Hydra as for run.py, so that its run is an ordinary one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from experiments.benchmark.options import BenchOptions, bench_options
from experiments.settings import Settings, read_settings
from mtad.errors import UserError, first_line

CONF = Path(__file__).parents[2] / "conf"


@contextmanager
def configured() -> Iterator[None]:
    """Within, `asked` and the config groups are usable."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def asked(overrides: Sequence[str]) -> tuple[Settings, BenchOptions]:
    """The run and the options that these overrides give; only within `configured`. Raises UserError."""
    config = _composed(overrides)
    options = bench_options(_plain(config))
    with open_dict(config):
        del config["bench"]  # no part of the run
    settings = read_settings(config)
    return replace(settings, name=f"{settings.model}-{settings.task_name}-bench"), options


def options_of(overrides: Sequence[str]) -> BenchOptions:
    """The options alone, before a pair is chosen. Raises UserError."""
    return bench_options(_plain(_composed(overrides)))


def _composed(overrides: Sequence[str]) -> DictConfig:
    try:
        config = compose("bench", list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"the configuration cannot be composed: {first_line(error)}") from None
    return config


def _plain(config: DictConfig) -> dict[str, Any]:
    container = OmegaConf.to_container(config)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
