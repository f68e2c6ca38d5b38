"""Knobs: the options that tuning may turn, and the trials that it draws from their values.

Knows variants and the options of decoders; refuses to know how trials are measured and which is taken.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product
from math import prod
from typing import Any, get_type_hints

from hydra.utils import get_class

from experiments import groups
from experiments.build import check_type, construct
from experiments.variants import Variant
from mtad.decoder import Decoder
from mtad.errors import UserError
from mtad.options import at_least

MOST = 20_000  # combinations of the values of one decoder

Knobs = Mapping[str, Sequence[Any]]  # option -> its values


@dataclass(frozen=True)
class TuneSettings:
    """What tuning may try; every decoder gets the same number of trials on the same prompts.

    Attributes:
        trials: of each decoder; the first of them has its options as they were asked for.
        prompts: that trials write to, the last ones of the task.
        gamma: draft length of every decoder that has one, in the table "same gamma".
        loss: above which a loss, where the prompts show it, rules a lossy trial out (see `experiments.tune.RULE`).
        knobs: option -> values, for every decoder that has the option; or decoder -> option -> values, which then are
            all the knobs of that decoder.
    """

    trials: int
    prompts: int
    gamma: int
    loss: float
    knobs: Mapping[str, Any]

    def __post_init__(self) -> None:
        at_least("trials", self.trials, 2)
        at_least("prompts", self.prompts, 1)
        at_least("gamma", self.gamma, 1)
        at_least("loss", self.loss, 0)
        if not isinstance(self.knobs, Mapping):
            raise UserError(f"knobs must be a mapping of options to lists of values, not {self.knobs!r}")
        for name, value in self.knobs.items():
            if isinstance(value, Mapping):
                _check(f"decoder {name}", value, _options(name))
            else:
                _check("a decoder of conf/decoder", {name: value}, _all_options())

    def of(self, variant: Variant) -> Knobs:
        """The knobs of a variant's decoder; it may have none."""
        own = self.knobs.get(variant.name)
        if isinstance(own, Mapping):
            return own
        shared = {name: values for name, values in self.knobs.items() if not isinstance(values, Mapping)}
        return {name: values for name, values in shared.items() if name in variant.options}


def _check(owner: str, knobs: Knobs, options: frozenset[str]) -> None:
    for name, values in knobs.items():
        if name not in options:
            raise UserError(f"knobs: {name} is no option of {owner}")
        if not isinstance(values, list | tuple) or not values:
            raise UserError(f"knobs: {name} must be a list of values, not {values!r}")


@cache
def _options(name: str) -> frozenset[str]:
    """The options of a decoder. Raises UserError if there is none of that name."""
    return frozenset(field.name for field in fields(get_class(groups.load("decoder", name)["_target_"])))


def _all_options() -> frozenset[str]:
    return frozenset[str]().union(*map(_options, groups.names("decoder")))


@dataclass(frozen=True)
class Search:
    """The trials of one variant.

    Attributes:
        variant: as asked for.
        combinations: of the values of its knobs.
        refused: how many of these the decoder itself refuses.
        trials: equally many for every variant, unless it has fewer combinations; labelled label#1, label#2, ...
    """

    variant: Variant
    knobs: Knobs
    combinations: int
    refused: int
    trials: tuple[Variant, ...]


def find_trials(tune: TuneSettings, variant: Variant, seed: int) -> Search:
    """The variant's own options, then others at random without repetition, the same ones at every start.

    Raises:
        UserError: a value is of the wrong type, or no combination with it is possible.
    """
    knobs = tune.of(variant)
    combinations = prod(map(len, knobs.values()))
    if combinations > MOST:
        raise UserError(f"knobs: {variant.name} has {combinations} combinations, more than {MOST}; give fewer values")
    possible, refused = _possible(variant, knobs)
    others = [decoder for decoder in possible if decoder != variant.decoder]
    drawn = random.Random(f"{seed} {variant.name}").sample(others, min(tune.trials - 1, len(others)))
    trials = [
        replace(variant, label=f"{variant.label}#{number}", decoder=decoder, group="")
        for number, decoder in enumerate([variant.decoder, *drawn], 1)
    ]
    return Search(variant, knobs, combinations, refused, tuple(trials))


def _possible(variant: Variant, knobs: Knobs) -> tuple[list[Decoder], int]:
    """The decoders of all combinations that its class accepts, and how many it refuses. Raises UserError."""
    hints = get_type_hints(type(variant.decoder))
    for name, values in knobs.items():
        for value in values:
            check_type(f"knobs: {name} of {variant.name}", value, hints[name])
    made: dict[Decoder, None] = {}
    works: set[tuple[str, int]] = set()  # option and place of its value
    errors: dict[tuple[str, int], str] = {}
    refused = 0
    for places in product(*(range(len(values)) for values in knobs.values())):
        chosen = list(zip(knobs, places, strict=True))
        try:
            made[with_options(variant, {name: knobs[name][place] for name, place in chosen})] = None
        except UserError as error:
            refused += 1
            errors.update(dict.fromkeys(chosen, str(error)))
        else:
            works.update(chosen)
    if never := [value for value in errors if value not in works]:
        named = [value for value in never if _names(value[0], errors[value], variant)]
        name, place = (named or never)[0]  # beside a wrong value, right ones may be possible nowhere either
        raise UserError(f"knobs: {name}={knobs[name][place]} is possible in no combination: {errors[name, place]}")
    return list(made), refused


def _names(option: str, error: str, variant: Variant) -> bool:
    """Whether an error is about this option; a decoder may have the name of one."""
    return re.search(rf"\b{option}\b", error.removeprefix(f"decoder {variant.name}: ")) is not None


def with_options(variant: Variant, options: Mapping[str, Any]) -> Decoder:
    """The variant's decoder with some options changed. Raises UserError."""
    decoder: Decoder = construct(f"decoder {variant.name}", type(variant.decoder), {**variant.options, **options})
    return decoder
