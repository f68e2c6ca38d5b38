"""Short ways to run a decoder in tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from experiments.build import build
from mtad.decoder import Decoder, Engine
from mtad.ending import Limits
from mtad.feeds import Model
from mtad.generate import Output, generate
from mtad.law import Sampling
from mtad.luck import Luck
from mtad.session import Session

CONF = Path(__file__).parents[1] / "conf"
PURE = Sampling(temperature=1.0, top_k=0, top_p=1.0)


def from_yaml(name: str, **options: object) -> Decoder:
    """The decoder of a YAML in conf/decoder, with options changed."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / "decoder" / f"{name}.yaml"))
    return build(name, {**config, **options})


ALL = sorted(path.stem for path in (CONF / "decoder").glob("*.yaml"))
ENGINES = [name for name in ALL if isinstance(from_yaml(name), Engine)]
DECODERS = [name for name in ALL if name not in ENGINES]  # ours, over sessions
LOSSLESS = [name for name in DECODERS if from_yaml(name).lossless]


def spell(tokens: Sequence[int]) -> str:
    """Token ids as letters: 0 is a, 25 is z, and so on."""
    return "".join(chr(ord("a") + token) for token in tokens)


def write(
    decoder: Decoder,
    target: Model,
    draft: Model,
    prompt: Sequence[int] = (0,),
    limit: int = 8,
    eos: Sequence[int] = (),
    stop: Sequence[str] = (),
    sampling: Sampling = PURE,
    seed: int = 0,
    name: str = "prompt",
) -> Output:
    """Generate on fresh sessions."""
    limits = Limits(limit, frozenset(eos), tuple(stop))
    return generate(decoder, Session(target), Session(draft), prompt, limits, sampling, Luck(seed, name), spell)
