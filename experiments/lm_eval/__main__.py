"""lm-eval's own command line, knowing our decoders: `python -m experiments.lm_eval --model mtad --tasks ...`."""

from __future__ import annotations

import sys

from experiments.optional import need
from mtad.errors import UserError


def main() -> None:
    """Register the decoders, then do what lm-eval does; a user's mistake with them is one line, not a traceback."""
    try:
        cli = need("lm_eval.__main__", "tasks")
        from experiments.lm_eval.model import register  # torch takes seconds

        register()
        cli.cli_evaluate()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
