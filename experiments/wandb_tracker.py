"""The tracker `wandb`: what it may be told, and what happens when Weights & Biases cannot be reached.

Refuses to import wandb, which is done by `experiments/wandb_mirror.py` in a process of its own.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.mirrored import LONGEST_TAG
from experiments.optional import look_for
from experiments.progress import say
from experiments.tracker import Ending, in_a_child
from mtad.errors import UserError
from mtad.folders import find_folder
from mtad.options import one_of

Mode = Literal["online", "offline"]
_failures: dict[WandbTracker, str] = {}  # to send: a sweep waits for a dead network once, not in every cell


@dataclass(frozen=True)
class WandbTracker:
    """One wandb run for each run of ours, under an id that stays the same; see conf/tracker/wandb.yaml."""

    mode: Mode = "online"
    project: str = "mtad-bench"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    dir: str | None = None
    timeout: float = 60.0

    def __post_init__(self) -> None:
        one_of("mode", self.mode, Mode)
        if not self.timeout > 0:
            raise UserError(f"timeout must be > 0, not {self.timeout}")
        if not self.project:
            raise UserError("project must name a project of wandb")
        if wrong := [tag for tag in self.tags if not 1 <= len(tag) <= LONGEST_TAG]:
            raise UserError(f"tags must have 1 to {LONGEST_TAG} characters, unlike {wrong[0]!r}")

    def check(self) -> None:
        look_for("wandb", "wandb")

    def mirror(self, run: Path, results: Path, experiment: str | None) -> None:
        failure = _failures.get(self)
        if self.mode == "online" and failure is None:
            sent = self._send(run, results, experiment, "online")
            if sent.failure is None:
                say(f"wandb: {_said(sent)}")
                return
            failure = _failures[self] = sent.failure
        kept = self._send(run, results, experiment, "offline")
        unsent = f"not sent ({failure}); " if failure else ""
        outcome = f"failed ({kept.failure}); the results are not touched by that" if kept.failure else _said(kept)
        say(f"wandb: {unsent}{outcome}")

    def _send(self, run: Path, results: Path, experiment: str | None, mode: Mode) -> Ending:
        request = {
            **asdict(self),
            "run": str(run.resolve()),
            "dir": str((find_folder(self.dir) if self.dir else results).resolve()),
            "group": self.group or experiment,
            "mode": mode,
        }
        return in_a_child("experiments.wandb_mirror", json.dumps(request), self.timeout)


def _said(ending: Ending) -> Any:
    """What the child says of its work: its last line."""
    return ending.output.strip().rpartition("\n")[2]
