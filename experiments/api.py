"""The harness from Python, for notebooks: load a pair, generate with a decoder, measure, read results.

Everything is asked for by the names and `key=value` overrides of the command line, and done by what run.py does: no
second way. A mistake raises `mtad.errors.UserError`, whose one line says what to do.

    from experiments.api import decoder, generate, load_pair, measure, read

    pair = load_pair("tiny")
    generate(pair, decoder("mtad", gamma=8), "SELECT name", max_new_tokens=20).text
    measure("limit=5", mine={"mine": MyDecoder()}).variants
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils.logging import disable_progress_bar

from experiments import groups
from experiments.bench import shelf
from experiments.build import build
from experiments.composed import composed, configured
from experiments.optional import need
from experiments.plan import place, prepare
from experiments.runner import carry_out, tuned
from experiments.settings import Settings, read_each, read_settings
from experiments.variants import Variant
from mtad.decoder import Decoder, Engine, RoundDecoder, WholeDecoder
from mtad.ending import Limits
from mtad.errors import UserError
from mtad.generate import Output
from mtad.generate import generate as write
from mtad.law import Sampling
from mtad.loading import Pair, inspect_pair, speller
from mtad.luck import Luck
from mtad.session import Session

if TYPE_CHECKING:
    import pandas as pd

DEFAULT = Sampling()  # that of conf/sampling/default.yaml


@dataclass(frozen=True)
class Frames:
    """Results as pandas frames, with the columns that docs/report.md and docs/measurement.md explain.

    Attributes:
        variants: a line for each variant of each run.
        comparisons: one for each variant, reference and metric, with value, interval and p-value.
        rows: one for each text.
        notes: what a reader must know before he compares these runs, in a line each.
        places: the folders of the runs.
    """

    variants: pd.DataFrame
    comparisons: pd.DataFrame
    rows: pd.DataFrame
    notes: tuple[str, ...]
    places: tuple[Path, ...]


def load_pair(model: str = "tiny", *overrides: str) -> Pair:
    """The pair of conf/model/<model>.yaml, as changed by overrides such as "dtype=bf16" or "model.draft.path=FOLDER".

    The pair that was loaded last is kept, and `measure` takes it too. Raises UserError.
    """
    with configured():
        settings = read_settings(composed("config", [f"model={model}", *overrides]))
    if not sys.stderr.isatty():
        disable_progress_bar()  # of transformers, which would fill a notebook
    blueprint = inspect_pair(settings.target, settings.draft, settings.dtype, place(settings))
    return shelf.take(blueprint, settings.engine, settings.rows)


def decoder(name: str, **options: object) -> Decoder:
    """The decoder of conf/decoder/<name>.yaml, of this project or an installed package, with options changed.

    Raises UserError for a name or an option that there is not.
    """
    with configured():
        composed("config", [])
        made: Decoder = build(f"decoder {name}", {**groups.load("decoder", name), **options})
    return made


def generate(
    pair: Pair,
    decoder: Decoder,
    prompt: str | Sequence[int],
    max_new_tokens: int = 64,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    sampling: Sampling = DEFAULT,
) -> Output:
    """One text: its tokens, rounds, counts of forwards and seconds. The same arguments give the same tokens.

    Args:
        decoder: from `decoder`, or any object that follows a protocol of `mtad.decoder`.
        prompt: a text, put to the model as it is, or token ids.
        stop: strings that end the text, or one.

    Raises:
        UserError: the prompt is empty, too long for the pair, or not of its tokens.
    """
    tokens = pair.tokenizer(prompt).input_ids if isinstance(prompt, str) else list(prompt)
    if not tokens:
        raise UserError("the prompt has no tokens")
    size = pair.target.vocabulary
    if wrong := [token for token in tokens if not isinstance(token, int | np.integer) or not 0 <= token < size]:
        raise UserError(f"the prompt's {wrong[0]!r} is no token id of the pair: whole numbers from 0 to {size - 1}")
    limits = Limits(max_new_tokens, pair.eos, (stop,) if isinstance(stop, str) else tuple(stop))
    sessions = Session(pair.target), Session(pair.draft)
    return write(_checked(decoder), *sessions, tokens, limits, sampling, Luck(seed, "prompt"), speller(pair.tokenizer))


def measure(*overrides: str, mine: Mapping[str, Decoder] | None = None) -> Frames:
    """The run of `mtad-bench OVERRIDES`, with decoders of your own before the others, and what it found.

    A run that is complete is read, not measured again; `mine` of other source code or options is another run.

    Args:
        mine: decoders by the label that they are to have in tables. The decoder under study is then the first of
            them, and the configuration's own, mtad unless an override says otherwise, follows with its references.

    Raises:
        UserError: a setting is wrong, or cannot be measured here.
    """
    with configured():
        places = []
        for settings in read_each(composed("config", overrides)):
            plan = prepare(tuned(_with(settings, mine or {})))
            carry_out(plan)
            places.append(plan.folder.path)
    return _frames(places)


def read(place: str | Path) -> Frames:
    """The finished runs in a folder of results, or the one in its own folder. Raises UserError if there are none."""
    return _frames([Path(place)])


def _frames(places: Sequence[Path]) -> Frames:
    pandas = need("pandas", "report")
    from experiments.report.frames import comparisons_frame, variants_frame
    from experiments.report.results import Results, read_results

    runs = [run for place in places for run in read_results(place).runs]
    results = Results(places[0], tuple(runs))
    rows = [{"run": run.name, **row} for run in runs for row in run.rows()]
    return Frames(
        variants_frame(results),
        comparisons_frame(results),
        pandas.DataFrame(rows),
        tuple(results.notes),
        tuple(run.path for run in runs if run.path),
    )


def _with(settings: Settings, mine: Mapping[str, Decoder]) -> Settings:
    """The settings with decoders that no YAML names before the others. Raises UserError."""
    if settings.doctor:
        raise UserError("doctor=true measures nothing: mtad-bench doctor=true prints what it finds")
    if not mine:
        return settings
    if bad := [label for label in mine if not isinstance(label, str) or not label.strip()]:
        raise UserError(f"the label of a decoder is a string that is not empty, not {bad[0]!r}")
    if settings.tune:
        raise UserError("tuning is for decoders with a YAML: write one for yours, or leave tune=null")
    taken = {*groups.names("decoder"), *(variant.label for variant in settings.variants)}
    if doubled := sorted(taken & mine.keys()):
        raise UserError(f"{doubled[0]!r} is the name of another decoder; give yours another label")
    sampling = settings.variants[0].sampling
    own = tuple(Variant(label, label, _path(_checked(one)), one, sampling) for label, one in mine.items())
    name = settings.name if settings.config["name"] else f"{settings.model}-{settings.task_name}-{own[0].label}"
    return replace(settings, variants=(*own, *settings.variants), name=name)


def _checked(decoder: Decoder) -> Decoder:
    """Raises UserError for what is no decoder, or not one whose options can be written down."""
    if isinstance(decoder, type):
        raise UserError(f"{decoder.__qualname__} is a class; an object is wanted, as in {decoder.__qualname__}()")
    kind = type(decoder).__qualname__
    if not isinstance(decoder, RoundDecoder | WholeDecoder | Engine):
        raise UserError(f"{kind} is no decoder: it needs joint, drafts, lossless and a round, a write or a run")
    if not is_dataclass(decoder):
        raise UserError(f"{kind} is no dataclass, so its options cannot be recorded: decorate it with @dataclass")
    return decoder


def _path(decoder: Any) -> str:
    return f"{type(decoder).__module__}.{type(decoder).__qualname__}"
