"""What a user may ask of the cost model: the keys under `cost` in conf/cost.yaml. Knows their limits, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtad.errors import UserError
from mtad.options import at_least


@dataclass(frozen=True)
class CostOptions:
    """The options of a study.

    Attributes:
        nodes: the sizes of the reads that are timed, in tokens fed in one forward; kept ascending, without copies.
        repeats: timed bursts of reads of each size and model.
        context: mean tokens in the cache when they are timed, more if a sweep of reads needs more; None is the mean
            over the run's texts at half their length.
        predict: make or reuse the run and predict from its rows; otherwise only the costs are shown.
        deepest: the best gamma is looked for among 1 .. deepest.
        texts: of the run's first prompts, written to with other luck to time each decoder's own work on the host.
        batches: numbers of texts that share a forward, for the split of energy; kept like `nodes`.
    """

    nodes: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 24, 32, 33, 48, 64)
    repeats: int = 15
    context: int | None = None
    predict: bool = True
    deepest: int = 16
    texts: int = 3
    batches: Sequence[int] = (1, 2, 4, 8, 16)

    def __post_init__(self) -> None:
        for name in ("nodes", "batches"):
            object.__setattr__(self, name, _sizes(f"cost.{name}", getattr(self, name)))
        at_least("cost.repeats", self.repeats, 1)
        at_least("cost.deepest", self.deepest, 1)
        at_least("cost.texts", self.texts, 1)
        if self.context is not None:
            at_least("cost.context", self.context, 1)


def _sizes(name: str, value: object) -> tuple[int, ...]:
    """Ascending whole numbers. Raises UserError."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise UserError(f"{name} must be a list of whole numbers >= 1, such as [1,5,16], not {value!r}")
    for number in value:
        at_least(f"{name}: each number", number, 1)
    return tuple(sorted(set(value)))
