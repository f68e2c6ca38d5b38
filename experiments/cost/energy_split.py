"""Joules of a read as compute plus memory access, by the number of texts that share it, as in the paper's table 2.

    joules = FLOPs x J/FLOP + bytes x J/byte + idle watts x seconds

The prices are published figures, which cover arithmetic and memory cells and nothing of what else draws power
(instructions, caches, clocks, leakage, idling). Those of arithmetic are of 45 nm and far too high for the tensor cores
of today: an H200's whole board draws 700 W at 990 TFLOP/s in 16 bits, 0.71 pJ a FLOP, and they say 0.75 for arithmetic
alone. So nobody knows whether the sum is too high or too low, and the split leans to compute.

Where a meter reads the device, the prices are calibrated instead by a large matrix product and a large copy on it,
above what it draws when idle, and real reads are measured beside; idling is then the third term. Every figure is
labelled with the prices it was made with.

Knows models and FLOPs; refuses to know how joules are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from time import perf_counter, sleep

import torch

from experiments.cost.arithmetic import Arithmetic
from experiments.cost.reads import branching
from mtad.law import Warp
from mtad.meter.device import UnreadableError
from mtad.model import CausalModel
from mtad.session import Session

# The calibrating loads by type of device: the side of a square matrix, and the bytes that are copied, far more than its
# caches hold.
MATRIX = {"cuda": 8192, "cpu": 2048}
COPIED_BYTES = {"cuda": 2**31, "cpu": 2**28}
PAUSE_SECONDS = 5.0  # before idling is measured, so that the clocks have fallen; no longer than the window


@dataclass(frozen=True)
class Spent:
    """Gross energy of the device, and the seconds that it belongs to."""

    joules: float
    seconds: float


# A meter as this module needs it: what is spent while the work runs. Raises UnreadableError with the reason.
Measure = Callable[[Callable[[], None]], Spent]


@dataclass(frozen=True)
class Prices:
    """What computing and moving cost.

    Attributes:
        idle_watts: what the device draws when it does neither; None if that is not known.
        source: where the numbers come from.
    """

    joules_per_flop: float
    joules_per_byte: float
    idle_watts: float | None
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
        """Compute and memory together, without idling."""
        return (self.compute_joules + self.memory_joules) / (self.batch * self.tokens)

    @property
    def memory_share(self) -> float:
        """Of these two."""
        return self.memory_joules / (self.compute_joules + self.memory_joules)


_HOROWITZ = 'Horowitz, "Computing\'s energy problem (and what we can do about it)", ISSCC 2014, 45 nm'
_OCONNOR = 'O\'Connor et al., "Fine-Grained DRAM", MICRO 2017: HBM2 3.92 pJ/bit'
# A multiplication and an addition, two FLOPs: 3.7 + 0.9 pJ in 32 bits, 1.1 + 0.4 pJ in 16 bits.
_FLOP_PICOJOULES = {4: (3.7 + 0.9) / 2, 2: (1.1 + 0.4) / 2}
_DRAM_PICOJOULES = 1950 / 8  # a byte: the middle of 1.3 to 2.6 nJ for 64 bits
_HBM_PICOJOULES = 3.92 * 8
_DOUBT = "too high for tensor cores, so the split leans to compute; the sign of the sum's error is unknown"


def published_prices(device: torch.device, number_bytes: int) -> Prices:
    """For numbers of 2 or 4 bytes, on a GPU with stacked memory or a CPU with DRAM modules."""
    flop = _FLOP_PICOJOULES[number_bytes] * 1e-12
    if device.type == "cuda":
        return Prices(
            flop, _HBM_PICOJOULES * 1e-12, None, f"modelled: arithmetic by {_HOROWITZ}, {_DOUBT}; memory by {_OCONNOR}"
        )
    memory = "1.3 to 2.6 nJ for 64 bits of memory"
    doubt = "idling and all else left out, so the sign of the sum's error is unknown"
    return Prices(flop, _DRAM_PICOJOULES * 1e-12, None, f"modelled: arithmetic, and {memory}, by {_HOROWITZ}; {doubt}")


def split(model: Arithmetic, prices: Prices, batch: int, nodes: float, context: float, tokens: float) -> Split:
    """One forward that feeds `nodes` tokens to each of `batch` texts, which brings `tokens` new ones to each."""
    return Split(
        batch,
        nodes,
        tokens,
        compute_joules=model.flops(nodes, context, batch) * prices.joules_per_flop,
        memory_joules=model.bytes(nodes, context, batch) * prices.joules_per_byte,
    )


def calibrate(measure: Measure, device: torch.device, dtype: torch.dtype, seconds: float, name: str) -> Prices:
    """Prices from idling and two loads of `seconds` each, solved together, since a matrix product moves bytes too.

    Numbers are random: moving and multiplying zeros switches few wires, and is cheaper.

    Args:
        name: of the device, for the label.

    Raises:
        UnreadableError: the meter cannot tell, or gives prices that are not positive.
    """
    sleep(min(PAUSE_SECONDS, seconds))
    idle = measure(lambda: sleep(seconds))
    idle_watts = idle.joules / idle.seconds
    side, copied = MATRIX[device.type], COPIED_BYTES[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(a)
    source = torch.randn(copied // dtype.itemsize, device=device, dtype=dtype)
    copy = torch.empty_like(source)
    wait = _waiter(device)
    one_product = sustained(measure, lambda: torch.mm(a, b, out=product), wait, seconds)
    one_copy = sustained(measure, lambda: copy.copy_(source), wait, seconds)
    return solve(idle_watts, one_product, 2 * side**3, 3 * side**2 * dtype.itemsize, one_copy, 2 * copied, name)


def solve(
    idle_watts: float,
    product: Spent,
    product_flops: float,
    product_bytes: float,
    copy: Spent,
    copy_bytes: float,
    name: str,
) -> Prices:
    """The prices at which both loads cost what was measured above idling.

    Raises:
        UnreadableError: a price is not positive.
    """
    joules_per_byte = (copy.joules - idle_watts * copy.seconds) / copy_bytes
    above_idle = product.joules - idle_watts * product.seconds
    joules_per_flop = (above_idle - product_bytes * joules_per_byte) / product_flops
    if joules_per_byte <= 0 or joules_per_flop <= 0:
        raise UnreadableError(
            f"calibration gave {joules_per_flop:.2g} J a FLOP and {joules_per_byte:.2g} J a byte, which cannot be"
        )
    source = f"calibrated on {name}: random numbers multiplied and copied, above {idle_watts:.3g} W when idle"
    return Prices(joules_per_flop, joules_per_byte, idle_watts, source)


def measured_read(
    measure: Measure, model: CausalModel, warp: Warp, batch: int, nodes: int, prompt: Sequence[int], seconds: float
) -> Spent:
    """What one real forward spends that feeds `nodes` tokens to each of `batch` texts, laws to the host included.

    Each text is `prompt`. The weights are those of `model`, the cache is one of `batch` rows that goes away again.

    Raises:
        UnreadableError: the meter cannot tell.
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

    return sustained(measure, read, shared.synchronise, seconds)


def sustained(measure: Measure, step: Callable[[], object], wait: Callable[[], None], seconds: float) -> Spent:
    """What one `step` spends, from a window of about `seconds` filled with steps; one more before it warms up."""
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

    total = measure(work)
    return Spent(total.joules / times, total.seconds / times)


def _waiter(device: torch.device) -> Callable[[], None]:
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def split_record(
    found: Split, prices: Prices, measured_nodes: int, measured: Spent | None, reason: str | None
) -> Mapping[str, object]:
    """A split as JSON data, with what a real forward of `measured_nodes` a text spends, or why that is not known."""
    tokens = found.batch * found.tokens
    idle = prices.idle_watts * measured.seconds / tokens if measured and prices.idle_watts is not None else None
    return {
        "batch": found.batch,
        "nodes": found.nodes,
        "tokens_per_text": found.tokens,
        "compute_joules_per_token": found.compute_joules / tokens,
        "memory_joules_per_token": found.memory_joules / tokens,
        "memory_share": found.memory_share,
        "idle_joules_per_token": idle,
        "idle_joules_per_token_reason": None if idle is not None else reason or "the prices know no idle power",
        "measured_nodes": measured_nodes if measured else None,
        "measured_joules_per_token": measured.joules / tokens if measured else None,
        "measured_joules_per_token_reason": reason,
    }
