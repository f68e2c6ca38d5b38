"""What the meter asks of a device, GPU or CPU package, and how a device says that it cannot answer."""

from __future__ import annotations

from typing import Any, Literal, Protocol

Kind = Literal["gpu", "cpu"]


class UnreadableError(Exception):
    """A device gives no figure; the message is the reason, in words for the record."""


class UnsupportedError(UnreadableError):
    """A device has no such sensor at all, so that another one may take its place."""


class Device(Protocol):
    """One device with an energy counter, a power reading, or both. Every method may raise UnreadableError.

    Attributes:
        uuid: the name that stays, whatever order devices are listed in; a CPU package's is that of one
            on every machine, a GPU's is its own.
        name: the model.
        shared: other work than ours counts too, whatever we do: a GPU cut into MIG slices, a CPU package.
        counter: what its energy counter is called in records.
        power: what its power reading is, "instant" or "average" over about a second; None if it has none, or if nobody
            says which.
    """

    uuid: str
    name: str
    kind: Kind
    shared: bool
    counter: str
    power: Literal["instant", "average"] | None

    def joules(self) -> float:
        """The energy counter; only differences mean something."""

    def watts(self) -> float:
        """The power now."""

    def state(self) -> dict[str, Any]:
        """Temperature, clocks and clock events, as JSON data; what cannot be read is None, with `<name>_reason`."""

    def describe(self) -> dict[str, Any]:
        """What else the device is, as JSON data; what cannot be read is None, with `<name>_reason`."""
