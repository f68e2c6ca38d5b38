"""Joules of a read as compute plus memory access, by the number of texts that share it, as in the paper's table 2.

    joules = FLOPs x J/FLOP + bytes x J/byte

The two prices are published figures for the kind of device, which cover arithmetic and memory cells and nothing of what
else draws power (instructions, caches, clocks, leakage, idling): a lower bound whose split, not whose sum, is of use.
Where a meter reads the device, they are calibrated instead by a large matrix product and a large copy on it, which
brings all of that in, and real reads are measured beside. Every figure is labelled with the prices it was made with.

Knows models and FLOPs; refuses to know how joules are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Protocol

import torch

from experiments.cost.arithmetic import Arithmetic
from experiments.cost.reads import branching
from mtad.law import Warp
from mtad.model import CausalModel
from mtad.session import Session

# The calibrating loads by type of device: the side of a square matrix, and the bytes that are copied, far more than its
# caches hold.
MATRIX = {"cuda": 8192, "cpu": 2048}
COPIED_BYTES = {"cuda": 2**31, "cpu": 2**28}


class Joules(Protocol):
    """A meter as this module needs it: the gross energy of the device while `work` runs, None if it cannot tell."""

    def __call__(self, work: Callable[[], None]) -> float | None: ...


@dataclass(frozen=True)
class Prices:
    """What computing and moving cost.

    Attributes:
        source: where the two numbers come from.
    """

    joules_per_flop: float
    joules_per_byte: float
    source: str


@dataclass(frozen=True)
class Split:
    """Joules of one forward for `batch` texts, and per token; `tokens` are the new ones of each text."""

    batch: int
    nodes: float
    tokens: float
    compute_joules: float
    memory_joules: float

    @property
    def joules_per_token(self) -> float:
        """Both parts together."""
        return (self.compute_joules + self.memory_joules) / (self.batch * self.tokens)

    @property
    def memory_share(self) -> float:
        """Of the joules."""
        return self.memory_joules / (self.compute_joules + self.memory_joules)


_HOROWITZ = 'Horowitz, "Computing\'s energy problem (and what we can do about it)", ISSCC 2014, 45 nm'
_OCONNOR = 'O\'Connor et al., "Fine-Grained DRAM", MICRO 2017: HBM2 3.92 pJ/bit'
# A multiplication and an addition, two FLOPs: 3.7 + 0.9 pJ in 32 bits, 1.1 + 0.4 pJ in 16 bits.
_FLOP_PICOJOULES = {4: (3.7 + 0.9) / 2, 2: (1.1 + 0.4) / 2}
_DRAM_PICOJOULES = 1950 / 8  # a byte: the middle of 1.3 to 2.6 nJ for 64 bits
_HBM_PICOJOULES = 3.92 * 8


def published_prices(device: torch.device, number_bytes: int) -> Prices:
    """For numbers of 2 or 4 bytes, on a GPU with stacked memory or a CPU with DRAM modules."""
    flop = _FLOP_PICOJOULES[number_bytes] * 1e-12
    if device.type == "cuda":
        return Prices(flop, _HBM_PICOJOULES * 1e-12, f"modelled: arithmetic by {_HOROWITZ}; memory by {_OCONNOR}")
    return Prices(
        flop, _DRAM_PICOJOULES * 1e-12, f"modelled: arithmetic, and 1.3 to 2.6 nJ for 64 bits, by {_HOROWITZ}"
    )


def split(model: Arithmetic, prices: Prices, batch: int, nodes: float, context: float, tokens: float) -> Split:
    """One forward that feeds `nodes` tokens to each of `batch` texts, which brings `tokens` new ones to each."""
    return Split(
        batch,
        nodes,
        tokens,
        compute_joules=model.flops(nodes, context, batch) * prices.joules_per_flop,
        memory_joules=model.bytes(nodes, context, batch) * prices.joules_per_byte,
    )


def calibrate(joules: Joules, device: torch.device, dtype: torch.dtype, seconds: float, name: str) -> Prices | None:
    """Prices from two loads of `seconds` each, solved together, since a matrix product moves bytes too.

    Args:
        name: of the device, for the label.

    Returns:
        None if the meter cannot tell, or if it gives prices that are not positive.
    """
    side, copied = MATRIX[device.type], COPIED_BYTES[device.type]
    a, b = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.zeros(copied // dtype.itemsize, device=device, dtype=dtype)
    copy = torch.empty_like(source)
    wait = _waiter(device)
    one_product = sustained(joules, lambda: torch.mm(a, b, out=product), wait, seconds)
    one_copy = sustained(joules, lambda: copy.copy_(source), wait, seconds)
    if one_product is None or one_copy is None:
        return None
    return solve(one_product, 2 * side**3, 3 * side**2 * dtype.itemsize, one_copy, 2 * copied, name)


def solve(
    product_joules: float, product_flops: float, product_bytes: float, copy_joules: float, copy_bytes: float, name: str
) -> Prices | None:
    """The prices at which both loads cost what was measured; None unless both are positive."""
    joules_per_byte = copy_joules / copy_bytes
    joules_per_flop = (product_joules - product_bytes * joules_per_byte) / product_flops
    if joules_per_byte <= 0 or joules_per_flop <= 0:
        return None
    return Prices(joules_per_flop, joules_per_byte, f"calibrated on {name}: gross energy, idle power included")


def measured_read(
    joules: Joules, model: CausalModel, warp: Warp, batch: int, nodes: int, prompt: Sequence[int], seconds: float
) -> float | None:
    """Gross joules of one real forward that feeds `nodes` tokens to each of `batch` texts, laws to the host included.

    Each text is `prompt`. The weights are those of `model`, the cache is one of `batch` rows that goes away again.
    """
    shared = CausalModel(model.lm, model.vocabulary, batch)
    sessions = [Session(shared, row) for row in range(batch)]
    feeds = []
    for session in sessions:
        session.open(prompt)
        feeds.append(session.feed(branching(nodes - 1)))

    def read() -> None:  # the same cache places each time, so that the context stays what it is
        for logits in shared.forward([feed for feed in feeds if feed]):
            warp(logits)

    return sustained(joules, read, shared.synchronise, seconds)


def sustained(joules: Joules, step: Callable[[], object], wait: Callable[[], None], seconds: float) -> float | None:
    """Joules of one `step`, from a window of about `seconds` filled with steps; one more before it warms up."""
    step()
    wait()
    started = perf_counter()
    step()
    wait()
    times = max(ceil(seconds / max(perf_counter() - started, 1e-9)), 1)

    def work() -> None:
        for _ in range(times):
            step()
        wait()

    total = joules(work)
    return None if total is None else total / times


def _waiter(device: torch.device) -> Callable[[], None]:
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def split_record(found: Split, measured: float | None, reason: str | None) -> Mapping[str, object]:
    """A split as JSON data, with the measured joules of the same forward, or why there are none."""
    tokens = found.batch * found.tokens
    return {
        "batch": found.batch,
        "nodes": found.nodes,
        "tokens_per_text": found.tokens,
        "compute_joules_per_token": found.compute_joules / tokens,
        "memory_joules_per_token": found.memory_joules / tokens,
        "memory_share": found.memory_share,
        "measured_joules_per_token": None if measured is None else measured / tokens,
        "measured_joules_per_token_reason": reason if measured is None else None,
    }
