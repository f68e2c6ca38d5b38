"""Variants: the decoder under study and its references, each a decoder with its options, a sampling and a label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from experiments import groups
from experiments.baseline import FRONTIER
from experiments.build import build, construct, missing
from experiments.frontier import SWEPT, FrontierSettings
from experiments.outside import outside_code
from experiments.redact import redact
from mtad.decoder import Decoder, Engine, RoundDecoder, WholeDecoder
from mtad.errors import UserError
from mtad.law import Sampling

ALL = "all"  # an entry of `reference` that stands for every decoder
RESERVED = ("decoder", "sampling", "label")
NO_FRONTIER = FrontierSettings()


@dataclass(frozen=True)
class Variant:
    """What is measured under one label.

    Attributes:
        label: its name in records and tables; the YAML's name by default.
        name: the decoder's YAML.
        target: the decoder's class, as its YAML names it.
        group: what it is there for, where a run has several tables: tuned decoders, points of the frontier.
    """

    label: str
    name: str
    target: str
    decoder: Decoder
    sampling: Sampling
    group: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """The decoder's options, defaults included."""
        return asdict(self.decoder)  # type: ignore[call-overload]  # build() makes dataclasses only

    def describe(self) -> dict[str, Any]:
        """The variant as JSON data; `code` tells a decoder of another package or a notebook from its earlier forms."""
        described = {
            "label": self.label,
            "decoder": self.name,
            "target": self.target,
            "options": self.options,
            "sampling": asdict(self.sampling),
        }
        code = outside_code(type(self.decoder))
        return {**described, "code": code} if code else described


def make_variants(
    decoder: Mapping[str, Any],
    sampling: Mapping[str, Any],
    reference: object,
    frontier: FrontierSettings = NO_FRONTIER,
) -> tuple[Variant, ...]:
    """The main variant, then the references without exact copies, then what the frontier lacks. Raises UserError."""
    name = groups.choice("decoder")
    main = _variant(name, name, decoder, sampling)
    variants = [main]
    for entry in _entries(reference, name):
        variant = _reference(entry, sampling)
        if variant != main:
            # decoder=speculative decoder.gamma=8 beside the usual reference: both are wanted, under two labels.
            variants.append(replace(variant, label=f"{name}-defaults") if entry == name else variant)
    there = [(variant.decoder, variant.sampling) for variant in variants]
    variants += [v for v in frontier_variants(frontier, sampling) if (v.decoder, v.sampling) not in there]
    for variant in variants[1:]:
        if variant.label in set(groups.names("decoder")) - {variant.name}:
            raise UserError(
                f"label {variant.label!r} of a {variant.name} is the name of another decoder; choose another"
            )
    for label, times in Counter(variant.label for variant in variants).items():
        if times > 1:
            raise UserError(
                f"{times} variants are called {label!r}: give a reference a name of its own, as in "
                f"reference=[{{decoder: {label}, label: other}}]"
            )
    return tuple(variants)


def frontier_variants(settings: FrontierSettings, sampling: Mapping[str, Any]) -> list[Variant]:
    """Autoregressive decoding under the run's sampling, where the sweeps start, and under each of theirs."""
    start = _variant(SWEPT, SWEPT, groups.load("decoder", SWEPT), sampling)
    swept = settings.samplings(start.sampling)
    points = [replace(start, label=label, sampling=changed, group=FRONTIER) for label, changed in swept.items()]
    return [start, *(point for point in points if point.sampling != start.sampling)] if points else []


def _entries(reference: object, main: str) -> list[object]:
    entries = listed(reference)
    return [one for entry in entries for one in (_all_but(main) if entry == ALL else [entry])]


def listed(reference: object) -> Sequence[object]:
    """The entries of the key `reference`, which may be a single one. Raises UserError."""
    if isinstance(reference, str | Mapping):
        return [reference]
    if isinstance(reference, Sequence):
        return reference
    raise UserError(f"reference must be a list of decoders, or all, not {reference!r}")


def _all_but(main: str) -> list[str]:
    """Every decoder of conf/decoder that can run here."""
    return [name for name in groups.names("decoder") if name != main and not missing(groups.load("decoder", name))]


def _reference(entry: object, sampling: Mapping[str, Any]) -> Variant:
    """A variant from a decoder's name or a mapping."""
    if isinstance(entry, str):
        entry = {"decoder": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("decoder"), str):
        raise UserError(f"a reference is a decoder's name or a mapping with the key decoder, not {entry!r}")
    name = entry["decoder"]
    options = {key: value for key, value in entry.items() if key not in RESERVED}
    changed = entry.get("sampling") or {}
    if isinstance(changed, str):
        changed = groups.load("sampling", changed)
    if not isinstance(changed, Mapping):
        raise UserError(f"sampling of reference {name} must be a name or a mapping, not {changed!r}")
    label = redact(str(entry.get("label") or name))  # it stands in every row
    return _variant(label, name, {**groups.load("decoder", name), **options}, {**sampling, **changed})


def _variant(label: str, name: str, config: Mapping[str, Any], sampling: Mapping[str, Any]) -> Variant:
    decoder = build(f"decoder {name}", config)
    if not isinstance(decoder, RoundDecoder | WholeDecoder | Engine):
        raise UserError(f"decoder {name}: {config['_target_']} has neither a round, nor a write, nor a run")
    return Variant(label, name, str(config["_target_"]), decoder, construct("sampling", Sampling, sampling))
