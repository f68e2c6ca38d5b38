"""One device over one window, on a thread of its own: energy counter, power trace, and the state once a second.

The counter is refreshed about every 100 ms, so a reading may be that old. But the moment of a refresh can be seen: the
thread polls until the counter moves, at the start before the work begins, at the end after it is done. Both readings
then belong to known times, and their span holds the work and at most two refreshes of idling around it. A failure of a
device stays in its thread, as a reason. Where there is no counter, the trace takes its place if it is dense enough and
covers the work.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from time import perf_counter, sleep
from typing import Any

import numpy as np

from mtad.errors import first_line
from mtad.meter.device import Device, Kind, UnreadableError, UnsupportedError

TICK_SECONDS = 1.0  # a counter that does not move for so long stands still
POLL_SECONDS = 0.001
STATE_SECONDS = 1.0
LEAST_HERTZ = 10.0  # a trace with fewer readings a second is no measure of joules, nor one with a gap:
GAP_SECONDS = 0.5
HASTE = 0.9  # of the period asked for, so that readings which come late do not thin the trace below what was asked
DISAGREEMENT = 0.05  # of counter and trace, from which on it is flagged


@dataclass(frozen=True)
class Edge:
    """The counter just after a refresh: time of `perf_counter` (that of its answer), joules."""

    seconds: float
    joules: float


@dataclass(frozen=True)
class Reading:
    """What one device drew in a window, as it goes into the record.

    Attributes:
        shared: other work counts too: the device is a whole GPU of which MIG slices are in use, or a CPU package.
        joules: null where anything was wrong with them; `joules_reason` says what.
        method: the energy counter, or "nvml_power_trace" where that is missing; then `method_reason` says why.
        seconds: the span that `joules` belong to, from refresh to refresh of the counter. It holds the work.
        lead_seconds: how long before the work that span begins.
        trace: [seconds since the start of that span, watts]; `power` says what kind of reading.
        trace_joules: its integral over the span: the same sensor, so a check of our code and not of the sensor. Null,
            with `trace_reason`, where the trace is thinner than 10 Hz, has a gap of over 0.5 s, or is too short.
        disagreement: counter over trace, minus 1; `disagrees` from 5 % on.
        states: temperature, clocks and clock events, once a second.
    """

    uuid: str
    kind: Kind
    name: str
    shared: bool
    joules: float | None
    joules_reason: str | None
    method: str | None
    method_reason: str | None
    seconds: float | None
    lead_seconds: float | None
    power: str | None
    trace: list[list[float]]
    trace_hertz: float | None
    trace_joules: float | None
    trace_reason: str | None
    disagreement: float | None
    disagrees: bool
    states: list[dict[str, Any]]


class Watch(threading.Thread):
    """Begins with `start`; `ready` is set when the work may begin; `finish`, `join`, then `reading`."""

    def __init__(self, device: Device, hertz: float) -> None:
        super().__init__(daemon=True, name=f"meter {device.uuid}")
        self.device = device
        self.ready = threading.Event()
        self._finish = threading.Event()
        self._period = HASTE / hertz
        self._next = self._next_state = 0.0
        self._last: float | None = None  # of the counter, joules
        self._edges: list[Edge] = []
        self._trace: list[tuple[float, float]] = []
        self._states: list[dict[str, Any]] = []
        self._failure: str | None = None  # why there are no joules at all
        self._counter_reason: str | None = None  # why the counter is of no use, though the trace may be
        self._trace_reason: str | None = None

    def run(self) -> None:
        """The window, from its first refresh to its last."""
        try:
            self._sample()  # so that the trace covers the start
            self._edge()
            self.ready.set()
            while not self._finish.wait(max(0.0, self._next - perf_counter())):
                self._sample()
            self._edge()
            self._next = 0.0
            self._sample()  # so that the trace covers the end
        except UnreadableError as error:
            self._failure = str(error)
        except Exception as error:  # of any kind: half a window must not pass for a whole one
            self._failure = f"reading it ended in {type(error).__name__}: {first_line(error)}"
        finally:
            self.ready.set()

    def finish(self) -> None:
        """The work is done."""
        self._finish.set()

    def _edge(self) -> None:
        """Wait for a refresh of the counter; without one the counter is given up, and the trace goes on."""
        first, deadline = self._counter(), perf_counter() + TICK_SECONDS
        while self._counter_reason is None and perf_counter() < deadline:
            value = self._counter()
            if value is not None and value != first:
                self._edges.append(Edge(perf_counter(), value))
                break
            self._sample_power()  # and no more: a slow driver would let the refresh pass
            sleep(POLL_SECONDS)
        else:
            self._counter_reason = self._counter_reason or f"the energy counter stood still for {TICK_SECONDS:g} s"

    def _counter(self) -> float | None:
        """Joules; None if the device has no counter. Raises UnreadableError if it cannot be read, or has gone back."""
        try:
            value = self.device.joules()
        except UnsupportedError as error:
            self._counter_reason = str(error)
            return None
        before, self._last = self._last, value
        if before is not None and value < before:
            raise UnreadableError(f"the energy counter was reset: from {before:.3f} J to {value:.3f} J")
        return value

    def _sample(self) -> None:
        """Power, counter and state, as far as they are due."""
        self._sample_power()
        if self._counter_reason is None:
            self._counter()  # so that no reset and no wrap goes unseen
        now = perf_counter()
        if now >= self._next_state:
            self._next_state = now + STATE_SECONDS
            self._states.append({"seconds": now, **self.device.state()})

    def _sample_power(self) -> None:
        now = perf_counter()
        if now < self._next:
            return
        self._next = now + self._period
        if self._trace_reason is None:
            try:
                watts = self.device.watts()
                self._trace.append(((now + perf_counter()) / 2, watts))
            except UnreadableError as error:
                self._trace_reason = str(error)

    def reading(self, begun: float, ended: float, silent: str | None = None) -> Reading:
        """The figures of a window whose work took the time from `begun` to `ended`; `silent` if the thread hangs."""
        failure = self._failure or silent
        trace, counted = list(self._trace), self._counter_reason is None and len(self._edges) == 2
        start, end = (edge.seconds for edge in self._edges) if counted else (begun, ended)
        trace_reason = self._trace_reason or failure or thinness(trace, start, end)
        trace_joules = None if trace_reason else integral(trace, start, end)
        counter_joules = self._edges[1].joules - self._edges[0].joules if counted else None
        disagreement = counter_joules / trace_joules - 1 if counter_joules is not None and trace_joules else None
        failure = failure or self._doubt(counter_joules, trace_joules, trace_reason)
        joules = None if failure else counter_joules if counted else trace_joules
        method = self.device.counter if counted else "nvml_power_trace"
        span = trace[-1][0] - trace[0][0] if len(trace) > 1 else 0.0
        return Reading(
            uuid=self.device.uuid,
            kind=self.device.kind,
            name=self.device.name,
            shared=self.device.shared,
            joules=joules,
            joules_reason=failure,
            method=None if failure else method,
            method_reason=None if failure else self._counter_reason,
            seconds=None if failure else end - start,
            lead_seconds=None if failure else begun - start,
            power=self.device.power,
            trace=[[round(seconds - start, 4), round(watts, 3)] for seconds, watts in trace],
            trace_hertz=(len(trace) - 1) / span if span else None,
            trace_joules=trace_joules,
            trace_reason=trace_reason,
            disagreement=disagreement,
            disagrees=disagreement is not None and abs(disagreement) > DISAGREEMENT,
            states=[{**state, "seconds": round(state["seconds"] - start, 4)} for state in self._states],
        )

    def _doubt(self, counter: float | None, trace: float | None, trace_reason: str | None) -> str | None:
        """Why joules of the counter and of the trace make no figure; None if one of them does."""
        if counter is None and self._counter_reason is None:
            return "the window was not measured to its end"
        if counter is None and trace is None:
            return f"{self._counter_reason}; and no power trace: {trace_reason}"
        # The mean over a second lags behind; a reading of now does not, and by half it is not off.
        if counter is not None and trace and counter < trace / 2 and self.device.power != "average":
            both = f"{counter:.3f} J, the integral of the power trace {trace:.3f} J"
            return f"the energy counter gave far too little: {both}"
        return None


def thinness(trace: list[tuple[float, float]], start: float, end: float) -> str | None:
    """Why the joules of a span cannot be told from a trace of (seconds, watts); None if they can."""
    if len(trace) < 2:
        return "too few readings"
    seconds = np.array(trace)[:, 0]
    if seconds[0] > start or seconds[-1] < end:
        return "its readings do not cover the span"
    gaps = np.diff(seconds)[(seconds[1:] > start) & (seconds[:-1] < end)]
    hertz, widest = len(gaps) / gaps.sum(), gaps.max()
    if hertz < LEAST_HERTZ or widest > GAP_SECONDS:
        return f"its readings are too few: {hertz:.1f} a second, and up to {widest:.2f} s apart"
    return None


def integral(trace: list[tuple[float, float]], start: float, end: float) -> float | None:
    """Joules of a trace of (seconds, watts) by the trapezoid rule; None if it has fewer than two readings."""
    if len(trace) < 2:
        return None
    seconds, watts = np.array(trace).T
    inside = (seconds > start) & (seconds < end)
    times = np.concatenate([[start], seconds[inside], [end]])
    return float(np.trapezoid(np.interp(times, seconds, watts), times))
