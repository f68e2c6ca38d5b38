"""Laws one below the other, as a session's reads bring them."""

from __future__ import annotations

import numpy as np

from mtad.law import Law


def stacked(held: Law, rows: int, law: Law) -> Law:
    """The first `rows` rows of `held`, at least one, and then those of `law`.

    Arrays grow by doubling and in place, so that many short reads of a large vocabulary are not copied again and again:
    `held` is not to be used after that.
    """
    if held.short is not None and law.short is not None:
        return Law.of_rows(held.short + law.short)
    end, width = rows + len(law), max(law.logp.shape[1], held.logp.shape[1])
    logp, ids = held.logp, held.ids
    if end > len(logp) or width > logp.shape[1]:
        shape = max(end, 2 * len(logp)), width
        logp = np.full(shape, -np.inf)
        logp[:rows, : held.logp.shape[1]] = held.logp[:rows]
        if held.ids is not None:
            ids = np.full(shape, np.iinfo(np.int64).max)
            ids[:rows, : held.ids.shape[1]] = held.ids[:rows]
    logp[rows:end] = -np.inf
    logp[rows:end, : law.logp.shape[1]] = law.logp
    if ids is not None and law.ids is not None:
        ids[rows:end] = np.iinfo(np.int64).max
        ids[rows:end, : law.ids.shape[1]] = law.ids
    return Law(ids, logp)
