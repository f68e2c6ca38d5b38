"""How many threads of the processor torch computes with.

Torch starts one for every core of the machine, whatever share of it the process may use: in a container with the time
of 2 cores on a machine of 64 that is many times slower. So its own choice is cut to what the process may use, unless
the user has said otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache

import torch

from experiments.environment import allowed_cores, cgroup_quota

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # torch itself goes by them


def set_threads(asked: int | None) -> None:
    """Let torch use `asked` threads from now on, or, for None, as many as `sensible` finds."""
    own = _own()
    torch.set_num_threads(asked or sensible(own, len(allowed_cores()), cgroup_quota()[0], os.environ))


def sensible(own: int, cores: int, quota: float | None, variables: Mapping[str, str]) -> int:
    """Torch's own number, within the cores that the process may run on and the time of cores that its cgroups give.

    A quota's fraction is left out: threads wait for each other, so that one held back holds back all. Where the user
    has set one of `VARIABLES`, torch's own number stands, since it is the user's.
    """
    if any(variables.get(name) for name in VARIABLES):
        return own
    return max(1, min(own, cores, int(quota) if quota is not None else own))


@cache
def _own() -> int:
    """The number before this module changed it: that of the first run of a process must not become the second's."""
    return torch.get_num_threads()
