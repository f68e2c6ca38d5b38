"""Cells of a sweep: one that fails by its user's mistake says so in one line, and the others go on.

Hydra goes on after an exception in a cell and shows the first one at the end, with exit code 1; of its own compact kind
it shows the message alone.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode

from experiments.progress import say


class CellFailedError(CompactHydraException):
    """A cell of a sweep has ended by its user's mistake."""


def failed(mistake: str) -> NoReturn:
    """End a run, or a cell of a sweep, by a mistake of the user's."""
    message = f"error: {mistake}"
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        sys.exit(message)
    say(message)
    raise CellFailedError(message)
