"""A training document: pieces of text, each either to be learned or mostly context."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """A piece of a document; ``learned`` text carries the full training loss, other text a small weight."""

    text: str
    learned: bool


@dataclass(frozen=True)
class Document:
    """One training document of a task (``sql``, ``arithmetic`` or ``code``)."""

    task: str
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The whole document as one string."""
        return "".join(segment.text for segment in self.segments)
