"""What the benchmark measures beside its run: the keys under `bench` in conf/bench.yaml, checked and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from experiments.build import construct
from mtad.errors import UserError
from mtad.options import at_least, one_of
from mtad.recorded import Mode

BEST = "best "  # before a decoder's name: with the options that tuning chose
JOINT = f"{BEST}joint"  # the fastest of the decoders under `joint`


@dataclass(frozen=True)
class Aim:
    """A figure that is aimed at, from one side.

    Attributes:
        figure: its name, as in a record's `figures`.
        quality: the variant whose perplexity and score must not be worse than autoregressive sampling's.
    """

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    quality: str | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise UserError(f"the aim {self.figure!r} needs one of at_least and at_most")

    def __str__(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


@dataclass(frozen=True)
class BenchOptions:
    """The options; see conf/bench.yaml. `pairs`, `limit` and `aims` are by type of device."""

    pairs: Mapping[str, Any]
    limit: Mapping[str, Any]
    only_trained: tuple[str, ...]
    compile: str
    joint: tuple[str, ...]
    ratios: tuple[Any, ...]
    engines: tuple[Mode, ...]
    nodes: tuple[int, ...]
    context: int
    repeats: int
    bandwidth_bytes: int
    bandwidth_repeats: int
    batches: tuple[int, ...]
    batch_limit: int
    batch_decoders: tuple[str, ...]
    aims: Mapping[str, Any]
    quick: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in ("context", "repeats", "bandwidth_bytes", "bandwidth_repeats", "batch_limit"):
            at_least(f"bench.{name}", getattr(self, name), 1)
        for name in ("nodes", "batches"):
            sizes = getattr(self, name)
            for size in sizes:
                at_least(f"bench.{name}: each number", size, 1)
            if not sizes or list(sizes) != sorted(set(sizes)):
                raise UserError(f"bench.{name} must be ascending whole numbers, not {list(sizes)}")
        for name in ("pairs", "limit", "aims"):
            if not isinstance(getattr(self, name), Mapping):
                raise UserError(f"bench.{name} must be by type of device, as in {{cpu: ...}}")
        for engine in self.engines:
            one_of("bench.engines: each", engine, Mode)
        if not self.engines:
            raise UserError("bench.engines names no engine")
        for pair in self.ratios:
            if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
                raise UserError(f"bench.ratios: an entry is a list of two decoders, not {pair!r}")

    def aimed(self, device: str) -> list[Aim]:
        """The aims of a type of device. Raises UserError."""
        return [construct("bench.aims", Aim, one) for one in self.aims.get(device, [])]


def bench_options(config: Mapping[str, Any]) -> BenchOptions:
    """From the composed and resolved configuration. Raises UserError."""
    options = config.get("bench")
    known = {field.name for field in fields(BenchOptions)}
    if not isinstance(options, Mapping) or known - options.keys():
        raise UserError("the configuration lacks bench, or a key of it; see conf/bench.yaml")
    found: BenchOptions = construct("bench", BenchOptions, options)
    return found
