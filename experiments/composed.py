"""A configuration composed by Hydra as for run.py, for commands whose first words are their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mtad.errors import UserError, first_line

CONF = Path(__file__).parents[1] / "conf"


@contextmanager
def configured() -> Iterator[None]:
    """Within, `composed` and the config groups are usable."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


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
