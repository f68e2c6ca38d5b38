"""What a request of lm-eval asks of an answer (`generation_kwargs`), read as lm-eval reads it and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.optional import need
from mtad.errors import UserError, first_line


def read_wishes(asked: Mapping[str, Any], longest: int) -> tuple[int, tuple[str, ...], dict[str, Any]]:
    """Longest answer in tokens, stop strings, and the rest, `do_sample` among it. Raises UserError.

    Args:
        longest: tokens, where nothing is said of it.
    """
    utils = need("lm_eval.models.utils", "tasks")
    try:
        wishes = dict(utils.normalize_gen_kwargs(dict(asked), longest))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"generation_kwargs {dict(asked)}: {first_line(error)}") from None
    tokens, stop = wishes.pop("max_gen_toks"), [string for string in wishes.pop("until") if string]
    if tokens < 1:
        raise UserError(f"generation_kwargs: max_gen_toks must be at least 1, not {tokens}")
    if wrong := [string for string in stop if not isinstance(string, str)]:
        raise UserError(f"generation_kwargs: until takes strings, not {wrong[0]!r}")
    return tokens, tuple(stop), wishes
