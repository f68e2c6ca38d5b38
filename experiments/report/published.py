"""What the paper and its authors report, with the source of each figure and the settings it was measured in.

The figures themselves are in published.yaml; this brings them to the direction of our metrics: "2.84 times less
energy" is an energy ratio of 1 / 2.84, "-21.2 %" a ratio of 0.788. Refuses to know our results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

FILE = Path(__file__).with_name("published.yaml")
NULLS = {  # of each metric of a claim: the value that says "no difference", and the better direction
    "speedup": (1.0, "higher"),
    "energy_ratio": (1.0, "lower"),
    "perplexity_ratio": (1.0, "lower"),
    "score_ratio": (1.0, "higher"),
    "score_difference": (0.0, "higher"),
    "tokens_per_round_ratio": (1.0, "higher"),
}
EXAMPLE = (  # cell of an example, metric of its claim, how the claim is put
    ("score", "score_difference", "MTAD scores better than SpecInfer"),
    ("tokens_per_round", "tokens_per_round_ratio", "MTAD writes more tokens in a round than SpecInfer"),
)

Accepted = Mapping[str, Sequence[Any]]  # name of an option -> the values that the source states, each as good


@dataclass(frozen=True)
class Published:
    """A figure that was published, of a decoder alone or against another.

    Attributes:
        claim: in one sentence.
        version: of the paper.
        source: where exactly.
        decoder, reference: names in conf/decoder; the figure is of the decoder alone if the reference is None.
        metric: as in a summary, or `score_ratio`, `tokens_per_round_ratio`; without a reference `score` or
            `tokens_per_round`.
        value: in the metric's own direction.
        printed: as its authors put it.
        null: the value that says "no difference"; of a decoder alone there is none.
        average: over several pairs or data sets, of which each is only one.
        direction_only: no figure is published but which side of `null`, and `value` is `null`.
        models, tasks: any of these; names in conf/model and conf/task.
        options, sampling, reference_options, reference_sampling: what the source states, if anything.
        max_new_tokens, prompts: the same; empty if not stated.
        chat: whether prompts were put in a chat template; None if models have none.
        experiment: of ours, which measures it.
    """

    id: str
    claim: str
    version: str
    source: str
    decoder: str
    reference: str | None
    metric: str
    value: float
    printed: str
    better: Literal["higher", "lower"]
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    experiment: str
    null: float | None = None
    average: bool = False
    direction_only: bool = False
    options: Accepted = field(default_factory=dict)
    sampling: Accepted = field(default_factory=dict)
    reference_options: Accepted = field(default_factory=dict)
    reference_sampling: Accepted = field(default_factory=dict)
    max_new_tokens: tuple[int, ...] = ()
    prompts: tuple[int, ...] = ()
    chat: bool | None = None


@cache
def published() -> tuple[Published, ...]:
    """All of them: the claims of the abstracts, then those of the authors' examples, each before its two cells."""
    content = _content()
    settings = content["settings"]
    found = [_claim({**settings[entry.pop("in")], **entry}) for entry in content["claims"]]
    for entry in content["examples"]:
        found += _example({**settings[entry.pop("in")], **entry})
    return tuple(found)


def published_for(
    model: str,
    task: str,
    decoder: str,
    metric: str,
    options: Mapping[str, Any],
    sampling: Mapping[str, Any] | None = None,
) -> Published | None:
    """The figure that the authors give for this cell of a table; None if there is none for just these options."""
    for one in published():
        cell = one.reference is None and (one.decoder, one.metric) == (decoder, metric)
        same = not differing(one.options, options) and (sampling is None or not differing(one.sampling, sampling))
        if cell and same and model in one.models and task in one.tasks:
            return one
    return None


@cache
def pairs() -> dict[str, dict[str, str]]:
    """The paper's pairs by their names in conf/model: ids on the hub of `target` and `draft`."""
    return dict(_content()["pairs"])


def differing(stated: Accepted, found: Mapping[str, Any]) -> list[str]:
    """The names of what is stated and found otherwise, or not found."""
    return [name for name, values in stated.items() if name not in found or found[name] not in values]


def _content() -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.load(FILE))
    return dict(content)


def _claim(entry: dict[str, Any]) -> Published:
    null, better = NULLS[entry["metric"]]
    value, printed = _in_our_direction(entry, null, better)
    others = {key: put for key, put in entry.items() if key not in ("times", "times_less", "change")}
    others = {"reference_sampling": entry["sampling"], **others}
    return _made(others, value=value, printed=printed, null=null, better=better)


def _in_our_direction(entry: Mapping[str, Any], null: float, better: str) -> tuple[float, str]:
    """A ratio or a difference, and the source's words for it."""
    if "times" in entry:
        return entry["times"], f"{entry['times']:g}x"
    if "times_less" in entry:
        return 1 / entry["times_less"], f"{entry['times_less']:g}x less"
    if "change" in entry:
        return 1 + entry["change"], f"{100 * entry['change']:+.3g} %"
    return null, better


def _example(entry: dict[str, Any]) -> Iterator[Published]:
    """A claim for each kind of figure, and the two cells that it compares."""
    of, figures = entry.pop("of"), {kind: entry.pop(kind) for kind, _, _ in EXAMPLE}
    reference = {"decoder": entry["reference"], "options": entry.pop("reference_options")}
    for kind, metric, words in EXAMPLE:
        ours, theirs = figures[kind]
        null, better = NULLS[metric]
        yield _made(
            {**entry, "reference_options": reference["options"], "reference_sampling": entry["sampling"]},
            id=f"{entry['id']}-{kind}",
            claim=f"{words} {of}.",
            metric=metric,
            value=ours - theirs if null == 0 else ours / theirs,
            printed=f"{_cell(kind, ours)} against {_cell(kind, theirs)}",
            null=null,
            better=better,
        )
        cells: tuple[tuple[dict[str, Any], float], ...] = ((entry, ours), ({**entry, **reference}, theirs))
        for side, value in cells:
            yield _made(
                {**side, "reference": None},
                id=f"{entry['id']}-{side['decoder']}-{kind}",
                claim=f"{side['decoder']} {of}: {kind}.",
                metric=kind,
                value=value,
                printed=_cell(kind, value),
                better="higher",
            )


def _cell(kind: str, value: float) -> str:
    return f"{value:.1%}".replace("%", " %") if kind == "score" else f"{value:.2f}"


def _made(entry: Mapping[str, Any], **others: Any) -> Published:
    """Lists of names and numbers as tuples."""
    values = {**entry, **others}
    for key in ("models", "tasks", "max_new_tokens", "prompts"):
        values[key] = tuple(values.get(key, ()))
    return Published(**values)
