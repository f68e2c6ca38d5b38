"""Short ways to run a decoder in tests."""

from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from experiments.build import build
from experiments.conformance.texts import GREEDY, PURE, spell, write
from mtad.decoder import Decoder, Engine

__all__ = ["ALL", "CONF", "DECODERS", "ENGINES", "GREEDY", "LOSSLESS", "PURE", "from_yaml", "spell", "write"]

CONF = Path(__file__).parents[1] / "conf"


def from_yaml(name: str, **options: object) -> Decoder:
    """The decoder of a YAML in conf/decoder, with options changed."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / "decoder" / f"{name}.yaml"))
    return build(name, {**config, **options})


ALL = sorted(path.stem for path in (CONF / "decoder").glob("*.yaml"))
ENGINES = [name for name in ALL if isinstance(from_yaml(name), Engine)]
DECODERS = [name for name in ALL if name not in ENGINES]  # ours, over sessions
LOSSLESS = [name for name in DECODERS if from_yaml(name).lossless]
