"""Variants as lines along one of their options. Knows options; refuses to know figures and pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.baseline import FRONTIER
from experiments.report.results import Run

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Line:
    """Variants that share everything but one option.

    Attributes:
        name: the decoder, and what tells this line from others of the same decoder.
        labels: of the variants, by the option's value, in the order of the x axis.
    """

    name: str
    labels: Mapping[Any, str]


@dataclass(frozen=True)
class Lines:
    """A sweep of one option.

    Attributes:
        flat: variants whose decoder has no such option.
        left_out: variants that lie on no line of their decoder, since they differ in other options.
    """

    lines: tuple[Line, ...]
    flat: tuple[str, ...]
    left_out: tuple[str, ...]

    def only(self, labels: Collection[str]) -> Lines:
        """The lines of two and more of these variants, and nothing else."""
        kept = (
            Line(line.name, {x: label for x, label in line.labels.items() if label in labels}) for line in self.lines
        )
        return Lines(tuple(line for line in kept if len(line.labels) > 1), (), ())

    @property
    def values(self) -> list[Any]:
        """All values of the option, in the order of the x axis."""
        return in_order({value for line in self.lines for value in line.labels})

    @property
    def names(self) -> list[str]:
        """Of what is drawn, lines first."""
        return [*(line.name for line in self.lines), *self.flat]


def in_order(values: set[Any]) -> list[Any]:
    """Numbers by size, all else by name."""
    return sorted(values, key=lambda value: (not isinstance(value, (int, float)), *_sortable(value)))


def lines_along(run: Run, option: str) -> Lines:
    """The variants of a run along an option of theirs."""
    variants = {
        label: figures for label, figures in run.summary["decoders"].items() if figures.get("group") != FRONTIER
    }
    having = {label: figures for label, figures in variants.items() if option in (figures.get("options") or {})}
    found: dict[Key, dict[Any, str]] = {}
    for label, figures in having.items():
        found.setdefault(_key(figures, option), {}).setdefault(_hashable(figures["options"][option]), label)
    swept = {key[0] for key, labels in found.items() if len(labels) > 1}
    kept = {key: labels for key, labels in found.items() if len(labels) > 1 or key[0] not in swept}
    first = {key: having[next(iter(labels.values()))] for key, labels in kept.items()}
    lines = tuple(
        Line(
            _name(figures, [other for other in first.values() if other["decoder"] == figures["decoder"]], option),
            {value: kept[key][value] for value in in_order(set(kept[key]))},
        )
        for key, figures in first.items()
    )
    drawn = {label for labels in kept.values() for label in labels.values()}
    flat = tuple(label for label in variants if label not in having)
    return Lines(lines, flat, tuple(label for label in having if label not in drawn))


def _key(figures: Mapping[str, Any], option: str) -> Key:
    others = {name: value for name, value in figures["options"].items() if name != option}
    return figures["decoder"], str(sorted(others.items())), str(figures["sampling"]), figures.get("group") or ""


def _name(figures: Mapping[str, Any], of_decoder: Sequence[Mapping[str, Any]], option: str) -> str:
    """The decoder with the settings in which its lines differ."""
    named = [figures["decoder"]]
    for part in ("options", "sampling"):
        for key, value in figures[part].items():
            if key != option and len({str(other[part].get(key)) for other in of_decoder}) > 1:
                named.append(f"{key}={value}")
    if len({other.get("group") or "" for other in of_decoder}) > 1 and figures.get("group"):
        named.append(f"({figures['group']})")
    return " ".join(named)


def _hashable(value: Any) -> Any:
    """As a number where it is one, else in words."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _sortable(value: Any) -> tuple[float, str]:
    return (value, "") if isinstance(value, (int, float)) else (0.0, str(value))
