"""Tensor parallel: the processes that torchrun starts share every layer of the target, and one of them leads.

The first process does all that a run does; what it asks of the shared model it tells the others, which do nothing but
the same forward beside it. So nothing of a run, its clock, its files, its randomness, need agree between processes.
What is told goes over gloo, a few hundred microseconds a forward; what a forward exchanges goes between the devices.

Knows processes and calls by name; the sharing of the layers themselves is transformers'.
"""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from mtad.errors import UserError
from mtad.meter.visible import torch_uuids

FRAME_BYTES = 4096  # of a message, told in one go; a longer one takes two
LONGEST_SILENCE = timedelta(days=30)  # the leader may grade, tune or wait for as long as it likes
GRACE_SECONDS = 20.0  # for the leader to end by itself, where a signal asks all processes to


T = TypeVar("T")


class Team:
    """The processes of this torchrun, as far as one of them knows.

    Attributes:
        size: how many; 1 without torchrun, and until they have met.
        uuids: of the other processes' GPUs, as torch calls them; known once the team has met.
        pids: their numbers.
    """

    def __init__(self) -> None:
        self.size = 1
        self.uuids: tuple[str, ...] = ()
        self.pids: tuple[int, ...] = ()
        self._telling = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """The leader's part: within, it may tell; afterwards `follow` of the others ends. Raises UserError as `_meet`.

        The cells of a sweep enter it one after the other, and the others follow as often.
        """
        if started() < 2:
            yield
            return
        if self.size < started():
            self._meet(started())
        try:
            yield
        except Exception:
            if self._telling:  # the others wait in the middle of a forward, and no cell could ask them for another
                traceback.print_exc()
                sys.exit(1)
            raise
        finally:
            if not self._telling:
                self.tell(None)

    def follow(self, handle: Callable[[Any], None]) -> None:
        """The others' part: do what the leader tells, until it says no more; a failure of either ends the process."""
        _end_after_grace()
        try:
            if self.size == 1:
                self._meet(started())
        except UserError:
            sys.exit(1)  # the leader finds the same, and says so
        try:
            while (message := self._hear()) is not None:
                handle(message)
        except Exception as error:  # of any class: the leader waits for this part, so nothing goes on without it
            atexit.unregister(self._part)
            if "onnection" not in str(error):  # gloo's words for a leader that is gone
                traceback.print_exc()
            sys.exit(1)

    def tell(self, message: object) -> None:
        """Give a message, which pickle must know, to all others; the leader calls this."""
        data = np.frombuffer(pickle.dumps(message), dtype=np.uint8)
        frame = np.zeros(max(FRAME_BYTES, len(data) + 8), dtype=np.uint8)
        frame[:8] = np.array([len(data)], dtype=np.int64).view(np.uint8)
        frame[8 : 8 + len(data)] = data
        dist.broadcast(torch.from_numpy(frame[:FRAME_BYTES]), 0)
        if len(frame) > FRAME_BYTES:
            dist.broadcast(torch.from_numpy(frame[FRAME_BYTES:]), 0)

    def gather(self, value: T) -> list[T]:
        """What every process gives, in the order of ranks; all of them call this."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    @contextmanager
    def telling(self, message: object) -> Iterator[None]:
        """Tell, and do the same within; told within, nothing more is said."""
        if self._telling:
            yield
            return
        self._telling = True  # stays so if the work within fails
        self.tell(message)
        yield
        self._telling = False

    def _hear(self) -> Any:
        frame = torch.zeros(FRAME_BYTES, dtype=torch.uint8)
        dist.broadcast(frame, 0)
        length = 8 + int(frame[:8].view(torch.int64))
        if length > FRAME_BYTES:
            rest = torch.zeros(length - FRAME_BYTES, dtype=torch.uint8)
            dist.broadcast(rest, 0)
            frame = torch.cat([frame, rest])
        return pickle.loads(frame[8:length].numpy().tobytes())

    def _meet(self, size: int) -> None:
        """Once, all of them. Raises UserError on several machines, and where there are too few GPUs."""
        if int(os.environ.get("LOCAL_WORLD_SIZE", size)) != size:
            raise UserError("tensor parallel works within one machine: start all processes of torchrun on one node")
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if 0 < gpus < size:
            raise UserError(f"torchrun has started {size} processes for {gpus} GPUs: --nproc_per_node={gpus}")
        if gpus:
            torch.cuda.set_device(local_rank())
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=LONGEST_SILENCE)
        atexit.register(self._part)
        self.size = size
        others = [one for rank, one in enumerate(self.gather(_self())) if rank != dist.get_rank()]
        self.uuids = tuple(uuid for uuids, _ in others for uuid in uuids)
        self.pids = tuple(pid for _, pid in others)

    def _part(self) -> None:
        """At the end of the process; one that breaks off in the middle of a forward leaves the others to torchrun."""
        if not self._telling:
            dist.destroy_process_group()


def _self() -> tuple[tuple[str, ...], int]:
    """The UUID of this process's GPU, if there is one, and the number of the process."""
    return torch_uuids(own_device("cuda" if torch.cuda.is_available() else "cpu")), os.getpid()


team = Team()


def started() -> int:
    """How many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_follower() -> bool:
    """Whether torchrun started this process beside the one that leads."""
    return started() > 1 and int(os.environ.get("RANK", 0)) > 0


def local_rank() -> int:
    """Which of this machine's processes this is."""
    return int(os.environ.get("LOCAL_RANK", 0))


def own_device(kind: str) -> torch.device:
    """The device of this kind that is this process's part."""
    return torch.device(kind, local_rank()) if kind == "cuda" else torch.device(kind)


def _end_after_grace() -> None:
    """A signal to all processes reaches the leader too, which ends in good order and needs the others for that."""

    def later(*_: object) -> None:
        timer = threading.Timer(GRACE_SECONDS, os._exit, (1,))
        timer.daemon = True
        timer.start()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, later)
