"""A configuration composed by Hydra as for run.py, for commands whose first words are their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mtad.errors import UserError, first_line

CONF = Path(__file__).parents[1] / "conf"


@contextmanager
def configured() -> Iterator[None]:
    """Within, `composed` and the config groups are usable; afterwards Hydra is as it was before."""
    hydra, config = GlobalHydra.instance().hydra, HydraConfig.instance().cfg
    GlobalHydra.instance().clear()  # which may be another application's, in a process that asks us for something
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra, HydraConfig.instance().cfg = hydra, config


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """conf/<name>.yaml with these overrides, resolved; only within `configured`. Raises UserError."""
    try:
        config = compose(name, list(overrides), return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        OmegaConf.resolve(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"the configuration cannot be composed: {first_line(error)}") from None
    return config
