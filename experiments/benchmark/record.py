"""bench-<device>.json and the page beside it, written after every section, so that a kill loses one section at most.

A record goes on only where code, machine and settings are the same: figures of one file belong together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.benchmark.estimates import judged
from experiments.benchmark.options import Aim
from experiments.benchmark.page import page
from experiments.journal import disk, replace
from experiments.progress import say
from experiments.redact import redact
from mtad.errors import UserError

SAME = ("code", "machine", "packages", "torch_threads", "device")  # of the hardware, in figures that belong together


class Record:
    """The benchmark's figures, by pair and section."""

    def __init__(
        self, folder: Path, device: str, head: Mapping[str, Any], aims: Sequence[Aim] = (), fresh: bool = False
    ) -> None:
        """Begin, or go on with what is there and of the same settings, code and machine. Raises UserError.

        Args:
            head: what stands above the figures: hardware, command, started, settings.
        """
        self.aims = aims
        self.json, self.page = (folder / f"bench-{device}.{end}" for end in ("json", "md"))
        self.content: dict[str, Any] = {"schema_version": 1, **redact(dict(head)), "verdicts": {}, "pairs": {}}
        before = {} if fresh else self._before()
        if before and (other := self._differs(before)):
            say(f"{self.json} is of other {other}: it is made anew")
        elif before:
            self.content["pairs"] = before["pairs"]
        with disk("write to", folder):
            folder.mkdir(parents=True, exist_ok=True)

    def _before(self) -> dict[str, Any]:
        """What is there. Raises UserError."""
        try:
            with disk("read", self.json):
                found = json.loads(self.json.read_bytes()) if self.json.exists() else {}
        except ValueError:
            found = None
        if not isinstance(found, dict) or (found and not found.keys() >= self.content.keys()):
            raise UserError(f"{self.json} is no record of the benchmark; delete it, or name another folder by --out")
        return found

    def _differs(self, before: Mapping[str, Any]) -> str | None:
        """In what the record that is there is another one; None if it can go on."""
        if before["settings"] != json.loads(json.dumps(self.content["settings"])):
            return "settings"
        here, there = self.content["hardware"], before["hardware"]
        return next((key for key in SAME if here.get(key) != there.get(key)), None)

    def has(self, pair: str, section: str) -> bool:
        """Whether a section was measured already."""
        return section in self.content["pairs"].get(pair, {})

    def add(self, pair: str, section: str, found: Mapping[str, Any]) -> None:
        """Keep a section, and write both files."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        self.content["pairs"].setdefault(pair, {})[section] = {"finished": when, **redact(dict(found))}
        self.write()

    def write(self) -> None:
        """Both files, each in one step."""
        pairs = self.content["pairs"]
        self.content["verdicts"] = {name: judged(self.aims, sections) for name, sections in pairs.items()}
        text = json.dumps(self.content, indent=1, ensure_ascii=False, allow_nan=False)
        replace(self.json, text + "\n")
        replace(self.page, page(json.loads(text)))  # of what the file says, and nothing else
