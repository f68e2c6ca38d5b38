"""What lm-eval's `--model_args` may say: which pair, the decoder's options, how to sample. Knows no lm-eval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from experiments import groups
from experiments.build import build, construct, missing
from experiments.composed import composed, configured
from mtad.decoder import Decoder
from mtad.errors import UserError
from mtad.folders import find_folder
from mtad.law import Sampling
from mtad.options import at_least, one_of
from mtad.recorded import Mode
from mtad.sources import ModelSpec

SAMPLING = ("temperature", "top_k", "top_p")  # greedy or not is what each request says


@dataclass(frozen=True)
class Options:
    """The keys that belong neither to the decoder nor to its sampling.

    Attributes:
        pair: the YAML of conf/model that the two models are taken from.
        target, draft: a folder or a hub id in place of that YAML's.
        device, dtype, engine, threads: as the keys of conf/config.yaml.
        seed: of the counted randomness.
        max_new_tokens: the longest answer where a task does not say.
    """

    pair: str = "tiny"
    target: str | None = None
    draft: str | None = None
    device: str = "auto"
    dtype: str | None = None
    engine: Mode = "auto"
    threads: int | None = None
    seed: int = 0
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        one_of("engine", self.engine, Mode)
        if self.threads is not None:
            at_least("threads", self.threads, 1)
        at_least("seed", self.seed, 0)
        at_least("max_new_tokens", self.max_new_tokens, 1)


@dataclass(frozen=True)
class Arguments:
    """All of `--model_args`, checked."""

    decoder: Decoder
    sampling: Sampling
    options: Options
    target: ModelSpec
    draft: ModelSpec


def names(group: str) -> list[str]:
    """The YAMLs of a group, of this project and of installed packages."""
    with configured():
        composed("config", [])
        return groups.names(group)


def read_arguments(name: str, given: Mapping[str, Any]) -> Arguments:
    """The arguments of the decoder `name`. Raises UserError."""
    decoder, sampling = _yaml("decoder", name), _yaml("sampling", "default")
    if reason := missing(decoder):
        raise UserError(f"decoder {name} cannot run here: {reason}")
    own = [key for key in decoder if key != "_target_"]
    known = [*own, *SAMPLING, *(field.name for field in fields(Options))]
    for key in given:
        if key not in known:
            raise UserError(f"--model_args of {name} has no {key!r}; it has: {', '.join(known)}")
    options = construct(
        "--model_args", Options, {key: value for key, value in given.items() if key not in (*own, *SAMPLING)}
    )
    built = build(f"decoder {name}", {**decoder, **{key: given[key] for key in own if key in given}})
    if options.target and built.drafts and not options.draft:
        raise UserError(f"--model_args: {name} needs a draft model too: draft=FOLDER_OR_ID beside target=")
    pair = _yaml("model", options.pair)
    target = _spec(pair["target"], options.target)
    return Arguments(
        built,
        construct("sampling", Sampling, {**sampling, **{key: given[key] for key in SAMPLING if key in given}}),
        options,
        target,
        _spec(pair["draft"], options.draft) if built.drafts else target,
    )


@cache
def _yaml(group: str, name: str) -> Mapping[str, Any]:
    with configured():  # Hydra takes a tenth of a second
        composed("config", [])
        return groups.load(group, name)


def _spec(config: Mapping[str, Any], place: str | None) -> ModelSpec:
    """The YAML's model, or another one of the same number type."""
    spec: ModelSpec = construct("model", ModelSpec, config)
    if place is None:
        return spec
    if place.startswith((".", "/", "~")) or find_folder(place).is_dir():
        return ModelSpec(path=place, dtype=spec.dtype)
    return ModelSpec(id=place, dtype=spec.dtype)
