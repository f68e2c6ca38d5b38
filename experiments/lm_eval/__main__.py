"""lm-eval's own command line, knowing our decoders: `python -m experiments.lm_eval --model mtad --tasks ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable

from experiments.optional import need
from mtad.errors import UserError, first_line


def main() -> None:
    """Register the decoders, then do what lm-eval does; a user's mistake with them is one line, not a traceback."""
    try:
        cli = need("lm_eval.__main__", "tasks")
        from experiments.lm_eval.model import register  # torch takes seconds

        register()
        _run(cli.cli_evaluate)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _run(evaluate: Callable[[], None]) -> None:
    """lm-eval, with what a user can mend as UserError."""
    try:
        evaluate()
    except OSError as error:
        from experiments.dataset.hub import cache_fault

        if fault := cache_fault():
            raise UserError(fault) from error
        raise
    except ValueError as error:
        if "no model for this name" not in str(error):
            raise
        raise UserError(first_line(error)) from error


if __name__ == "__main__":
    main()
